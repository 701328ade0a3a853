"""What a file may say of a language model: types of single values, and what an `LMConfig` may be.

Values are looked at before anything is made of them: a file may claim any number of anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewardjax.errors import RewardJaxError, short
from rewardjax.lm.config import LMConfig
from rewardjax.lm.layers import ACTIVATIONS
from rewardjax.lm.rope import ROPE_TYPES

MOST_LAYERS = 10_000
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
)
_POSITIVE = ("rope_theta", "rope_local_theta", "query_pre_attn_scalar", "sliding_window")
# The numbers that each scaling of RoPE needs.
ROPE_NUMBERS = {
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
}


def whole(value: Any, name: str) -> int:
    """An integer, also as 3.0. Raises ValueError for 3.5, "3", true or an infinite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise ValueError(f"{name} is {short(value)}, expected a whole number")
    return int(value)


def real(value: Any, name: str) -> float:
    """A finite number. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
        raise ValueError(f"{name} is {short(value)}, expected a finite number")
    return float(value)


def flag(value: Any, name: str) -> bool:
    """true or false; null is false. Raises ValueError for anything else, such as "false"."""
    if not (value is None or isinstance(value, int)) or value not in (None, 0, 1):
        raise ValueError(f"{name} is {short(value)}, expected true or false")
    return bool(value)


def mapping(value: Any, name: str) -> dict[str, Any]:
    """A copy of a JSON object; null is an empty one. Raises ValueError for anything else."""
    if not isinstance(value, Mapping | None):
        raise ValueError(f"{name} is {short(value)}, expected an object")
    return dict(value or {})


def depth(value: Any) -> int:
    """The number of layers, of which lists are made. Raises ValueError or RewardJaxError."""
    layers = whole(value, "num_hidden_layers")
    if not 1 <= layers <= MOST_LAYERS:
        raise RewardJaxError(f"num_hidden_layers is {short(layers)}: expected 1 to {MOST_LAYERS}")
    return layers


def check_config(config: LMConfig) -> LMConfig:
    """The config, if a model can be made of it.

    Raises:
      RewardJaxError: naming the field.
    """
    depth(config.num_hidden_layers)
    for name in _SIZES:
        if not 1 <= getattr(config, name) < 2**31:
            raise RewardJaxError(
                f"{name} is {short(getattr(config, name))}: expected a positive number below 2^31"
            )
    if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
        raise RewardJaxError(
            f"{config.num_attention_heads} heads of {config.head_dim} over "
            f"{config.num_key_value_heads} KV heads: expected a multiple and an even head_dim"
        )
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and not 0 < value < 2**31:
            raise RewardJaxError(f"{name} is {short(value)}: expected a positive number")
    if not 0 <= config.norm_eps < 1:
        raise RewardJaxError(f"norm_eps is {config.norm_eps}: expected 0 to 1")
    for token in (config.bos_token_id, *config.eos_token_ids):
        if token is not None and not -1 <= token < 2**31:
            raise RewardJaxError(f"a special token has id {short(token)}: expected one below 2^31")
    if not all(0 <= layer < config.num_hidden_layers for layer in config.sliding_layers or ()):
        raise RewardJaxError(
            f"sliding_layers are {short(config.sliding_layers)}: expected layers of 0 .. "
            f"{config.num_hidden_layers - 1}"
        )
    for name, options in (
        ("activation", list(ACTIVATIONS)),
        ("norm", ["rms", "layer"]),
    ):
        if getattr(config, name) not in options:
            raise RewardJaxError(
                f"{name} is {short(getattr(config, name))}: expected one of {', '.join(options)}"
            )
    _check_rope(dict(config.rope_scaling or ()), config.head_dim // 2)
    return config


def _check_rope(scaling: dict[str, Any], pairs: int) -> None:
    kind = scaling.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise RewardJaxError(
            f"rope type {short(kind)} is not supported: expected one of {', '.join(ROPE_TYPES[:3])}"
        )
    wanted = ("factors",) if kind == "factors" else ROPE_NUMBERS.get(kind, ())
    unknown = scaling.keys() - {"rope_type", *wanted}
    if unknown:
        raise RewardJaxError(f"rope_scaling: {short(min(unknown))} is no setting of {kind!r}")
    values = {name: scaling.get(name) for name in wanted}
    if kind == "factors":
        factors = values["factors"]
        if not isinstance(factors, tuple) or len(factors) != pairs:
            raise RewardJaxError(f"rope_scaling: expected {pairs} factors, got {short(factors)}")
        values = {f"factor {i}": factor for i, factor in enumerate(factors)}
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 < value < 1e30:
            raise RewardJaxError(f"rope_scaling: {name} is {short(value)}: expected more than 0")
    if kind == "llama3" and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        raise RewardJaxError("rope_scaling: expected low_freq_factor below high_freq_factor")
