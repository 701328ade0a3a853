"""What choosing among k completions earns, computed and not sampled (methods.md §4).

Of M scored completions of a prompt, shuffled and cut into chunks of k, each chunk earns
sum_i softmax_i(Q/τ) r_i: the expectation over the choice is exact, that over pools of k an average
over all chunks of some shuffles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rewardjax.decoding.selection import Policy, choice_probabilities
from rewardjax.errors import RewardJaxError
from rewardjax.metrics.bootstrap import Interval, bootstrap_mean


class Earned(NamedTuple):
    """By a rule of choice among k, with 95% intervals over prompts."""

    reward: Interval
    kl: Interval
    """nats: log k minus the choice's entropy. KL(π_k ‖ p) is at most that (data processing), and
    at most log k - (k-1)/k (`kl_bound`)."""


def chunks(count: int, k: int, shuffles: int, seed: int) -> np.ndarray:
    """Index of pools, int[shuffles · (count // k), k]; those of one shuffle share nothing.

    Raises:
      RewardJaxError: k is no number from 1 to count.
    """
    if not 1 <= k <= count:
        raise RewardJaxError(f"k is {k}; expected 1 to {count}, the completions of each prompt")
    rng = np.random.default_rng(seed)
    whole = count // k * k
    return np.concatenate([rng.permutation(count)[:whole].reshape(-1, k) for _ in range(shuffles)])


def by_prompt(
    scores: Float[np.ndarray, "P M"],
    rewards: Float[np.ndarray, "P M"],
    k: int,
    policy: Policy = "softmax",
    tau: float = 0.1,
    *,
    shuffles: int = 8,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Expected reward and log k - H(choice) of each prompt, float64.

    Args:
      scores: Q of M completions of P prompts.
      rewards: what they are worth.
      shuffles: of the M completions, the same for every prompt.
    """
    pools = chunks(scores.shape[1], k, shuffles, seed)
    weights = choice_probabilities(scores[:, pools], policy, tau)  # [P, pools, k]
    reward = (weights * rewards[:, pools]).sum(axis=-1).mean(axis=-1)
    logs = np.log(k * weights, where=weights > 0, out=np.zeros_like(weights))
    return reward, (weights * logs).sum(axis=-1).mean(axis=-1)


def earned(
    scores: Float[np.ndarray, "P M"],
    rewards: Float[np.ndarray, "P M"],
    k: int,
    policy: Policy = "softmax",
    tau: float = 0.1,
    **drawn: int,
) -> Earned:
    """`by_prompt`, which takes `drawn` too, over all prompts with intervals."""
    reward, kl = by_prompt(scores, rewards, k, policy, tau, **drawn)
    return Earned(bootstrap_mean(reward), bootstrap_mean(kl))
