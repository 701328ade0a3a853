"""A progress bar on standard error, and short notes; silent where standard error is no terminal."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

Advance = Callable[..., None]
"""`advance(n=1, **fields)`: move on by `n`; the fields are shown beside the bar as `name value`."""


_silent = False


def silence() -> None:
    """Say nothing more: another process of the same job speaks."""
    global _silent
    _silent = True


def is_terminal() -> bool:
    """Whether a person is likely to watch standard error."""
    return sys.stderr is not None and sys.stderr.isatty() and not _silent


def note(message: str) -> None:
    """Print one line: beside the bars on a terminal, else to standard output (log, notebook)."""
    if _silent:
        return
    Console(stderr=is_terminal(), highlight=False, markup=False, soft_wrap=True).print(message)


def _format(fields: dict[str, object]) -> str:
    shown = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )
    return "  ".join(shown)


class _TimeLeft(ProgressColumn):
    """By the mean of this run. rich's own column looks at the last seconds: units that come in
    bursts, such as the rows of a batch, make it jump between nothing and hours."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        new = task.completed - task.fields["done"]
        if not new or task.remaining is None or task.elapsed is None:
            return Text("-:--:--")
        seconds = task.elapsed / new * task.remaining
        return Text(str(datetime.timedelta(seconds=round(seconds))))


@contextlib.contextmanager
def bar(description: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar with count, elapsed time and time left while the block runs.

    Args:
      description: what is going on, a few words.
      total: number of units; `done` of them lie behind us already (a resumed run).

    Yields:
      `advance(n=1, **fields)`.
    """
    if not is_terminal():
        yield lambda n=1, **fields: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        _TimeLeft(),
        TextColumn("{task.fields[info]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done, info="", done=done)

        def advance(n: int = 1, **fields: object) -> None:
            if fields:
                progress.update(task, advance=n, info=_format(fields))
            else:
                progress.update(task, advance=n)

        yield advance
