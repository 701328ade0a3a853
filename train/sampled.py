"""Texts that the LM wrote itself: where each begins, what it weighs, what else might have stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from rewardjax.data.batches import Batch
from rewardjax.data.generations import Row
from rewardjax.errors import RewardJaxError
from rewardjax.progress import note

from .token_rows import TokenRows

FEW = 0.1
"""A smaller share of effective samples is worth a warning."""


@dataclass(frozen=True)
class Sampled:
    """What a step needs of sampled texts besides their tokens and labels."""

    starts: Int[np.ndarray, "N"]
    """tokens of each text's prompt"""
    weights: Float32[np.ndarray, "N"]
    """importance weights, mean 1 over the texts that train"""
    candidates: TokenRows | None
    """arrays `candidates` and `logprobs`: the LM's k most probable tokens at every position; None:
    the whole vocabulary"""
    numbers: dict[str, float]
    """what is said of the samples: `data/…`"""

    def batch(self, batch: Batch) -> dict[str, Any]:
        """Fields of `losses.Inputs`. Rows that are only padding weigh nothing."""
        weights = np.where(batch.ids >= 0, self.weights[np.maximum(batch.ids, 0)], 0.0)
        found: dict[str, Any] = {
            "prompt_lengths": batch.prompt_lengths,
            "weights": weights.astype(np.float32),
        }
        if self.candidates is not None:
            for name in ("candidates", "logprobs"):
                found[name] = self.candidates.batch(name, batch.ids, batch.tokens.shape[1])
        return found


def log_weights(
    rows: Sequence[Row], starts: Int[np.ndarray, "N"], candidates: TokenRows | None
) -> Float[np.ndarray, "N"]:
    """log p(y|x) - log q(y|x) of each completion, float64.

    q is the distribution that it was drawn from, by the row's own record. p is the LM at
    temperature 1 among the same candidates: the k most probable tokens, renormalised by what the
    cached states say of their share (states kept in bfloat16 round it).

    Raises:
      RewardJaxError: rows without the two log-probabilities of each token.
    """
    found = np.zeros(len(rows))
    for i, row in enumerate(rows):
        p, q = row.base_logprobs, row.logprobs
        if p is None or q is None or row.token_ids is None or not len(p) == len(q) == len(
            row.token_ids
        ):  # fmt: skip
            raise RewardJaxError(
                f"completions.jsonl: row {i + 1} lacks logprobs or base_logprobs of its tokens;"
                " delete the file to sample again"
            )
        found[i] = np.sum(p) - np.sum(q)
        if candidates is not None:
            first = int(candidates.offsets[i]) + int(starts[i])
            mass = candidates.arrays["logprobs"][first : first + len(p)]
            found[i] -= np.logaddexp.reduce(mass.astype(np.float64), axis=1).sum()
    return found


def normalised(
    log_weights: Float[np.ndarray, "N"], train: Int[np.ndarray, "M"]
) -> tuple[Float32[np.ndarray, "N"], float]:
    """Weights whose mean over the rows `train` is 1, and how many samples these are worth:
    (Σ w)² / Σ w², Kish's effective sample size."""
    weights = np.exp(log_weights - log_weights[train].max())
    effective = weights[train].sum() ** 2 / np.square(weights[train]).sum()
    # A held-out text may be likelier than any that trains: still a number.
    weights = np.minimum(weights / weights[train].mean(), np.finfo(np.float32).max)
    return weights.astype(np.float32), float(effective)


def check_labels(labels: Float32[np.ndarray, "N"], train: Int[np.ndarray, "M"]) -> None:
    """Refuse labels that teach nothing.

    Raises:
      RewardJaxError: the oracle says the same of every sample.
    """
    values = labels[train]
    if values.min() < values.max():
        return
    what = {0.0: "no sample satisfies the oracle", 1.0: "every sample satisfies the oracle"}
    said = what.get(float(values[0]), f"the oracle gives every sample {values[0]:g}")
    raise RewardJaxError(
        f"{said} (rate {values.mean():g} of {len(values):,} samples to train on), so there is"
        " nothing to learn; raise sampling.num_samples or prompts.limit, sampling.temperature"
        " (texts that the LM rarely writes; they are weighed), or choose another oracle"
    )


def warn_of_few(effective: float, count: int) -> None:
    """Say so where a few samples outweigh all others."""
    if effective < FEW * count:
        note(
            f"{count:,} weighted samples are worth {effective:,.0f}: a few outweigh the rest; bring"
            " sampling.temperature nearer to 1, lower sampling.max_new_tokens, or sample more"
        )
