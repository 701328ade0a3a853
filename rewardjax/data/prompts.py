"""Prompts from a file: one per line of a .txt, or one per object of a .jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rewardjax.data.lines import STDIN, check_file, display_name, parse_object, read_lines
from rewardjax.data.select import Condition, Draw, lookup, parse_condition
from rewardjax.errors import RewardJaxError


class PromptRow(NamedTuple):
    """A prompt, the index that seeds its samples, and where it stands."""

    text: str
    index: int
    where: str


def read_prompts(
    path: str | Path,
    field: str = "prompt",
    *,
    where: Sequence[str] = (),
    limit: int | None = None,
    offset: int = 0,
    shuffle_seed: int | None = None,
) -> list[PromptRow]:
    """Prompts of a text file (a line each) or JSONL (dotted `field`), plain or .gz; `-` is stdin.

    A JSONL row's integer `index` replaces its position; standard input is JSONL when its first
    line begins with a brace. Rows keep their index, whatever is left out around them.

    Args:
        where: comparisons (`prompt.toxicity>=0.5`) that a JSONL row must all meet; a value that
            is null meets none.
        limit, offset, shuffle_seed: of the rows that do, leave out `offset` and take `limit`, in
            the order of the file or in one drawn by the seed. The result is in the file's order.

    Raises:
        RewardJaxError: no such file, an empty one, an empty prompt, a broken line, a missing
            field, an index that is no integer or stands there twice, or no row to take.
    """
    conditions = [parse_condition(text) for text in where]
    draw = Draw(limit, offset, shuffle_seed)
    draw.check()
    check_file(path, "a .txt file with a prompt per line or a .jsonl file")
    name = display_name(path)
    lines = list(read_lines(path))
    while lines and not lines[-1][1].strip():
        lines.pop()
    if not lines:
        raise RewardJaxError(f"{name} holds no prompt; expected at least one line")
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    if str(path) == STDIN:
        suffix = ".jsonl" if lines[0][1].lstrip().startswith("{") else ".txt"
    if suffix == ".txt":
        if conditions:
            raise RewardJaxError(f"{name}: lines have no fields for --where; expected a .jsonl")
        rows = [
            PromptRow(text.rstrip("\r\n"), i, f"{name}:{n}") for i, (n, text) in enumerate(lines)
        ]
    elif suffix in (".jsonl", ".ndjson"):
        rows = list(_json_rows(lines, name, field, conditions))
    else:
        raise RewardJaxError(
            f"file {name!r}: cannot tell the format from the name; expected .txt or .jsonl"
        )
    drawn = draw.take(rows)
    if not drawn:
        raise RewardJaxError(
            f"{name}: of {len(lines)} rows {len(rows)} meet --where, and none is left after "
            f"--offset {offset}; choose a weaker comparison or a smaller offset"
        )
    _check(drawn)
    return drawn


def _json_rows(
    lines: list[tuple[int, str]], name: str, field: str, conditions: list[Condition]
) -> Iterator[PromptRow]:
    for position, (number, line) in enumerate(lines):
        where = f"{name}:{number}"
        row = parse_object(line, where)
        if not all(condition.holds(row, where) for condition in conditions):
            continue
        index = row.get("index", position)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**32:
            raise RewardJaxError(f"{where}: index is {index!r}; expected an integer in 0 .. 2^32-1")
        text = lookup(row, field, where, "--prompt-field")
        if not isinstance(text, str):
            raise RewardJaxError(f"{where}: {field} is a {type(text).__name__}; expected a string")
        yield PromptRow(text, index, where)


def _check(rows: list[PromptRow]) -> None:
    seen: dict[int, str] = {}
    for row in rows:
        if not row.text.strip():
            raise RewardJaxError(f"{row.where}: empty prompt; expected some text, or no such line")
        if row.index in seen:
            raise RewardJaxError(
                f"{row.where}: index {row.index} stands at {seen[row.index]} already; expected each"
                " index once, since it seeds the samples"
            )
        seen[row.index] = row.where
