"""Choosing one of k completions: softmax(Q/τ), the best, or any (Q-Probe, arXiv 2402.14688).

Drawing k completions from p and choosing by softmax(Q/τ) tends to p(a) exp(Q(a)/τ) / Z as k grows:
what maximises E[Q] - τ KL(π ‖ p). τ = 0 is best-of-k, k = 1 is p.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from rewardjax.errors import RewardJaxError

Policy = Literal["softmax", "best", "random"]


def choice_probabilities(
    scores: Float[np.ndarray, "*N K"], policy: Policy = "softmax", tau: float = 0.1
) -> Float[np.ndarray, "*N K"]:
    """With what probability each of k completions is chosen, float64.

    Args:
      policy: softmax: of Q/τ. best: 1 for the largest Q, the first of equals. random: 1/k.
      tau: τ ≥ 0, in units of Q; 0 makes softmax the same as best.

    Raises:
      RewardJaxError: as `check_tau`.
    """
    check_tau(tau)
    scores = np.asarray(scores, np.float64)
    if policy == "random":
        return np.full(scores.shape, 1.0 / scores.shape[-1])
    if policy == "best" or tau == 0:
        best = scores.argmax(axis=-1)[..., None]
        return (np.arange(scores.shape[-1]) == best).astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny τ: all but the best go to exp(-inf) = 0
        weights = np.exp((scores - scores.max(axis=-1, keepdims=True)) / tau)
    return weights / weights.sum(axis=-1, keepdims=True)


def check_tau(tau: float) -> None:
    """Raises RewardJaxError: τ below 0 or not finite."""
    if not 0 <= tau < np.inf:
        raise RewardJaxError(f"tau is {tau}; expected 0 (the best) or a finite number above it")


def choose(probabilities: Float[np.ndarray, " K"], seed: int, prompt_index: int) -> int:
    """One draw. It depends on the seed and the prompt alone, and on nothing that samples use."""
    rng = np.random.default_rng([seed, prompt_index, 0x5E1EC7])
    return int(rng.choice(len(probabilities), p=probabilities))


def kl_bound(k: int) -> float:
    """What KL(π_k ‖ p) cannot exceed, whatever the rule that chooses among k: log k - (k-1)/k."""
    return float(np.log(k) - (k - 1) / k)
