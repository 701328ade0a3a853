"""An experiment run in pieces: out of hours, it reports what it has; run again, it goes on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewardjax.experiments.workspace import OutOfTime, Workspace
from rewardjax.report.table import Table, print_table
from rewardjax.report.write import write_text

RESULTS = "results.json"


def run_in_pieces(
    words: str,
    argv: Sequence[str],
    work: Workspace,
    *,
    estimate: Table,
    run: Callable[[], None],
    collect: Callable[..., dict[str, Any]],
    write: Callable[[dict[str, Any], Path], Path],
) -> int:
    """Say what it costs, run every step that is not made yet, write results, page and README.

    Args:
      words: of the command, `rewardjax compare`.
      collect: from the command as it was typed, and `finished`, to what was measured so far.
      write: from the results and a folder to the page's path.

    Returns:
      The command's status: 0, or 3 when its hours ended before it was finished.
    """
    config = work.config
    print_table(estimate)
    if config.estimate:
        return 0
    finished = True
    try:
        run()
    except OutOfTime:
        finished = False
        print(f"--hours {config.hours:g} are over; run the same command again to go on")
    results = collect(" ".join([words, *map(shlex.quote, argv)]), finished=finished)
    folder = Path(config.publish) if config.publish else work.folder
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / RESULTS, text)
    print(f"wrote {write(results, folder)}")
    return 0 if finished else 3
