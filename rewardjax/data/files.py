"""Reading labelled texts from JSONL, CSV, TSV, Parquet and hub datasets, with line numbers.

The standard readers are used because they say where they are: a bad row is reported as
`file:line: reason`. A local path that does not exist is never tried as a hub id.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rewardjax.data.examples import BadRow, DataConfig, Examples, check, collect
from rewardjax.errors import RewardJaxError, nearest

Row = tuple[str, Callable[[], dict[str, Any]]]
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "tsv"}


def cache_dir() -> Path:
    """The user's cache directory for this library: REWARDJAX_CACHE, or the platform's usual one."""
    if own := os.environ.get("REWARDJAX_CACHE"):
        return Path(own).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "rewardjax"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rewardjax"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "rewardjax" / "Cache"
    return Path.home() / ".cache" / "rewardjax"


def read_examples(config: DataConfig) -> Examples:
    """All labelled texts that the settings name.

    Raises:
      RewardJaxError: missing, empty, binary or broken file; missing column; a bad row.
    """
    check(config)
    if (config.path is None) == (config.hub is None):
        raise RewardJaxError(
            "data needs exactly one of data.path (a local file) and data.hub (a dataset id)"
        )
    if config.hub is not None:
        return collect(_hub_rows(config), config, f"dataset {config.hub!r}")
    path = Path(str(config.path))
    kind = _format(path, config)
    rows = _parquet_rows(path) if kind == "parquet" else _text_rows(path, kind, config)
    return collect(rows, config, f"data file {str(path)!r}")


def _format(path: Path, config: DataConfig) -> str:
    if not path.is_file():
        if path.is_dir():
            what = "is a directory"
        else:
            siblings = path.parent.iterdir() if path.parent.is_dir() else ()
            what = "does not exist" + nearest(path.name, (p.name for p in siblings)).rstrip("?")
        raise RewardJaxError(
            f"data file {str(path)!r} {what}; expected a .jsonl, .csv, .tsv or .parquet file "
            "(for a dataset of the hub use data.hub)"
        )
    if path.stat().st_size == 0:
        raise RewardJaxError(f"data file {str(path)!r} is empty; expected labelled texts")
    if config.format != "auto":
        return config.format
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix == ".parquet":
        return "parquet"
    if suffix not in _SUFFIXES:
        raise RewardJaxError(
            f"data file {str(path)!r}: cannot tell the format from the name; set data.format to "
            "jsonl, csv, tsv or parquet"
        )
    return _SUFFIXES[suffix]


def _lines(path: Path) -> Iterator[str]:
    """Decoded lines with their line ends; a file that is no text is refused."""
    zipped = path.name.lower().endswith(".gz")
    line = 1
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as raw:
            for line, data in enumerate(raw, 1):
                if b"\0" in data:
                    raise RewardJaxError(
                        f"{path}:{line}: holds NUL bytes; expected a UTF-8 text file, not binary"
                    )
                # "utf-8-sig" drops the mark that some spreadsheets put in front
                yield data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RewardJaxError(
            f"{path}:{line}: byte {error.start + 1} is not UTF-8; expected a UTF-8 text file"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RewardJaxError(
            f"data file {str(path)!r} is no whole gzip file ({error}); unpack it or copy it again"
        ) from None


def _text_rows(path: Path, kind: str, config: DataConfig) -> Iterator[Row]:
    if kind == "jsonl":
        return _json_rows(path)
    return _table_rows(path, config, tabs=kind == "tsv")


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield f"{path}:{number}", lambda line=line: _json_row(line)


def _json_row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRow(f"broken JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadRow(f"a JSON {type(row).__name__}, expected an object with named fields")
    return row


def _tsv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Quoting is off: a quote is a character like any other, and a line is a row."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split("\t")


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """CSV after RFC 4180; a quoted field may span lines, and the number is that of the first."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_lines(path), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Where the row ends is unknown from here on: skipping it would lose others silently.
            raise RewardJaxError(f"{path}:{number}: not valid CSV: {error}") from None
        if values:
            yield number, values


def _table_rows(path: Path, config: DataConfig, *, tabs: bool) -> Iterator[Row]:
    names: list[str] | None = None
    for number, values in _tsv_records(path) if tabs else _csv_records(path):
        if names is None:
            names = values if config.header else [str(i + 1) for i in range(len(values))]
            _check_columns(path, names, config)
            if config.header:
                continue
        yield f"{path}:{number}", lambda names=names, values=values: _table_row(names, values)


def _check_columns(path: Path, names: list[str], config: DataConfig) -> None:
    for name in (config.text, *config.labels):
        if name not in names:
            kind = "the header names" if config.header else "without a header they are"
            raise RewardJaxError(
                f"{path}:1: column {name!r} is missing; {kind} "
                f"{', '.join(map(repr, names))}{nearest(name, names)}"
            )


def _table_row(names: list[str], values: list[str]) -> dict[str, Any]:
    if len(values) != len(names):
        raise BadRow(f"{len(values)} columns, expected {len(names)}")
    return dict(zip(names, values, strict=True))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", lambda row=row: row
    except pa.ArrowException as error:
        raise RewardJaxError(
            f"data file {str(path)!r} is no whole Parquet file ({error})"
        ) from None


def _hub_rows(config: DataConfig) -> Iterator[Row]:
    hub = str(config.hub)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub) or hub.startswith("."):
        raise RewardJaxError(
            f"data.hub is {hub!r}; expected a dataset id, owner/name (for a local file use "
            "data.path)"
        )
    if Path(hub).exists():
        raise RewardJaxError(f"data.hub {hub!r} is a local path; use data.path for it")
    import datasets

    try:
        table = datasets.load_dataset(
            hub, config.hub_config, split=config.hub_split, revision=config.hub_revision
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RewardJaxError(
            f"dataset {hub!r}, split {config.hub_split!r}, could not be loaded: {reason[0]}"
        ) from error
    for number, row in enumerate(table):  # pyright: ignore[reportArgumentType]
        yield f"{hub}: row {number + 1}", lambda row=row: dict(row)
