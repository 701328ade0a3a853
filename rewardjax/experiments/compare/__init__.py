"""`rewardjax compare CONFIG`: reward models trained alike, decoded alike, compared.

Train, decode, evaluate, choose β, decode the other seeds and the full protocol, analyse, report.
Every step is made once and kept (`workspace`), so a comparison runs in pieces.
"""

from __future__ import annotations

from functools import partial

from rewardjax.config import parse
from rewardjax.experiments.compare.checks import check
from rewardjax.experiments.compare.settings import CompareConfig
from rewardjax.experiments.settings import fill_in


def main(argv: list[str]) -> int:
    """Run the command. Returns 0, or 3 when `--hours` ended it before it was finished."""
    config = parse(
        CompareConfig,
        argv,
        prog="rewardjax compare",
        description="Train reward models alike, decode with each at several strengths, compare.",
        yaml_positional=True,
    )
    config = fill_in(config)
    check(config)
    from rewardjax.experiments.compare import cost, page
    from rewardjax.experiments.compare.results import collect
    from rewardjax.experiments.compare.run import prepare, run
    from rewardjax.experiments.compare.steps import Steps
    from rewardjax.experiments.pieces import run_in_pieces
    from rewardjax.experiments.workspace import Workspace

    prepare(config)
    steps = Steps(config, Workspace(config))
    return run_in_pieces(
        "rewardjax compare",
        argv,
        steps.work,
        estimate=cost.table(steps),
        run=partial(run, steps),
        collect=partial(collect, steps),
        write=page.write,
    )


__all__ = ["CompareConfig", "main"]
