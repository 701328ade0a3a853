"""The comparison's table of fine-tuned LMs, from its results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rewardjax.experiments.compare.model_tables import known
from rewardjax.experiments.compare.tables import spread
from rewardjax.metrics.bootstrap import Interval, bootstrap_mean
from rewardjax.report.table import Cell, Table, interval, number

Results = dict[str, Any]
HELD_OUT = ("perplexity", "perplexity_accepted", "detection_auc", "kl")


def of_lms(results: Results) -> Table | None:
    """Every fine-tuned LM beside what it was before; None where there is none."""
    tuned = [model for model in results["models"] if model["program"] == "attribute"]
    if not tuned:
        return None
    before = next((s["before"] for m in tuned for s in m["seeds"] if s["before"]), {})
    held_out = [before.get(f"eval/{key}") for key in HELD_OUT]
    values = [Cell(number(value, 3)) for value in held_out]
    values[2] = _detection(before, [held_out[2]])
    none = Cell("–")
    rows = [(Cell("the LM before"), values[0], none, values[1], none, *values[2:], *[none] * 4)]
    plain = tuned[0]["seeds"][0].get("held_out")
    for model in tuned:
        first = model["seeds"][0]
        done = [s for s in model["seeds"] if s["finished"]]
        found = [s["schedule"] for s in done if s["schedule"]]
        critical = [one["critical_path"]["updates"] for one in found]
        all_texts, accepted, auc, kl = (known(done, f"eval/{key}") for key in HELD_OUT)
        rows.append(
            (
                Cell(model["name"], found[0]["scheme"] if found else ""),
                spread(all_texts),
                _beside(first.get("held_out"), plain),
                spread(accepted),
                _beside(_accepted(first.get("held_out")), _accepted(plain)),
                _detection(first["metrics"], auc),
                spread(kl),
                spread([one["updates"] for one in found], 0),
                spread(critical, 0),
                spread([one["seconds"] for one in found], 0),
                spread([s["cpu_seconds"] for s in done if s["cpu_seconds"]], 0),
            )
        )
    heads = [
        Cell("LM"),
        Cell("held-out perplexity", "all texts"),
        Cell(f"× {tuned[0]['name']}", "all texts"),
        Cell("held-out perplexity", "accepted texts"),
        Cell(f"× {tuned[0]['name']}", "accepted texts"),
        Cell("AUC of detection", "by its likelihoods"),
        Cell("KL(q ‖ p)", "a token, held out"),
        Cell("updates"),
        Cell("updates", "that wait for each other"),
        Cell("seconds"),
        Cell("CPU seconds"),
    ]
    texts = f" ({len(plain['nll'])} of them)" if plain else ""
    clean = _accepted(plain)
    if clean:
        texts = f" ({len(clean['nll'])} of {len(plain['nll'])} accepted by the training oracle)"
    caption = (
        f"Held-out texts{texts} are the same for all. Means of the seeds, their ranges below;"
        " intervals: 95% bootstrap over texts, first seed, those of × over pairs of the same text."
        " Detection: of the texts that the training oracle does not accept, by the mean NLL of a"
        " token. KL: of the last round, over its own prefixes and reward model. Seconds: wall-clock"
        " of sampling, reading and updates."
    )
    return Table(tuple(heads), tuple(rows), caption=caption)


def _detection(metrics: dict[str, Any], values: list[Any]) -> Cell:
    """AUC with the first seed's interval."""
    found, known_values = metrics.get("eval/detection"), [x for x in values if x is not None]
    if found is None or len(known_values) > 1:
        return spread(known_values)
    return interval(found["value"], found["low"], found["high"])


def _accepted(held_out: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of the held-out texts those that the oracle accepts; None where it is not known."""
    if not held_out or "accepted" not in held_out:
        return None
    kept = held_out["accepted"]
    return {
        name: [x for x, good in zip(held_out[name], kept, strict=True) if good]
        for name in ("nll", "tokens")
    }


def _beside(held_out: dict[str, Any] | None, plain: dict[str, Any] | None) -> Cell:
    found = perplexity_ratio(held_out, plain) if held_out and plain else None
    return Cell("–") if found is None else interval(found.value, found.low, found.high)


def perplexity_ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> Interval | None:
    """Ratio of two LMs' perplexities of the same texts, each a mean over tokens.

    Args:
      ours, theirs: {"nll", "tokens"} of each text, as `train attribute` writes held_out.json.

    Returns:
      The ratio with its bootstrap interval over texts; None where the texts are others.
    """
    tokens = np.array(ours["tokens"], np.float64)
    if ours["tokens"] != theirs["tokens"] or not len(tokens):
        return None
    difference = (np.array(ours["nll"]) - np.array(theirs["nll"])) / tokens
    found = bootstrap_mean(difference, tokens)
    value, low, high = (math.exp(x) for x in (found.value, found.low, found.high))
    return Interval(value, low, high, found.n)
