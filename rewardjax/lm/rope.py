"""Rotary position embeddings, with the scalings that this library implements."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax.errors import RewardJaxError
from rewardjax.lm.config import LMConfig

ROPE_TYPES = ("default", "linear", "llama3", "factors")


def inverse_frequencies(config: LMConfig, windowed: bool = False) -> np.ndarray:
    """float32[H/2]: radians per position of each rotated pair, in layers with the window or not.

    `linear` divides every frequency by `factor`; `llama3` divides the long wavelengths only, with
    a smooth passage between (Llama 3.1's reference code); `factors` divides by a given vector (the
    `rope_freqs` tensor of GGUF files). Windowed layers with a base of their own (Gemma 3) are not
    scaled. Raises RewardJaxError for other types.
    """
    local = config.rope_local_theta if windowed else None
    theta = config.rope_theta if local is None else local
    # The power is rounded once, as torch does it. NumPy's float32 power errs by more, and in
    # Gemma 3 270M that moves logits at position 1000 by 0.007.
    power = (theta ** (np.arange(0, config.head_dim, 2) / config.head_dim)).astype(np.float32)
    freq = np.float32(1) / power
    scaling = dict(config.rope_scaling or ()) if local is None else {}
    kind = scaling.get("rope_type", "default")
    if kind == "default":
        return freq
    if kind == "linear":
        return freq / np.float32(scaling["factor"])
    if kind == "factors":
        return freq / np.asarray(scaling["factors"], np.float32)
    if kind == "llama3":
        factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelength = 2 * math.pi / freq
        smooth = (original / wavelength - low) / (high - low)
        between = (1 - smooth) * freq / factor + smooth * freq
        out = np.where(wavelength > original / low, freq / factor, between)
        return np.where(wavelength < original / high, freq, out).astype(np.float32)
    raise RewardJaxError(
        f"rope type {kind!r} is not supported: expected one of {', '.join(ROPE_TYPES[:3])}"
    )


def cos_sin(
    config: LMConfig, positions: Int[Array, "B T"], windowed: bool = False
) -> tuple[Float[Array, "B T 1 H"], Float[Array, "B T 1 H"]]:
    """float32 cosines and sines, each pair's angle in both halves (Hugging Face's layout)."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config, windowed)
    angles = jnp.concatenate([angles, angles], axis=-1)[:, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T 1 H"], sin: Float[Array, "B T 1 H"]
) -> Float[Array, "B T N H"]:
    """Rotate dimension i against i + H/2 of every head; computed in float32, returned in x's."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos + turned * sin).astype(x.dtype)
