"""Reading a model's description: Hugging Face `config.json` or GGUF metadata → `LMConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rewardjax.errors import RewardJaxError
from rewardjax.lm import gemma3
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
            f"architecture {name!r} (model_type {kind!r}) is not supported: "
            f"expected one of {', '.join(SUPPORTED)}"
        )
    if values.get("quantization_config"):
        raise RewardJaxError("quantised safetensors are not supported: use float weights or a GGUF")
    try:
        config = _READERS.get(str(kind), _llama_like)(values)
    except KeyError as error:
        raise RewardJaxError(f"config.json of a {kind} model lacks {error.args[0]!r}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RewardJaxError(f"config.json of a {kind} model has a bad value: {error}") from None
    return _checked(config)


def _gpt2(c: Mapping[str, Any]) -> LMConfig:
    for name, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if c.get(name, wanted) != wanted:
            raise RewardJaxError(f"GPT-2 option {name}={c[name]} is not supported")
    d, heads = int(c["n_embd"]), int(c["n_head"])
    return LMConfig(
        model_type="gpt2",
        vocab_size=int(c["vocab_size"]),
        hidden_size=d,
        intermediate_size=int(c.get("n_inner") or 4 * d),
        num_hidden_layers=int(c["n_layer"]),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=d // heads,
        max_position_embeddings=int(c["n_positions"]),
        norm="layer",
        norm_eps=float(c.get("layer_norm_epsilon", 1e-5)),
        activation=_activation(c.get("activation_function", "gelu_new")),
        tie_word_embeddings=bool(c.get("tie_word_embeddings", True)),
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
    d, heads, depth = int(c["hidden_size"]), int(c["num_attention_heads"]), c["num_hidden_layers"]
    window, sliding = _sliding(kind, c, int(depth))
    theta, scaling = _rope(c)
    qkv_bias = kind == "qwen2" or bool(c.get("attention_bias", False))
    return LMConfig(
        model_type=kind,
        vocab_size=int(c["vocab_size"]),
        hidden_size=d,
        intermediate_size=int(c["intermediate_size"]),
        num_hidden_layers=int(depth),
        num_attention_heads=heads,
        num_key_value_heads=int(c.get("num_key_value_heads") or heads),
        head_dim=int(c.get("head_dim") or d // heads),
        max_position_embeddings=int(c["max_position_embeddings"]),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(c.get("rms_norm_eps", 1e-6)),
        activation=_activation(c.get("hidden_act", "silu")),
        attention_bias=qkv_bias,
        attention_out_bias=qkv_bias and kind != "qwen2",
        mlp_bias=bool(c.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        sliding_window=window,
        sliding_layers=sliding,
        tie_word_embeddings=bool(c.get("tie_word_embeddings", False)),
        bos_token_id=_first(c.get("bos_token_id")),
        eos_token_ids=_ids(c.get("eos_token_id")),
    )


def _sliding(
    kind: str, c: Mapping[str, Any], depth: int
) -> tuple[int | None, tuple[int, ...] | None]:
    window = c.get("sliding_window")
    if kind == "llama" or not window:
        return None, None
    if kind == "mistral":
        return int(window), None
    if not c.get("use_sliding_window", False):
        return None, None
    types = c.get("layer_types")
    if types is None:
        full = int(c.get("max_window_layers", 28))
        types = ["full_attention"] * min(full, depth) + ["sliding_attention"] * (depth - full)
    layers = tuple(i for i, t in enumerate(types) if t == "sliding_attention")
    return (int(window), layers) if layers else (None, None)


def _rope(c: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """transformers 5 writes `rope_parameters`; before it, `rope_theta` and `rope_scaling`."""
    rope = dict(c.get("rope_parameters") or c.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None) or c.get("rope_theta") or 10000.0
    kind = rope.setdefault("rope_type", rope.pop("type", None) or "default")
    rope.pop("type", None)
    if kind not in ROPE_TYPES:
        raise RewardJaxError(
            f"rope type {kind!r} is not supported: expected one of {', '.join(ROPE_TYPES[:3])}"
        )
    partial = rope.pop("partial_rotary_factor", None) or c.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise RewardJaxError(f"partial_rotary_factor {partial} is not supported: expected 1.0")
    if kind == "default":
        return float(theta), None
    needed = ["factor"]
    if kind == "llama3":
        needed += ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
    return float(theta), freeze({"rope_type": kind, **{n: float(rope[n]) for n in needed}})


def config_from_gguf(gguf: Any) -> LMConfig:
    """See `LMConfig.from_gguf`."""
    meta = gguf.metadata
    arch = meta.get("general.architecture")
    if arch not in SUPPORTED_GGUF:
        raise RewardJaxError(
            f"{gguf.path}: GGUF architecture {arch!r} is not supported: "
            f"expected one of {', '.join(SUPPORTED_GGUF)}"
        )

    def get(name: str, default: Any = KeyError) -> Any:
        value = meta.get(f"{arch}.{name}", default)
        if value is KeyError:
            raise RewardJaxError(f"{gguf.path}: GGUF metadata lacks {arch}.{name}")
        return value

    if get("expert_count", 0):
        raise RewardJaxError(f"{gguf.path}: mixture-of-experts models are not supported")
    d, heads = get("embedding_length"), get("attention.head_count")
    embedding = gguf.shapes.get("token_embd.weight", (0,))
    tensors = gguf.shapes
    readers = {"gpt2": _gguf_gpt2, "llama": _gguf_llama, "gemma3": _gguf_gemma3}
    try:
        head_dim = int(get("attention.key_length", d // heads))
        config = LMConfig(
            model_type="gemma3_text" if arch == "gemma3" else arch,
            vocab_size=int(embedding[0]),
            hidden_size=int(d),
            intermediate_size=int(get("feed_forward_length")),
            num_hidden_layers=int(get("block_count")),
            num_attention_heads=int(heads),
            num_key_value_heads=int(get("attention.head_count_kv", heads)),
            head_dim=head_dim,
            max_position_embeddings=int(get("context_length")),
            tie_word_embeddings="output.weight" not in tensors,
            bos_token_id=meta.get("tokenizer.ggml.bos_token_id"),
            eos_token_ids=_ids([meta.get(f"tokenizer.ggml.{n}_token_id") for n in ("eos", "eot")]),
            **readers[arch](gguf, get, head_dim),
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RewardJaxError(f"{gguf.path}: bad GGUF metadata: {error}") from None
    return _checked(config)


def _gguf_gpt2(gguf: Any, get: Any, head_dim: int) -> dict[str, Any]:
    eps = float(get("attention.layer_norm_epsilon"))
    return {**_GPT2_SHAPE, "norm": "layer", "norm_eps": eps, "activation": "gelu_tanh"}


def _gguf_llama(gguf: Any, get: Any, head_dim: int) -> dict[str, Any]:
    if get("rope.dimension_count", head_dim) != head_dim:
        raise RewardJaxError(f"{gguf.path}: partial rotary embeddings are not supported")
    scaling, kind = None, get("rope.scaling.type", "none")
    if "rope_freqs.weight" in gguf.shapes:
        # llama.cpp stores Llama-3 scaling as one divisor per frequency.
        factors = [float(f) for f in gguf.read("rope_freqs.weight").ravel()]
        if len(factors) != head_dim // 2:
            raise RewardJaxError(
                f"{gguf.path}: rope_freqs has {len(factors)} values, expected {head_dim // 2}"
            )
        scaling = freeze({"rope_type": "factors", "factors": factors})
    elif kind == "linear":
        scaling = freeze({"rope_type": "linear", "factor": float(get("rope.scaling.factor"))})
    elif kind != "none":
        raise RewardJaxError(f"{gguf.path}: rope scaling {kind!r} is not supported")
    window = get("attention.sliding_window", None)
    return {
        "norm_eps": float(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(get("rope.freq_base", 10000.0)),
        "rope_scaling": scaling,
        "sliding_window": int(window) if window else None,
        "attention_bias": "blk.0.attn_q.bias" in gguf.shapes,
        "attention_out_bias": "blk.0.attn_output.bias" in gguf.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.shapes,
    }


def _gguf_gemma3(gguf: Any, get: Any, head_dim: int) -> dict[str, Any]:
    depth, heads = int(get("block_count")), int(get("attention.head_count"))
    fields = gemma3.gguf_fields(get, depth, heads, int(get("embedding_length")), head_dim)
    theta = float(get("rope.freq_base", gemma3.GLOBAL_THETA))
    return {**_gguf_llama(gguf, get, head_dim), "rope_theta": theta, **fields}


def _checked(config: LMConfig) -> LMConfig:
    sizes = {
        name: getattr(config, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        )
    }
    for name, value in sizes.items():
        if not 1 <= value <= 2**31:
            raise RewardJaxError(f"{name} is {value}: expected a positive number")
    if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
        raise RewardJaxError(
            f"{config.num_attention_heads} heads of {config.head_dim} over "
            f"{config.num_key_value_heads} KV heads: expected a multiple and an even head_dim"
        )
    return config


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise RewardJaxError(
            f"activation {name!r} is not supported: expected one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(dict.fromkeys(int(v) for v in values if v is not None))


def _first(value: Any) -> int | None:
    ids = _ids(value)
    return ids[0] if ids else None
