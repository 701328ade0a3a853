"""`rewardjax compare CONFIG`: reward models trained alike, decoded alike, compared.

Train, decode, evaluate, choose β, decode the other seeds and the full protocol, analyse, report.
Every step is made once and kept (`workspace`), so a comparison runs in pieces.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from rewardjax.config import parse
from rewardjax.experiments.compare.checks import check, fill_in
from rewardjax.experiments.compare.settings import CompareConfig

RESULTS = "results.json"


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
    from rewardjax.experiments.compare.workspace import OutOfTime, Workspace
    from rewardjax.report.table import print_table
    from rewardjax.report.write import write_text

    prepare(config)
    steps = Steps(config, Workspace(config))
    print_table(cost.table(steps))
    if config.estimate:
        return 0
    finished = True
    try:
        run(steps)
    except OutOfTime:
        finished = False
        print(f"--hours {config.hours:g} are over; run the same command again to go on")
    command = " ".join(["rewardjax compare", *map(shlex.quote, argv)])
    results = collect(steps, command, finished=finished)
    folder = Path(config.publish) if config.publish else steps.work.folder
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / RESULTS, text)
    print(f"wrote {page.write(results, folder)}")
    return 0 if finished else 3


__all__ = ["CompareConfig", "main"]
