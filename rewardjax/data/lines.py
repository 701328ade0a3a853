"""Lines of text files, plain or .gz or standard input, with the errors that files can have."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from rewardjax.errors import RewardJaxError, nearest, short

STDIN = "-"
LONGEST = 1 << 23
"""Bytes of one line: a row is far shorter, and a small .gz could fill the memory with one."""


def display_name(path: str | Path) -> str:
    """How errors call the file."""
    return "<standard input>" if str(path) == STDIN else str(path)


def check_file(path: str | Path, expected: str, *, kind: str = "file") -> None:
    """Raises RewardJaxError where there is no such file, or it is a folder, or it is empty.

    Args:
        expected: what the file should be, in words.
        kind: what to call it, such as "data file".
    """
    if str(path) == STDIN:
        return
    path = Path(path)
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = nearest(path.name, (sibling.name for sibling in siblings))
        raise RewardJaxError(f"{kind} {str(path)!r} does not exist; expected {expected}{hint}")
    if path.is_dir():
        raise RewardJaxError(f"{kind} {str(path)!r} is a folder; expected {expected}")
    if path.is_file() and path.stat().st_size == 0:
        raise RewardJaxError(f"{kind} {str(path)!r} is empty; expected {expected}")


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its line end) of every line.

    Raises:
        RewardJaxError: not UTF-8 text, binary data, an endless line, or a damaged gzip file:
            `file:line: reason`.
    """
    name, number = display_name(path), 0
    try:
        with _open(path) as stream:
            for number, data in enumerate(iter(lambda: stream.readline(LONGEST + 1), b""), 1):
                if len(data) > LONGEST:
                    raise RewardJaxError(
                        f"{name}:{number}: a line of more than {LONGEST >> 20} MiB; expected one "
                        "row per line"
                    )
                if b"\0" in data:
                    raise RewardJaxError(f"{name}:{number}: binary data; expected UTF-8 text")
                # "utf-8-sig" drops the mark that some spreadsheets put in front
                yield number, data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RewardJaxError(
            f"{name}:{number}: byte {error.start + 1} is not UTF-8; expected UTF-8 text"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RewardJaxError(
            f"{name}:{number + 1}: damaged gzip file ({error}); write or copy it again"
        ) from None


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object on one line. Raises RewardJaxError beginning with `where`."""
    try:
        return json_object(line)
    except ValueError as reason:
        raise RewardJaxError(f"{where}: {reason}") from None


def json_object(line: str) -> dict[str, Any]:
    """The JSON object on one line. Raises ValueError with the reason."""
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno}); expected one JSON object per line"
        ) from None
    except RecursionError:
        raise ValueError("JSON nested too deeply; expected a flat row") from None
    except _Twice as error:
        raise ValueError(f"the key {error} stands there twice; expected each once") from None
    except ValueError:  # Python reads no integer of more than 4,300 digits
        raise ValueError("JSON with an endless number; expected ordinary numbers") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}; expected an object")
    return value


class _Twice(ValueError):
    """A key that an object has twice, quoted."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        raise _Twice(short(next(key for key, _ in pairs if key in seen or seen.add(key))))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def listed(names: Iterable[object], most: int = 8) -> str:
    """The first names, quoted and cut, for a message: a file may have any number of any length."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(map(short, names[:most])) or "none") + more


def half_surrogate(text: str) -> bool:
    """True for text that is not valid Unicode: JSON's `\\ud83d` without its other half, or bytes
    of the command line that are no UTF-8. Tokenizers refuse it."""
    return re.search("[\ud800-\udfff]", text) is not None


def _open(path: str | Path) -> io.BufferedIOBase:
    if str(path) == STDIN:
        return cast(io.BufferedIOBase, sys.stdin.buffer)
    path = Path(path)
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")
