"""Every metric of a set of generated rows, each with its bootstrap interval over prompts.

A metric is reduced to one value per prompt and averaged over prompts, as in the papers on RAD
(arXiv 2310.09520) and its low-rank form (arXiv 2407.04615).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from rewardjax.data.generations import Row, group_by_prompt
from rewardjax.errors import RewardJaxError
from rewardjax.metrics import attributes
from rewardjax.metrics.bootstrap import Interval, bootstrap_mean
from rewardjax.metrics.diversity import distinct_by_prompt
from rewardjax.metrics.perplexity import continuation_perplexity, drop_large
from rewardjax.metrics.scorers import Scorer


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number over prompts, what measured it, and what had to be left out."""

    name: str
    scorer: str
    version: str
    interval: Interval
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    note: str = ""
    """what the scorer was fitted on"""
    per_prompt: tuple[np.ndarray, np.ndarray | None] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    """value and weight of each prompt, in the order of their indices (weight None: all alike)"""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; NaN becomes None."""
        value, low, high, n = dataclasses.astuple(self.interval)
        numbers = {
            key: x if math.isfinite(x) else None
            for key, x in {"value": value, "low": low, "high": high}.items()
        }
        return {
            "name": self.name,
            **numbers,
            "prompts": n,
            "scorer": self.scorer,
            "version": self.version,
            **({"note": self.note} if self.note else {}),
            **self.left_out,
        }


def evaluate(
    rows: list[Row],
    scorers: Sequence[Scorer],
    *,
    lm: Any = None,
    perplexity_name: str = "perplexity",
    perplexity_samples: int | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    batch_tokens: int = 2048,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Metric]:
    """Every metric that the rows have the fields for, by key (`vader.positive_rate`, `dist-1`).

    Args:
      rows: continuations; several may share a prompt_index.
      scorers: judges of the texts.
      lm: language model (`lm.model.LM`) for perplexity; None leaves it out.
      perplexity_name: what to call it, such as "self-perplexity" when `lm` wrote the texts.
      perplexity_samples: continuations per prompt, drawn by `seed`, that the LM reads; None: all.
      progress: called with the number of texts the LM has just read.

    Raises:
      RewardJaxError: no rows, a scorer that misbehaves, a text longer than the LM's context.
    """
    if not rows:
        raise RewardJaxError("no rows to evaluate; expected at least one continuation")
    groups = group_by_prompt(rows)

    def measured(values: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
        interval = bootstrap_mean(values, weights, level=level, resamples=resamples, seed=seed)
        return {"interval": interval, "per_prompt": (values, weights)}

    metrics: dict[str, Metric] = {}
    for scorer in scorers:
        for name, values in _judge(scorer, groups).items():
            key = f"{scorer.name}.{name.replace(' ', '_')}"
            metrics[key] = Metric(
                name, scorer.name, scorer.version, note=scorer.note, **measured(values)
            )
    if lm is not None:
        read = _drawn(groups, perplexity_samples, seed)
        values, left_out = _perplexity(lm, read, batch_tokens, progress)
        weights = np.array([np.isfinite(row).sum() for row in values], np.float64)
        means = np.array(
            [
                row[np.isfinite(row)].mean() if w else 0.0
                for row, w in zip(values, weights, strict=True)
            ]
        )
        metrics[perplexity_name] = Metric(
            perplexity_name,
            lm.source,
            f"fingerprint {lm.fingerprint[:12]}",
            left_out=left_out,
            **measured(means, weights),
        )
    own = ("rewardjax", f"rewardjax {version('rewardjax')}")
    texts = [[row.text for row in group] for group in groups]
    for order, values in enumerate(distinct_by_prompt(texts).T, 1):
        metrics[f"dist-{order}"] = Metric(f"dist-{order}", *own, **measured(values))
    for key, name, (values, weights) in _from_the_loop(groups):
        metrics[key] = Metric(name, *own, **measured(values, weights))
    return metrics


def _judge(scorer: Scorer, groups: list[list[Row]]) -> dict[str, np.ndarray]:
    """Statistics of one scorer, one float64 value per prompt."""
    texts = [row.prompt * scorer.reads_prompt + row.text for group in groups for row in group]
    edges = np.cumsum([len(group) for group in groups])[:-1]
    scores = np.split(scorer(texts), edges)
    if scorer.kind == "sentiment":
        return {
            "positive rate": attributes.share_above(scores, 0.0),
            "neutral rate": attributes.share_equal(scores, 0.0),
            "mean score": attributes.mean(scores),
        }
    if scorer.kind == "toxicity":
        return {
            "average max toxicity": attributes.maximum(scores),
            "toxic rate": attributes.any_above(scores, 0.5),
            "mean score": attributes.mean(scores),
        }
    name = "satisfied rate" if scorer.kind == "constraint" else "mean score"
    return {name: attributes.mean(scores)}


def _drawn(groups: list[list[Row]], count: int | None, seed: int) -> list[list[Row]]:
    """`count` of each prompt's samples, drawn by the seed and the prompt's index."""
    if count is None:
        return groups
    drawn = []
    for group in groups:
        order = np.random.default_rng([seed, group[0].prompt_index]).permutation(len(group))
        drawn.append([group[i] for i in sorted(order[:count])])
    return drawn


def _perplexity(
    lm: Any, groups: list[list[Row]], batch_tokens: int, progress: Callable[[int], None] | None
) -> tuple[list[np.ndarray], dict[str, int]]:
    """Per-prompt arrays of continuation perplexities (NaN: left out), and the counts left out."""

    prompts = [_encode(lm, group[0].prompt) for group in groups for _ in group]
    full = [_encode(lm, row.prompt + row.text) for group in groups for row in group]
    empty = [i for i, ids in enumerate(full) if not ids]
    # A text without a token has no perplexity; any id keeps its place in the batch.
    values = continuation_perplexity(
        lm.config,
        lm.params,
        prompts,
        [ids or [0] for ids in full],
        batch_tokens=batch_tokens,
        progress=progress,
    )
    values[empty] = np.nan
    undefined = int(np.isnan(values).sum())
    values, dropped = drop_large(values)
    edges = np.cumsum([len(group) for group in groups])[:-1]
    return np.split(values, edges), {"dropped": dropped, "undefined": undefined}


def check_lengths(rows: list[Row], lm: Any, name: str) -> None:
    """Refuses rows that `lm` (loaded, or only opened) cannot read as a whole.

    Raises:
      RewardJaxError: naming the file `name` and the row.
    """
    context = lm.config.max_position_embeddings
    for row in rows:
        length = len(_encode(lm, row.prompt + row.text))
        if length > context:
            raise RewardJaxError(
                f"{name}: the text with prompt_index {row.prompt_index} and sample_index "
                f"{row.sample_index} has {length} tokens; expected at most {context}, the context "
                f"of {lm.source!r}"
            )


def _encode(lm: Any, text: str) -> list[int]:
    return list(lm.tokenizer(text, verbose=False)["input_ids"]) if text else []


def _from_the_loop(
    groups: list[list[Row]],
) -> Iterator[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    """Yield (key, name, (value, weight) per prompt) of what decoding itself recorded.

    Means over tokens weigh every token alike: a prompt's weight is its number of tokens.
    """

    def pooled(parts: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
        weights = np.array([len(part) for part in parts], np.float64)
        sums = np.array([math.fsum(part) for part in parts], np.float64)
        return sums / np.maximum(weights, 1.0), weights

    rewards = [[row.rewards for row in group if row.rewards] for group in groups]
    outputs = {len(token) for group in rewards for row in group for token in row}
    if len(outputs) > 1:
        raise RewardJaxError(
            f"rows with {min(outputs)} and with {max(outputs)} rewards per token in one file; "
            "expected rows of one reward model"
        )
    for a in range(max(outputs, default=0)):
        mark = f"[{a}]" if len(outputs) and max(outputs) > 1 else ""
        every = [[token[a] for row in group for token in row] for group in rewards]
        last = [[row[-1][a] for row in group] for group in rewards]
        yield f"reward{mark}", f"average reward{mark}", pooled(every)
        yield f"last_reward{mark}", f"reward of the last token{mark}", pooled(last)
    if all(row.kl is not None for group in groups for row in group):
        kl = [[x for row in group for x in row.kl or ()] for group in groups]
        yield "kl", "KL per token", pooled(kl)
    if max(outputs, default=0) and all(r.clipped_share is not None for g in groups for r in g):
        shares = [[row.clipped_share or 0.0 for row in group] for group in groups]
        yield "clipped", "clipped share of candidates", pooled(shares)


def count_text(rows: list[Row]) -> str:
    """`prompts × samples`, a range where prompts have different numbers of samples."""
    sizes = [len(group) for group in group_by_prompt(rows)]
    low, high = min(sizes), max(sizes)
    return f"{len(sizes)} × {low}" if low == high else f"{len(sizes)} × {low}–{high}"
