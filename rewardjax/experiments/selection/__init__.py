"""`rewardjax analyze selection CONFIG`: what choosing among k completions earns (methods.md §4).

Sample, score, read the states once, fit probes, judge every choice exactly, decode with guidance
beside it, report. Every step is made once and kept, so an experiment runs in pieces.
"""

from __future__ import annotations

from functools import partial

from rewardjax.config import parse
from rewardjax.experiments.selection.checks import check
from rewardjax.experiments.selection.settings import SelectionConfig
from rewardjax.experiments.settings import fill_in


def main(argv: list[str]) -> int:
    """Run the command. Returns 0, or 3 when `--hours` ended it before it was finished."""
    config = parse(
        SelectionConfig,
        argv,
        prog="rewardjax analyze selection",
        description="What choosing among k completions earns, by probes of several losses.",
        yaml_positional=True,
    )
    config = fill_in(config)
    check(config)
    from rewardjax.experiments.pieces import run_in_pieces
    from rewardjax.experiments.selection import cost, page
    from rewardjax.experiments.selection.results import collect
    from rewardjax.experiments.selection.run import prepare, run
    from rewardjax.experiments.selection.steps import Steps
    from rewardjax.experiments.workspace import Workspace

    steps = Steps(config, Workspace(config))
    prepare(steps)
    return run_in_pieces(
        "rewardjax analyze selection",
        argv,
        steps.work,
        estimate=cost.table(steps),
        run=partial(run, steps),
        collect=partial(collect, steps),
        write=page.write,
    )


__all__ = ["SelectionConfig", "main"]
