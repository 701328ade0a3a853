"""`rewardjax analyze selection CONFIG`: what choosing among k completions earns (methods.md §4).

Sample, score, read the states once, fit probes, judge every choice exactly, decode with guidance
beside it, report. Every step is made once and kept, so an experiment runs in pieces.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from rewardjax.config import parse
from rewardjax.experiments.compare.checks import fill_in
from rewardjax.experiments.selection.checks import check
from rewardjax.experiments.selection.settings import SelectionConfig

RESULTS = "results.json"


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
    from rewardjax.experiments.compare.workspace import OutOfTime, Workspace
    from rewardjax.experiments.selection import cost, page
    from rewardjax.experiments.selection.results import collect
    from rewardjax.experiments.selection.run import prepare, run
    from rewardjax.experiments.selection.steps import Steps
    from rewardjax.report.table import print_table
    from rewardjax.report.write import write_text

    steps = Steps(config, Workspace(config))
    prepare(steps)
    print_table(cost.table(steps))
    if config.estimate:
        return 0
    finished = True
    try:
        run(steps)
    except OutOfTime:
        finished = False
        print(f"--hours {config.hours:g} are over; run the same command again to go on")
    command = " ".join(["rewardjax analyze selection", *map(shlex.quote, argv)])
    results = collect(steps, command, finished=finished)
    folder = Path(config.publish) if config.publish else steps.work.folder
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / RESULTS, text)
    print(f"wrote {page.write(results, folder)}")
    return 0 if finished else 3


__all__ = ["SelectionConfig", "main"]
