"""The comparison's table of fine-tuned LMs, from its results."""

from __future__ import annotations

from typing import Any

from rewardjax.experiments.compare.model_tables import known
from rewardjax.experiments.compare.tables import spread
from rewardjax.report.table import Cell, Table, number

Results = dict[str, Any]

_HELD_OUT = (
    ("perplexity", "held-out perplexity", "all texts"),
    ("perplexity_accepted", "held-out perplexity", "accepted texts"),
    ("detection_auc", "AUC of detection", "by its likelihoods"),
    ("kl", "KL(q ‖ p)", "a token, held out"),
)


def of_lms(results: Results) -> Table | None:
    """Every fine-tuned LM beside what it was before; None where there is none."""
    tuned = [model for model in results["models"] if model["program"] == "attribute"]
    if not tuned:
        return None
    before = next((s["before"] for m in tuned for s in m["seeds"] if s["before"]), {})
    rows = [
        (
            Cell("the LM before"),
            *(Cell(number(before.get(f"eval/{key}"), 3)) for key, *_ in _HELD_OUT),
            *[Cell("–")] * 4,
        )
    ]
    for model in tuned:
        done = [s for s in model["seeds"] if s["finished"]]
        found = [s["schedule"] for s in done if s["schedule"]]
        critical = [one["critical_path"]["updates"] for one in found]
        rows.append(
            (
                Cell(model["name"], found[0]["scheme"] if found else ""),
                *(spread(known(done, f"eval/{key}")) for key, *_ in _HELD_OUT),
                spread([one["updates"] for one in found], 0),
                spread(critical, 0),
                spread([one["seconds"] for one in found], 0),
                spread([s["cpu_seconds"] for s in done if s["cpu_seconds"]], 0),
            )
        )
    heads = [Cell("LM"), *(Cell(name, note) for _, name, note in _HELD_OUT)]
    heads += [Cell("updates"), Cell("updates", "that wait for each other"), Cell("seconds")]
    heads += [Cell("CPU seconds")]
    caption = (
        "Held-out texts are the same for all. Means of the seeds, their ranges below. KL: of the"
        " last round, over its own prefixes and reward model. Seconds: wall-clock of sampling,"
        " reading and updates."
    )
    return Table(tuple(heads), tuple(rows), caption=caption)
