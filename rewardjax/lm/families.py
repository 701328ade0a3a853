"""Reading a model's description: Hugging Face `config.json` or GGUF metadata → `LMConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rewardjax.errors import RewardJaxError, short
from rewardjax.lm import gemma3
from rewardjax.lm.checks import ROPE_NUMBERS, check_config, depth, flag, mapping, real, whole
from rewardjax.lm.config import LMConfig, RopeScaling, freeze
from rewardjax.lm.rope import ROPE_TYPES

SUPPORTED = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma3_text")
SUPPORTED_GGUF = ("gpt2", "llama", "gemma3")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Values that transformers assumes when an old config.json leaves them out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": None, "sliding_window": None},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "sliding_window": 4096, "head_dim": 128},
}


def config_from_hf(values: Mapping[str, Any]) -> LMConfig:
    """See `LMConfig.from_hf`."""
    kind = values.get("model_type")
    if kind == "gemma3":
        raise RewardJaxError(
            "model_type 'gemma3' is the multimodal Gemma 3, which is not supported: expected its "
            "text model, gemma3_text (270M and 1B are such; save the language model alone)"
        )
    if kind not in SUPPORTED:
        named = values.get("architectures")
        name = named[0] if isinstance(named, list) and named else kind
        raise RewardJaxError(
            f"architecture {short(name)} (model_type {short(kind)}) is not supported: "
            f"expected one of {', '.join(SUPPORTED)}"
        )
    if values.get("quantization_config"):
        raise RewardJaxError("quantised safetensors are not supported: use float weights or a GGUF")
    try:
        return check_config(_READERS.get(str(kind), _llama_like)(values))
    except KeyError as error:
        raise RewardJaxError(f"config.json of a {kind} model lacks {error.args[0]!r}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RewardJaxError(f"config.json of a {kind} model has a bad value: {error}") from None


def _gpt2(c: Mapping[str, Any]) -> LMConfig:
    for name, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if c.get(name, wanted) != wanted:
            raise RewardJaxError(f"GPT-2 option {name}={short(c[name])} is not supported")
    d, heads = _whole(c, "n_embd"), _whole(c, "n_head")
    return LMConfig(
        model_type="gpt2",
        vocab_size=_whole(c, "vocab_size"),
        hidden_size=d,
        intermediate_size=_whole(c, "n_inner", 4 * d),
        num_hidden_layers=depth(c["n_layer"]),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=d // heads,
        max_position_embeddings=_whole(c, "n_positions"),
        norm="layer",
        norm_eps=real(c.get("layer_norm_epsilon", 1e-5), "layer_norm_epsilon"),
        activation=_activation(c.get("activation_function", "gelu_new")),
        tie_word_embeddings=_flag(c, "tie_word_embeddings", True),
        bos_token_id=_first(c.get("bos_token_id")),
        eos_token_ids=_ids(c.get("eos_token_id")),
        **_GPT2_SHAPE,
    )


_GPT2_SHAPE: dict[str, Any] = {
    "learned_positions": True,
    "attention_bias": True,
    "attention_out_bias": True,
    "mlp_bias": True,
    "mlp_gated": False,
}


def _gemma3(values: Mapping[str, Any]) -> LMConfig:
    llama, fields = gemma3.llama_fields(values)
    return dataclasses.replace(_llama_like(llama), **fields)


_READERS = {"gpt2": _gpt2, "gemma3_text": _gemma3}


def _llama_like(values: Mapping[str, Any]) -> LMConfig:
    kind = values["model_type"]
    c = {**_DEFAULTS.get(kind, {}), **values}
    d, heads = _whole(c, "hidden_size"), _whole(c, "num_attention_heads")
    layers = depth(c["num_hidden_layers"])
    window, sliding = _sliding(kind, c, layers)
    theta, scaling = _rope(c)
    qkv_bias = kind == "qwen2" or _flag(c, "attention_bias")
    return LMConfig(
        model_type=kind,
        vocab_size=_whole(c, "vocab_size"),
        hidden_size=d,
        intermediate_size=_whole(c, "intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_whole(c, "num_key_value_heads", heads),
        head_dim=_whole(c, "head_dim", d // heads),
        max_position_embeddings=_whole(c, "max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=real(c.get("rms_norm_eps", 1e-6), "rms_norm_eps"),
        activation=_activation(c.get("hidden_act", "silu")),
        attention_bias=qkv_bias,
        attention_out_bias=qkv_bias and kind != "qwen2",
        mlp_bias=_flag(c, "mlp_bias"),
        qk_norm=kind == "qwen3",
        sliding_window=window,
        sliding_layers=sliding,
        tie_word_embeddings=_flag(c, "tie_word_embeddings"),
        bos_token_id=_first(c.get("bos_token_id")),
        eos_token_ids=_ids(c.get("eos_token_id")),
    )


def _sliding(
    kind: str, c: Mapping[str, Any], layers: int
) -> tuple[int | None, tuple[int, ...] | None]:
    if kind == "llama" or not c.get("sliding_window"):
        return None, None
    window = _whole(c, "sliding_window")
    if kind == "mistral":
        return window, None
    if not _flag(c, "use_sliding_window"):
        return None, None
    if c.get("layer_types") is None:
        full = max(0, whole(c.get("max_window_layers", 28), "max_window_layers"))
        sliding = tuple(range(min(full, layers), layers))
    else:
        sliding = gemma3.layers_with_window(c["layer_types"], layers)
    return (window, sliding) if sliding else (None, None)


def _rope(c: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """transformers 5 writes `rope_parameters`; before it, `rope_theta` and `rope_scaling`."""
    rope = mapping(c.get("rope_parameters") or c.get("rope_scaling"), "rope_parameters")
    theta = rope.pop("rope_theta", None) or c.get("rope_theta") or 10000.0
    kind = rope.setdefault("rope_type", rope.pop("type", None) or "default")
    rope.pop("type", None)
    if kind not in ROPE_TYPES:
        raise RewardJaxError(
            f"rope type {short(kind)} is not supported: expected one of {', '.join(ROPE_TYPES[:3])}"
        )
    partial = rope.pop("partial_rotary_factor", None) or c.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise RewardJaxError(
            f"partial_rotary_factor {short(partial)} is not supported: expected 1.0"
        )
    if kind == "default":
        return real(theta, "rope_theta"), None
    numbers = {name: real(rope[name], name) for name in ROPE_NUMBERS.get(kind, ())}
    return real(theta, "rope_theta"), freeze({"rope_type": kind, **numbers})


def config_from_gguf(gguf: Any) -> LMConfig:
    """See `LMConfig.from_gguf`."""
    try:
        return check_config(_from_gguf(gguf))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RewardJaxError(f"{gguf.path}: bad GGUF metadata: {error}") from None
    except RewardJaxError as error:
        raise RewardJaxError(f"{gguf.path}: {error}") from None


def _from_gguf(gguf: Any) -> LMConfig:
    meta = gguf.metadata
    arch = meta.get("general.architecture")
    if arch not in SUPPORTED_GGUF:
        raise RewardJaxError(
            f"GGUF architecture {short(arch)} is not supported: "
            f"expected one of {', '.join(SUPPORTED_GGUF)}"
        )

    def get(name: str, default: Any = KeyError) -> Any:
        value = meta.get(f"{arch}.{name}", default)
        if value is KeyError:
            raise RewardJaxError(f"GGUF metadata lacks {arch}.{name}")
        return value

    def count(name: str, default: Any = KeyError) -> int:
        return whole(get(name, default), name)

    if get("expert_count", 0):
        raise RewardJaxError("mixture-of-experts models are not supported")
    d, heads = count("embedding_length"), count("attention.head_count")
    head_dim = count("attention.key_length", d // heads)
    readers = {"gpt2": _gguf_gpt2, "llama": _gguf_llama, "gemma3": _gguf_gemma3}
    further = readers[arch](gguf, get, head_dim)
    layers, tensors = count("block_count"), gguf.shapes
    if layers > len(tensors):
        raise RewardJaxError(
            f"{layers} layers are claimed, but there are only {len(tensors)} tensors"
        )
    return LMConfig(
        model_type="gemma3_text" if arch == "gemma3" else arch,
        vocab_size=tensors.get("token_embd.weight", (0,))[0],
        hidden_size=d,
        intermediate_size=count("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=count("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=count("context_length"),
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=_first(meta.get("tokenizer.ggml.bos_token_id")),
        eos_token_ids=_ids([meta.get(f"tokenizer.ggml.{n}_token_id") for n in ("eos", "eot")]),
        **further,
    )


def _gguf_gpt2(gguf: Any, get: Any, head_dim: int) -> dict[str, Any]:
    eps = real(get("attention.layer_norm_epsilon"), "attention.layer_norm_epsilon")
    return {**_GPT2_SHAPE, "norm": "layer", "norm_eps": eps, "activation": "gelu_tanh"}


def _gguf_llama(gguf: Any, get: Any, head_dim: int) -> dict[str, Any]:
    if get("rope.dimension_count", head_dim) != head_dim:
        raise RewardJaxError("partial rotary embeddings are not supported")
    scaling, kind = None, get("rope.scaling.type", "none")
    if "rope_freqs.weight" in gguf.shapes:
        # llama.cpp stores Llama-3 scaling as one divisor per frequency.
        factors = [float(f) for f in gguf.read("rope_freqs.weight").ravel()]
        if len(factors) != head_dim // 2:
            raise RewardJaxError(f"rope_freqs has {len(factors)} values, expected {head_dim // 2}")
        scaling = freeze({"rope_type": "factors", "factors": factors})
    elif kind == "linear":
        factor = real(get("rope.scaling.factor"), "rope.scaling.factor")
        scaling = freeze({"rope_type": "linear", "factor": factor})
    elif kind != "none":
        raise RewardJaxError(f"rope scaling {short(kind)} is not supported")
    window = get("attention.sliding_window", None)
    eps = get("attention.layer_norm_rms_epsilon")
    return {
        "norm_eps": real(eps, "attention.layer_norm_rms_epsilon"),
        "rope_theta": real(get("rope.freq_base", 10000.0), "rope.freq_base"),
        "rope_scaling": scaling,
        "sliding_window": whole(window, "attention.sliding_window") if window else None,
        "attention_bias": "blk.0.attn_q.bias" in gguf.shapes,
        "attention_out_bias": "blk.0.attn_output.bias" in gguf.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.shapes,
    }


def _gguf_gemma3(gguf: Any, get: Any, head_dim: int) -> dict[str, Any]:
    fields = gemma3.gguf_fields(get, head_dim)
    theta = real(get("rope.freq_base", gemma3.GLOBAL_THETA), "rope.freq_base")
    return {**_gguf_llama(gguf, get, head_dim), "rope_theta": theta, **fields}


def _whole(c: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A field that must be there, or one that may be missing, null or 0 for the default."""
    return whole(c[name] if default is None else c.get(name) or default, name)


def _flag(c: Mapping[str, Any], name: str, default: bool = False) -> bool:
    return flag(c.get(name, default), name)


def _activation(name: Any) -> str:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise RewardJaxError(
            f"activation {short(name)} is not supported: expected one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(dict.fromkeys(whole(v, "a token id") for v in values if v is not None))


def _first(value: Any) -> int | None:
    ids = _ids(value)
    return ids[0] if ids else None
