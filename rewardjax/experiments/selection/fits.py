"""One probe from cached states: trained, its layer and τ chosen, its choices judged exactly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from rewardjax.experiments.selection.settings import SelectionConfig
from rewardjax.metrics.selection import by_prompt
from rewardjax.probe_fit import FitConfig, fit
from rewardjax.probe_step import score_rows

Matrix = Float[np.ndarray, "P M"]


def measure(
    config: SelectionConfig,
    how: FitConfig,
    train_states: Float[Array, "N L D"],
    train_rewards: Matrix,
    states: Float[Array, "Q L D"],
    judged: Sequence[Float[np.ndarray, "R K"]],
    *,
    seed: int,
    prompts: int,
) -> dict[str, Any]:
    """Train a probe of every layer and judge the choices by the one that is best on held-out ones.

    The layer and τ are those of the largest expected training reward on the held-out training
    prompts, choosing among all their completions. τ is a multiple of the deviation of Q within a
    prompt there.

    Args:
      train_states: of the training completions, prompt after prompt.
      states: of the completions that are judged.
      judged: their scores by each judge.
      prompts: how many training prompts are used, the held-out ones among them; drawn by the seed.

    Returns:
      JSON-ready: `layer` (its place), `tau` (multiple), `seconds` of training, `held_out`;
      `judges`: of each judge and k the reward of each prompt at τ (`reward`) and at τ = 0 (`best`);
      `kl`; `taus` and `layers`: means by the first judge along the grid and of every layer.
    """
    count, samples = train_rewards.shape
    order = np.random.default_rng([seed, 0x5E1]).permutation(count)[:prompts]
    split = min(max(1, round(config.held_out * prompts)), prompts - 1)
    held, train = (_rows(part, samples) for part in (order[:split], order[split:]))
    began = time.perf_counter()
    fitted = fit(
        train_states,
        train_rewards.reshape(-1),
        np.repeat(np.arange(count), samples),
        how,
        seed,
        train=train,
        held_out=held,
    )
    seconds = time.perf_counter() - began
    held_rewards = train_rewards.reshape(-1)[held].reshape(split, samples)
    held_scores = fitted.scores.reshape(-1, split, samples).astype(np.float64)
    scales = np.sqrt(held_scores.var(axis=2).mean(axis=1))
    grid = np.array(
        [
            [_mean(s, held_rewards, samples, tau * scale) for tau in config.taus]
            for s, scale in zip(held_scores, scales, strict=True)
        ]
    )
    scores = score_rows(fitted.params, states, np.arange(len(states)))
    scores = scores.reshape(len(scores), *judged[0].shape).astype(np.float64)
    layer, place = map(int, np.unravel_index(grid.argmax(), grid.shape))
    tau, own = config.taus[place] * scales[layer], scores[layer]
    ks = [k for k in config.ks if k <= own.shape[1]]
    sweep_k = min(config.sweep_k, ks[-1])
    chosen = [[by_prompt(own, judge, k, "softmax", tau) for k in ks] for judge in judged]
    best = [[by_prompt(own, judge, k, "best") for k in ks] for judge in judged]
    return {
        "layer": layer,
        "tau": config.taus[place],
        "seconds": round(seconds, 3),
        "held_out": float(grid.max()),
        "ks": ks,
        "judges": [
            {
                "reward": [reward.round(6).tolist() for reward, _ in of_tau],
                "best": [reward.round(6).tolist() for reward, _ in of_best],
            }
            for of_tau, of_best in zip(chosen, best, strict=True)
        ],
        "kl": [kl.round(6).tolist() for _, kl in chosen[0]],
        "taus": [_along(own, judged[0], ks[-1], step, scales[layer]) for step in config.taus],
        "layers": [
            _mean(scores[i], judged[0], sweep_k, config.taus[int(grid[i].argmax())] * scales[i])
            for i in range(len(scores))
        ],
    }


def _rows(prompts: np.ndarray, samples: int) -> np.ndarray:
    return (prompts[:, None] * samples + np.arange(samples)).reshape(-1)


def _mean(scores: Matrix, rewards: Matrix, k: int, tau: float) -> float:
    return float(by_prompt(scores, rewards, k, "softmax", tau)[0].mean())


def _along(scores: Matrix, rewards: Matrix, k: int, step: float, scale: float) -> dict[str, Any]:
    reward, kl = by_prompt(scores, rewards, k, "softmax", step * scale)
    return {"tau": step, "reward": reward.round(6).tolist(), "kl": float(kl.mean())}
