"""`LMConfig` → a Hugging Face `config.json`: what `lm.families` reads, the other way round."""

from __future__ import annotations

from typing import Any

from rewardjax.errors import RewardJaxError
from rewardjax.lm.config import LMConfig

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def config_to_hf(config: LMConfig) -> dict[str, Any]:
    """A dict for JSON; `LMConfig.from_hf` reads the same config from it.

    Raises:
      RewardJaxError: RoPE factors that only a GGUF can say.
    """
    values = {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _ends(config),
        "torch_dtype": "float32",
    }
    return values | (_gpt2(config) if config.model_type == "gpt2" else _llama_like(config))


def _ends(config: LMConfig) -> int | list[int] | None:
    ids = config.eos_token_ids
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def _gpt2(config: LMConfig) -> dict[str, Any]:
    return {
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": _ACTIVATIONS[config.activation],
    }


def _llama_like(config: LMConfig) -> dict[str, Any]:
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same += ("num_key_value_heads", "head_dim", "max_position_embeddings", "rope_theta")
    values: dict[str, Any] = {name: getattr(config, name) for name in same}
    values["rms_norm_eps"] = config.norm_eps
    values["rope_scaling"] = None
    if config.rope_scaling is not None:
        values["rope_scaling"] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in config.rope_scaling
        }
        if values["rope_scaling"]["rope_type"] == "factors":
            raise RewardJaxError(
                "this LM was read from a GGUF whose RoPE has a factor for each frequency, which no"
                " config.json can say; start from its Hugging Face directory"
            )
    kind = config.model_type
    if kind in ("llama", "qwen3"):
        values["attention_bias"] = config.attention_bias
    if kind == "llama":
        values["mlp_bias"] = config.mlp_bias
    if kind == "gemma3_text":
        return values | _gemma3(config)
    values["hidden_act"] = _ACTIVATIONS[config.activation]
    if kind != "llama":
        values["sliding_window"] = config.sliding_window
    if kind in ("qwen2", "qwen3"):
        values["use_sliding_window"] = config.sliding_window is not None
        if config.sliding_window is not None:
            values["layer_types"] = _layer_types(config)
    return values


def _gemma3(config: LMConfig) -> dict[str, Any]:
    scalar = config.query_pre_attn_scalar
    values: dict[str, Any] = {
        "hidden_activation": _ACTIVATIONS[config.activation],
        "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": config.head_dim if scalar is None else int(scalar),  # whole there
        "layer_types": _layer_types(config),
    }
    if config.sliding_window is not None:
        values["sliding_window"] = config.sliding_window
        values["rope_local_base_freq"] = config.rope_local_theta
    return values


def _layer_types(config: LMConfig) -> list[str]:
    windows = (config.window(i) for i in range(config.num_hidden_layers))
    return ["full_attention" if window is None else "sliding_attention" for window in windows]
