"""Rows of generated text, as `rewardjax decode guided` writes them: read, checked, grouped."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewardjax.errors import RewardJaxError


@dataclasses.dataclass(frozen=True)
class Row:
    """What evaluation needs of one continuation.

    `token_ids` and `kl` are [T], `rewards` is [T][A] (empty without a reward model); each is None
    where the file has no such field.
    """

    prompt: str
    text: str
    prompt_index: int
    sample_index: int
    token_ids: list[int] | None = None
    rewards: list[list[float]] | None = None
    kl: list[float] | None = None


def read_rows(path: str | Path) -> list[Row]:
    """Read and check a JSONL file (plain or .gz; `-` is standard input).

    Raises:
      RewardJaxError: no such file, no row, or a bad row: the message begins with `file:line`.
    """
    name = "<standard input>" if str(path) == "-" else str(path)
    rows: list[Row] = []
    seen: dict[tuple[int, int], int] = {}
    prompts: dict[int, tuple[str, int]] = {}
    for number, line in _lines(path, name):
        where = f"{name}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise RewardJaxError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); "
                "expected one JSON object per line"
            ) from error
        except RecursionError as error:
            raise RewardJaxError(f"{where}: JSON nested too deeply; expected a flat row") from error
        row = _check(value, where)
        key = (row.prompt_index, row.sample_index)
        if key in seen:
            raise RewardJaxError(
                f"{where}: prompt_index {key[0]}, sample_index {key[1]} is on line {seen[key]} "
                "already; expected each sample once"
            )
        prompt, first = prompts.setdefault(row.prompt_index, (row.prompt, number))
        if prompt != row.prompt:
            raise RewardJaxError(
                f"{where}: another prompt than line {first} under the same prompt_index "
                f"{row.prompt_index}; expected one index per prompt"
            )
        seen[key] = number
        rows.append(row)
    if not rows:
        raise RewardJaxError(f"{name} holds no row; expected JSONL from `rewardjax decode guided`")
    return rows


def group_by_prompt(rows: list[Row]) -> list[list[Row]]:
    """One list of samples per prompt, both in the order of their indices."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.prompt_index, row.sample_index)):
        groups.setdefault(row.prompt_index, []).append(row)
    return list(groups.values())


def _lines(path: str | Path, name: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of every line that is not blank."""
    if str(path) == "-":
        stream: Any = sys.stdin.buffer
    else:
        path = Path(path)
        if not path.exists():
            raise RewardJaxError(f"file {name!r} does not exist; expected JSONL of generated rows")
        if path.is_dir():
            raise RewardJaxError(f"{name!r} is a directory; expected a JSONL file")
        opened = gzip.open if path.suffix == ".gz" else open
        stream = opened(path, "rb")
    with stream:
        number = 0
        try:
            for number, raw in enumerate(stream, 1):
                if b"\0" in raw:
                    raise RewardJaxError(f"{name}:{number}: binary data; expected JSONL text")
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            raise RewardJaxError(
                f"{name}:{number}: not UTF-8 text (byte {error.start + 1}); expected JSONL"
            ) from error
        except (gzip.BadGzipFile, EOFError) as error:
            raise RewardJaxError(
                f"{name}:{number + 1}: damaged gzip file ({error}); write it again"
            ) from error


def _check(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise RewardJaxError(f"{where}: a {type(value).__name__}; expected a JSON object")
    for field in ("prompt", "text", "prompt_index", "sample_index"):
        if field not in value:
            raise RewardJaxError(
                f"{where}: no field {field!r}; expected a row of `rewardjax decode guided`"
            )
    for field in ("prompt", "text"):
        if not isinstance(value[field], str):
            raise RewardJaxError(f"{where}: {field} is {_short(value[field])}; expected a string")
    for field in ("prompt_index", "sample_index"):
        index = value[field]
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise RewardJaxError(f"{where}: {field} is {_short(index)}; expected an integer ≥ 0")
    rewards, kl = value.get("rewards"), value.get("kl")
    if rewards is not None:
        rows: list[Any] = rewards if isinstance(rewards, list) else [None]
        widths = {len(row) if _numbers(row) else -1 for row in rows}
        if -1 in widths or len(widths) > 1:
            raise RewardJaxError(
                f"{where}: rewards is {_short(rewards)}; expected a list of equally long lists of "
                "finite numbers, one per token"
            )
    if kl is not None and not _numbers(kl):
        raise RewardJaxError(
            f"{where}: kl is {_short(kl)}; expected a list of finite numbers, one per token"
        )
    return Row(
        prompt=value["prompt"],
        text=value["text"],
        prompt_index=value["prompt_index"],
        sample_index=value["sample_index"],
        token_ids=value.get("token_ids"),
        rewards=None if rewards is None else [[float(x) for x in token] for token in rewards],
        kl=None if kl is None else [float(x) for x in kl],
    )


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in value
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
