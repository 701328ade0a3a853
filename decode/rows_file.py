"""The JSONL file a decoding job writes: whole rows only, resumable, never half a file.

Rows go to `FILE.partial`, with the job's settings in `FILE.partial.json`; the finished file is
renamed into place. A special file (a pipe, /dev/stdout) or `-` is written to directly.

The order of the steps lets a kill between any two of them be told apart afterwards: an empty
partial file, its description (whole or not at all), rows, the renaming, and last the description
goes. So rows never stand beside the description of another job, and a description without a
partial file belongs to a finished one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from rewardjax.data.lines import json_object
from rewardjax.errors import RewardJaxError, short
from rewardjax.report.write import check_writable, write_text


class RowsFile(AbstractContextManager):
    """Writes rows in order. `done` rows of an interrupted run of the same job stand already;
    `finished` when it was killed after its last step but one, and nothing is left to do."""

    def __init__(self, path: str, settings: dict[str, Any], *, resume: bool, overwrite: bool):
        """Checks everything and opens nothing.

        Raises:
            RewardJaxError: missing folder, a file that is in the way, or a partial file of other
                settings.
        """
        self.done = 0
        self.finished = False
        self.settings = settings
        self._file: IO[bytes] | None = None
        self.direct = path == "-" or (Path(path).exists() and not Path(path).is_file())
        if path != "-" and Path(path).is_dir():
            raise RewardJaxError(f"--out {path!r} is a folder; expected a file name")
        if self.direct:
            self.path = None if path == "-" else Path(path)
            return
        self.path = check_writable(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.description = self.path.with_name(self.path.name + ".partial.json")
        if self.path.exists() and not overwrite:
            if not resume or self.partial.exists() or not self.description.exists():
                raise RewardJaxError(
                    f"--out {path!r} exists; name another file, or pass --overwrite to replace it"
                )
            self._compare()
            self.finished = True
            self.description.unlink()
        elif self.partial.exists():
            if resume:
                self.done = self._recover()
            elif not overwrite:
                raise RewardJaxError(
                    f"{str(self.partial)!r} holds an unfinished run; pass --resume to go on with"
                    " it or --overwrite to start over"
                )

    def _compare(self) -> None:
        """Raises RewardJaxError unless the description is there and is this job's."""
        try:
            before = json_object(self.description.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RewardJaxError(
                f"{str(self.description)!r} cannot be read ({error}); pass --overwrite to restart"
            ) from error
        changed = [k for k in self.settings if before.get(k) != self.settings[k]]
        if changed:
            name = changed[0]
            raise RewardJaxError(
                f"{self.description}: cannot resume: {name} was {short(before.get(name))} and is"
                f" {short(self.settings[name])}; use the same settings, or --overwrite to start"
                " over"
            )

    def _recover(self) -> int:
        """Cuts off what a kill left half-written; the number of whole rows before it.

        Rows are parsed: no kill damages one, but a disk may, and nobody would look at it again.
        """
        if not self.partial.stat().st_size:
            return 0  # killed before there was a row: the description may not be there yet
        self._compare()
        with self.partial.open("r+b") as file:
            rows = size = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                rows, size = rows + 1, size + len(line)
                try:
                    json_object(line.decode("utf-8"))
                except ValueError as error:
                    raise RewardJaxError(
                        f"{self.partial}:{rows}: {error}; cut the file before this line, or pass"
                        " --overwrite to start over"
                    ) from None
            file.truncate(size)
        return rows

    def __enter__(self) -> RowsFile:
        if self.path is None:
            self._file = sys.stdout.buffer
        elif self.direct:
            self._file = self.path.open("wb")
        else:
            self._file = self.partial.open("ab" if self.done else "wb")
            if not self.done:
                write_text(self.description, json.dumps(self.settings) + "\n")
        return self

    def write(self, row: dict[str, Any]) -> None:
        """One row, flushed, so that a kill loses at most a row that is being written."""
        assert self._file is not None
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise RewardJaxError(
                f"a row for prompt {short(row.get('prompt'))} holds numbers that are not finite; "
                "the weights of the LM or of the reward model are damaged: get them again"
            ) from error
        self.write_line(line.encode("utf-8"))

    def write_line(self, line: bytes) -> None:
        """A row as it is, its newline included."""
        assert self._file is not None
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:  # which does not say itself what was written to
            error.filename = "standard output" if self.path is None else str(self.path)
            raise

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._file is not None
        if self.path is None:
            return
        if kind is not None:
            with contextlib.suppress(OSError):  # a full disk again: the first error says it
                self._file.close()
            return
        if not self.direct:
            os.fsync(self._file.fileno())
        self._file.close()
        if not self.direct:
            os.replace(self.partial, self.path)
            self.description.unlink(missing_ok=True)
