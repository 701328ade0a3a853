"""One table, three looks: the terminal (rich), Markdown and HTML."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value, and what stands smaller under it (an interval, a unit)."""

    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under headings. The first column holds the rows' names."""

    columns: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns")

    def transposed(self) -> Table:
        """Columns become rows."""
        columns, *rows = zip(self.columns, *self.rows, strict=True)
        return dataclasses.replace(self, columns=columns, rows=tuple(rows))


def number(value: float | None, digits: int = 3) -> str:
    """A number as people write it: at most `digits` decimals, fewer when large, `–` for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    decimals = digits if size < 10 else 1 if size < 1000 else 0
    text = f"{value:,.{decimals}f}"
    return "0" + text[2:] if text.startswith("-0") and not text.strip("-0.") else text


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> Cell:
    """A value with its interval as the note."""
    if value is None or not math.isfinite(value):
        return Cell("–")
    return Cell(number(value, digits), f"{number(low, digits)} to {number(high, digits)}")


def to_rich(table: Table) -> RichTable:
    """The table for a terminal: notes dim, on a line of their own."""
    out = RichTable(title=table.title or None, caption=table.caption or None, title_justify="left")
    out.caption_justify = "left"
    for i, column in enumerate(table.columns):
        heading = Text(column.value)
        if column.note:
            heading.append(f"\n{column.note}", "dim")
        out.add_column(heading, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for row in table.rows:
        cells = (Text(cell.value).append(f"\n{cell.note}" * bool(cell.note), "dim") for cell in row)
        out.add_row(*cells)
    return out


def print_table(table: Table, console: Console | None = None) -> None:
    """Print to standard output, turned on its side when too wide for the terminal.

    Where nobody watches (a pipe, a file) lines may be long, so nothing is cut.
    """
    console = Console() if console is None else console
    if not console.is_terminal:
        console = Console(file=console.file, width=400, color_system=None)
    rendered = to_rich(table)
    # `maximum` is capped at the console's width: measure with room to spare.
    room = console.options.update(width=10_000)
    if Measurement.get(console, room, rendered).maximum > console.width:
        rendered = to_rich(table.transposed())
    rendered.caption = None  # rich centres captions and cuts them to the table's width
    console.print(rendered)
    if table.caption:
        console.print(Text(table.caption, "dim"))


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, notes in brackets."""

    def write(cell: Cell) -> str:
        text = f"{cell.value} ({cell.note})" if cell.note else cell.value
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rules = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [line([write(cell) for cell in table.columns]), line(rules)]
    lines += [line([write(cell) for cell in row]) for row in table.rows]
    if table.title:
        lines = [f"**{table.title}**", "", *lines]
    if table.caption:
        lines += ["", table.caption]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """The table as an HTML fragment, all text escaped."""

    def write(cell: Cell) -> str:
        note = f"<small>{html.escape(cell.note)}</small>" if cell.note else ""
        return f"{html.escape(cell.value)}{note}"

    head = "".join(f'<th scope="col">{write(cell)}</th>' for cell in table.columns)
    body = "".join(
        f'<tr><th scope="row">{write(row[0])}</th>'
        + "".join(f"<td>{write(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows
    )
    title = f"<h3>{html.escape(table.title)}</h3>" if table.title else ""
    caption = f'<p class="note">{html.escape(table.caption)}</p>' if table.caption else ""
    return (
        f'{title}<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>{caption}\n"
    )
