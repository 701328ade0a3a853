"""From raw rewards to a shift of the log-probabilities.

p_beta(v|x)  proportional to  p(v|x) exp(sum_a beta_a rho_a[x, v])   (arXiv 2310.09520)

rho is a link of the raw reward R. All of it is per row and per output of the reward models.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rewardjax.decoding.settings import LINK_NAMES, SCHEDULES
from rewardjax.decoding.state import Settings


def clip(rewards: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """RAD's link, for rewards trained by regression: rho = clip(r, 0, 1), before beta."""
    return jnp.clip(rewards, 0.0, 1.0)


def linked(
    rewards: Float[Array, "B C A"],
    mask: Bool[Array, "B C"],
    link: Int[Array, "B A"],
    invert: Bool[Array, "B A"],
) -> Float[Array, "B C A"]:
    """rho of every candidate and output; where `invert`, of the opposite attribute.

    clip: RAD's; inverted 1 - rho. raw: r, or -r. sigmoid and log_sigmoid: for rewards trained as
    logits, of r or of -r. min_max: the candidates' rewards stretched to 0 .. 1; inverted 1 - rho.
    """
    link, invert = link[:, None], invert[:, None]

    def clipped(r: Array) -> Array:
        return jnp.where(invert, 1.0 - clip(r), clip(r))

    def signed(r: Array) -> Array:
        return jnp.where(invert, -r, r)

    def stretched(r: Array) -> Array:
        low = jnp.min(r, axis=1, keepdims=True, where=mask[..., None], initial=jnp.inf)
        high = jnp.max(r, axis=1, keepdims=True, where=mask[..., None], initial=-jnp.inf)
        share = (r - low) / jnp.where(high > low, high - low, 1.0)
        return jnp.where(invert, 1.0 - share, share)

    links = {
        "clip": clipped,
        "raw": signed,
        "sigmoid": lambda r: jax.nn.sigmoid(signed(r)),
        "log_sigmoid": lambda r: jax.nn.log_sigmoid(signed(r)),
        "min_max": stretched,
    }
    rho = rewards
    for i, name in enumerate(LINK_NAMES):  # of a whole vocabulary each costs: only those asked for
        asked = link == i
        put = partial(_where, asked, links[name])
        rho = jax.lax.cond(asked.any(), put, lambda rewards, rho: rho, rewards, rho)
    return rho


def log_probabilities(
    rewards: Float[Array, "*N"], link: str
) -> tuple[Float[Array, "*N"], Float[Array, "*N"]]:
    """log R and log(1 - R) of raw rewards that stand for a probability R (methods.md §7).

    Args:
      link: sigmoid or log_sigmoid (rewards are logits) or raw (they are log R, 0 at most).

    log(1 - R) of a raw reward of 0 is that of the float32 next to it, -87: finite, as is its slope.
    """
    if link in ("sigmoid", "log_sigmoid"):
        return jax.nn.log_sigmoid(rewards), jax.nn.log_sigmoid(-rewards)
    assert link == "raw", link
    below = jnp.minimum(rewards, -jnp.finfo(jnp.float32).tiny)
    return rewards, jax.nn.log1mexp(-below)


def _where(asked: Array, link: Callable[[Array], Array], rewards: Array, rho: Array) -> Array:
    return jnp.where(asked, link(rewards), rho)


def strength(
    settings: Settings,
    row_step: Int[Array, "B"],
    max_new_tokens: Int[Array, "B"],
    logits: Float[Array, "B V"],
) -> Float[Array, "B A"]:
    """beta of this step: its schedule, and 0 where the LM's entropy is below `min_entropy`.

    The share of the way from beta to beta_end after t of N tokens is u = t / (N - 1) (linear) or
    (1 - cos(pi u)) / 2 (cosine).
    """
    way = row_step / jnp.maximum(max_new_tokens - 1, 1)
    shares = {
        "constant": jnp.zeros_like(way),
        "linear": way,
        "cosine": (1 - jnp.cos(jnp.pi * way)) / 2,
    }
    chosen = [settings.schedule == i for i in range(len(SCHEDULES))]
    share = jnp.select(chosen, [shares[name] for name in SCHEDULES])[:, None]
    beta = settings.beta + share * (settings.beta_end - settings.beta)
    # The whole vocabulary is read for it, so only where a row asks.
    gated = (settings.min_entropy > 0).any()
    open_ = jax.lax.cond(
        gated,
        lambda z: entropy(z) >= settings.min_entropy,
        lambda z: jnp.ones(len(z), bool),
        logits,
    )
    return jnp.where(open_[:, None] & settings.steers, beta, 0.0)


def entropy(logits: Float[Array, "B V"]) -> Float[Array, "B"]:
    """Of the softmax, in nats."""
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    probabilities = jnp.exp(logprobs)
    return -jnp.sum(probabilities * jnp.where(probabilities > 0, logprobs, 0.0), axis=-1)


def steer(
    scores: Float[Array, "B C"],
    rewards: Float[Array, "B C A"],
    mask: Bool[Array, "B C"],
    beta: Float[Array, "B A"],
    settings: Settings,
) -> Float[Array, "B C"]:
    """Scores z + sum over outputs of beta rho."""
    rho = linked(rewards, mask, settings.link, settings.invert)
    # Not an einsum: beta = 0 must leave the scores as they are, bit for bit.
    return scores + jnp.sum(beta[:, None] * rho, axis=-1)


def clipped_share(
    rewards: Float[Array, "B C A"], mask: Bool[Array, "B C"], settings: Settings
) -> Float[Array, "B"]:
    """Share of the steering rewards of candidates that the clip changes; other links clip none."""
    clips = settings.steers & (settings.link == LINK_NAMES.index("clip"))
    outside = mask[..., None] & clips[:, None] & (rewards != clip(rewards))
    count = mask.sum(axis=1) * jnp.maximum(settings.steers.sum(axis=1), 1)
    return outside.sum(axis=(1, 2)) / count
