"""Prompts from a file: one per line of a .txt, or one per object of a .jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rewardjax.data.lines import STDIN, check_file, display_name, parse_object, read_lines
from rewardjax.errors import RewardJaxError, nearest


class PromptRow(NamedTuple):
    """A prompt, the index that seeds its samples, and where it stands."""

    text: str
    index: int
    where: str


def read_prompts(path: str | Path, field: str = "prompt") -> list[PromptRow]:
    """Prompts of a text file (a line each) or JSONL (dotted `field`), plain or .gz; `-` is stdin.

    A JSONL row's integer `index` replaces its position; standard input is JSONL when its first
    line begins with a brace.

    Raises:
        RewardJaxError: no such file, an empty one, an empty prompt, a broken line, a missing
            field, or an index that is no integer or stands there twice.
    """
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
        rows = [
            PromptRow(text.rstrip("\r\n"), i, f"{name}:{n}") for i, (n, text) in enumerate(lines)
        ]
    elif suffix in (".jsonl", ".ndjson"):
        rows = list(_json_rows(lines, name, field))
    else:
        raise RewardJaxError(
            f"file {name!r}: cannot tell the format from the name; expected .txt or .jsonl"
        )
    _check(rows)
    return rows


def _json_rows(lines: list[tuple[int, str]], name: str, field: str) -> Iterator[PromptRow]:
    for position, (number, line) in enumerate(lines):
        where = f"{name}:{number}"
        row = parse_object(line, where)
        index = row.get("index", position)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**32:
            raise RewardJaxError(f"{where}: index is {index!r}; expected an integer in 0 .. 2^32-1")
        yield PromptRow(_lookup(row, field, where), index, where)


def _lookup(row: dict[str, Any], field: str, where: str) -> str:
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            keys = list(value) if isinstance(value, dict) else []
            raise RewardJaxError(
                f"{where}: no field {field!r}; the row has {', '.join(map(str, keys)) or 'none'}"
                f"{nearest(part, keys)}; name the prompt's field with --prompt-field"
            )
        value = value[part]
    if not isinstance(value, str):
        raise RewardJaxError(f"{where}: {field} is a {type(value).__name__}; expected a string")
    return value


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
