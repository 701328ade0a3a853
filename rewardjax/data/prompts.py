"""Prompts from a file: one per line of a .txt, or one per object of a .jsonl."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import numpy as np

from rewardjax.data.lines import STDIN, check_file, display_name, parse_object, read_lines
from rewardjax.data.select import Condition, Draw, lookup, parse_condition
from rewardjax.errors import RewardJaxError, short

IN_MEMORY = 1 << 22
"""Bytes of prompts that are held in memory; more of them lie in a temporary file."""


class PromptRow(NamedTuple):
    """A prompt, the index that seeds its samples, and where it stands."""

    text: str
    index: int
    where: str


class PromptFile(Iterable[PromptRow]):
    """The prompts drawn from a file, any number of them: read once, then kept on disk.

    Iterated over as often as wanted, whether the source was a file, a .gz or standard input, and
    whatever happens to it meanwhile. In memory are 8 bytes per prompt.
    """

    def __init__(self, name: str, rows: IO[bytes], starts: Sequence[int]):
        """`rows`: JSON lines [index, line number, text], of which those at `starts` are drawn."""
        self._name, self._rows, self._starts = name, rows, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[PromptRow]:
        return map(self._row, self._starts)

    @overload
    def __getitem__(self, number: int) -> PromptRow: ...
    @overload
    def __getitem__(self, number: slice) -> PromptFile: ...
    def __getitem__(self, number: int | slice) -> PromptRow | PromptFile:
        if isinstance(number, slice):
            return PromptFile(self._name, self._rows, self._starts[number])
        return self._row(self._starts[number])

    def _row(self, start: int) -> PromptRow:
        self._rows.seek(start)
        index, line, text = json.loads(self._rows.readline())
        return PromptRow(text, index, f"{self._name}:{line}")


def digest(rows: Iterable[PromptRow]) -> str:
    """sha256 over indices and texts in their order: the same for the same job's prompts."""
    content, between = hashlib.sha256(b"["), b""
    for row in rows:
        content.update(between + repr((row.index, row.text)).encode())
        between = b", "
    content.update(b"]")
    return content.hexdigest()


def read_prompts(path: str | Path, field: str = "prompt", **how: Any) -> list[PromptRow]:
    """The prompts of `open_prompts`, as a list."""
    return list(open_prompts(path, field, **how))


def open_prompts(
    path: str | Path,
    field: str = "prompt",
    *,
    where: Sequence[str] = (),
    limit: int | None = None,
    offset: int = 0,
    shuffle_seed: int | None = None,
) -> PromptFile:
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
    lines = _without_blank_end(read_lines(path))
    first = next(lines, None)
    if first is None:
        raise RewardJaxError(f"{name} holds no prompt; expected at least one line")
    lines = itertools.chain([first], lines)
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    if str(path) == STDIN:
        suffix = ".jsonl" if first[1].lstrip().startswith("{") else ".txt"
    if suffix == ".txt":
        if conditions:
            raise RewardJaxError(f"{name}: lines have no fields for --where; expected a .jsonl")
        parse = _text_row
    elif suffix in (".jsonl", ".ndjson"):
        parse = partial(_json_row, name, field, conditions)
    else:
        raise RewardJaxError(
            f"file {name!r}: cannot tell the format from the name; expected .txt or .jsonl"
        )
    spool = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  lives as long as what it holds
    starts, count = array("q"), 0
    for count, (number, line) in enumerate(lines, 1):
        if (row := parse(count - 1, number, line)) is not None:
            starts.append(spool.tell())
            # ASCII: half a surrogate pair, which the tokenizer's reader names, goes through too.
            spool.write(json.dumps([row[0], number, row[1]]).encode("ascii") + b"\n")
    drawn = PromptFile(
        name, spool, array("q", (starts[place] for place in draw.positions(len(starts))))
    )
    if not len(drawn):
        raise RewardJaxError(
            f"{name}: of {count} rows {len(starts)} meet --where, and none is left after "
            f"--offset {offset}; choose a weaker comparison or a smaller offset"
        )
    _check(drawn)
    return drawn


def _without_blank_end(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    blank = 0
    for number, line in lines:
        if not line.strip():
            blank += 1
            continue
        yield from ((number - back, "\n") for back in range(blank, 0, -1))
        yield number, line
        blank = 0


def _text_row(position: int, number: int, line: str) -> tuple[int, str]:
    return position, line.rstrip("\r\n")


def _json_row(
    name: str, field: str, conditions: list[Condition], position: int, number: int, line: str
) -> tuple[int, str] | None:
    """Index and text; None where a condition does not hold."""
    where = f"{name}:{number}"
    row = parse_object(line, where)
    if not all(condition.holds(row, where) for condition in conditions):
        return None
    index = row.get("index", position)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**32:
        raise RewardJaxError(
            f"{where}: index is {short(index)}; expected an integer in 0 .. 2^32-1"
        )
    text = lookup(row, field, where, "--prompt-field")
    if not isinstance(text, str):
        raise RewardJaxError(f"{where}: {field} is a {type(text).__name__}; expected a string")
    return index, text


def _check(rows: PromptFile) -> None:
    """Refuses empty prompts, and an index that stands there twice (4 bytes each to find it)."""
    indices = array("I")
    for row in rows:
        if not row.text.strip():
            raise RewardJaxError(f"{row.where}: empty prompt; expected some text, or no such line")
        indices.append(row.index)
    every = np.frombuffer(indices, np.uintc)
    order = np.argsort(every, kind="stable")
    again = order[1:][every[order[1:]] == every[order[:-1]]]
    if again.size:
        second = again.min()
        first = np.flatnonzero(every == every[second])[0]
        row, before = rows[int(second)], rows[int(first)]
        raise RewardJaxError(
            f"{row.where}: index {row.index} stands at {before.where} already; expected each"
            " index once, since it seeds the samples"
        )
