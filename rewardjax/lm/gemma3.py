"""Gemma 3 text models: what their descriptions say beyond, or otherwise than, Llama's.

Gemma 3 (arXiv 2503.19786): every sixth layer looks at the whole text, the others at a window, with
a RoPE base of their own; q and k are normed, and so are the outputs of attention and MLP; norms
multiply by 1 + weight; embeddings are scaled by sqrt(hidden_size).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewardjax.errors import RewardJaxError, short
from rewardjax.lm.checks import depth, mapping, real, whole

PATTERN = 6
"""One layer in so many looks at the whole text, where a file does not say otherwise."""
LOCAL_THETA = 10_000.0
GLOBAL_THETA = 1_000_000.0
SHAPE: dict[str, Any] = {
    "qk_norm": True,
    "norm_offset": True,
    "post_norms": True,
    "scale_embeddings": True,
}
_DEFAULTS = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131_072,
}
_LAYER_TYPES = ("sliding_attention", "full_attention")


def llama_fields(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(`config.json` in Llama's words, further fields of the `LMConfig`) of a gemma3_text config.

    The second part overrides what a reader of Llama configs makes of the first. Raises
    RewardJaxError for options that are not supported, KeyError and TypeError for bad values.
    """
    c = {**_DEFAULTS, **values}
    for name in (
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "use_bidirectional_attention",
    ):
        if c.get(name):
            raise RewardJaxError(
                f"Gemma option {name}={short(c[name])} is not supported: expected none"
            )
    rope, local = _ropes(c)
    llama = {**c, "hidden_act": c["hidden_activation"], **rope}
    window, layers = c["sliding_window"], depth(c["num_hidden_layers"])
    if not isinstance(window, int) or window < 1:
        raise RewardJaxError(f"sliding_window is {short(window)}: expected a positive number")
    sliding = _hf_layers(c, layers)
    return llama, {
        **SHAPE,
        "query_pre_attn_scalar": _positive(c["query_pre_attn_scalar"], "query_pre_attn_scalar"),
        **_windows(sliding, window, local),
    }


def _hf_layers(c: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    if c.get("layer_types") is not None:
        return layers_with_window(c["layer_types"], layers)
    # Two spellings: files on the hub have either.
    pattern = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or PATTERN
    return sliding_layers(layers, whole(pattern, "sliding_window_pattern"))


def layers_with_window(types: Any, layers: int) -> tuple[int, ...]:
    """Layers with the window, of `layer_types`. Raises RewardJaxError for any other list."""
    if not isinstance(types, list) or len(types) != layers or not set(types) <= set(_LAYER_TYPES):
        raise RewardJaxError(
            f"layer_types are {short(types)}: expected {layers} of {' or '.join(_LAYER_TYPES)}"
        )
    return tuple(i for i, kind in enumerate(types) if kind == "sliding_attention")


def _ropes(c: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """(RoPE of the full layers as Llama configs spell it, base of the windowed ones).

    transformers 5 writes `rope_parameters` by layer type; before it, `rope_theta`, `rope_scaling`
    (of the full layers) and `rope_local_base_freq`.
    """
    named = mapping(c.get("rope_parameters"), "rope_parameters")
    full = mapping(named.get("full_attention") or c.get("rope_scaling"), "rope_parameters")
    local = mapping(named.get("sliding_attention"), "rope_parameters")
    full.setdefault("rope_theta", c.get("rope_theta") or GLOBAL_THETA)
    theta = local.get("rope_theta") or c.get("rope_local_base_freq") or LOCAL_THETA
    if local.get("rope_type", "default") != "default":
        raise RewardJaxError(
            f"rope type {short(local['rope_type'])} of the sliding layers is not supported: "
            "expected 'default'"
        )
    return {"rope_parameters": full, "rope_scaling": None}, _positive(theta, "rope_local_base_freq")


def gguf_fields(get: Callable[..., Any], head_dim: int) -> dict[str, Any]:
    """Further fields of the `LMConfig`, from the metadata of a `gemma3` GGUF.

    `get(name, default)` reads `gemma3.NAME`. What older files leave out is what llama.cpp assumes.
    """
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if get(name, None):
            raise RewardJaxError(f"Gemma option {name}={short(get(name))} is not supported")
    layers, scalar = depth(get("block_count")), head_dim
    if layers == 62:  # the 27B model alone scales so, and no metadata says it
        scalar = get("embedding_length") / get("attention.head_count")
    window = whole(get("attention.sliding_window", 0) or 0, "attention.sliding_window")
    pattern = get("attention.sliding_window_pattern", PATTERN)
    if isinstance(pattern, list):
        sliding = tuple(i for i, local in enumerate(pattern[:layers]) if local)
    else:
        sliding = sliding_layers(layers, whole(pattern, "attention.sliding_window_pattern"))
    local = _positive(get("rope.freq_base_swa", LOCAL_THETA), "rope.freq_base_swa")
    return {
        **SHAPE,
        "activation": "gelu_tanh",
        "query_pre_attn_scalar": float(scalar),
        **_windows(sliding if window else (), window, local),
    }


def sliding_layers(layers: int, pattern: int) -> tuple[int, ...]:
    """Layers with the window, where each `pattern`-th layer has none."""
    return tuple(i for i in range(layers) if (i + 1) % pattern)


def _windows(sliding: Sequence[int], window: int, local_theta: float) -> dict[str, Any]:
    if not sliding:
        return {"sliding_window": None, "sliding_layers": None, "rope_local_theta": None}
    return {
        "sliding_window": window,
        "sliding_layers": tuple(sliding),
        "rope_local_theta": local_theta,
    }


def _positive(value: Any, name: str) -> float:
    if not real(value, name) > 0:
        raise RewardJaxError(f"{name} is {value}: expected a positive number")
    return float(value)
