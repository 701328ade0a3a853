"""Several processes decode one file of prompts: each its own share, put together at the end.

Prompts are dealt out in turn, so each process is done at about the same time. A process writes
`OUT.<job>-<index>-of-<count>`, which it goes on with after a kill like any other file; when all are
there, the first process merges them in the order of the prompts and takes them away.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rewardjax import hosts
from rewardjax.errors import RewardJaxError

from .rows_file import RowsFile

POLL = 0.5
"""Seconds between looks at what the other processes have written."""


class Share:
    """This process's part of a job; of a process alone, all of it.

    Args:
      out: the job's file.
      settings: of the job; shares of other settings have other names.
    """

    def __init__(self, out: str, settings: dict[str, Any], *, resume: bool, overwrite: bool):
        """Checks everything and opens nothing.

        Raises:
          RewardJaxError: as `RowsFile`; shares of another job in the way; no file to merge into.
        """
        self.index, self.count = hosts.index(), hosts.count()
        how = {"resume": resume, "overwrite": overwrite}
        self.whole, self.settings, self.overwrite = out, settings, overwrite
        if self.count == 1:
            self.rows = RowsFile(out, settings, **how)
            self.finished = self.rows.finished
            return
        if out == "-" or (Path(out).exists() and not Path(out).is_file()):
            raise RewardJaxError(
                f"--out {out!r} is no file that {self.count} processes could merge their rows"
                " into; name one"
            )
        job = json.dumps([settings, self.count], sort_keys=True)
        name = f"{out}.{hashlib.sha256(job.encode()).hexdigest()[:8]}"
        self.files = [Path(f"{name}-{i}-of-{self.count}") for i in range(self.count)]
        self.finished = self._check(resume, overwrite)
        hosts.wait("shares checked")
        mine = self.files[self.index]
        self.finished |= mine.exists() and not overwrite
        if not self.finished:
            self.rows = RowsFile(str(mine), settings, **how)
            self.finished = self.rows.finished

    def _check(self, resume: bool, overwrite: bool) -> bool:
        """Whether all is merged. Nothing may stand there but what this very job left."""
        if overwrite:
            return False
        out = Path(self.whole)
        begun = sorted(p.name for p in out.absolute().parent.glob(f"{out.name}.*-*-of-*"))
        if out.exists():
            if resume and self.files[-1].name in begun:  # killed while it took the shares away
                return True
            raise RewardJaxError(
                f"--out {self.whole!r} exists; name another file, or pass --overwrite to replace it"
            )
        ours = {
            f"{file.name}{end}" for file in self.files for end in ("", ".partial", ".partial.json")
        }
        if others := [name for name in begun if name not in ours]:
            raise RewardJaxError(
                f"{others[0]!r} beside --out {self.whole!r} is of a job with other settings or"
                " another number of processes; use the same, or --overwrite to start over"
            )
        if begun and not resume:
            raise RewardJaxError(
                f"{begun[0]!r} holds an unfinished run; pass --resume to go on with it or"
                " --overwrite to start over"
            )
        return False

    def of(self, rows: Any) -> Any:
        """Every count-th of the prompts, of which there is at least one.

        Raises:
          RewardJaxError: there are more processes than prompts.
        """
        if len(rows) < self.count:
            raise RewardJaxError(
                f"{len(rows)} prompts are fewer than the {self.count} processes; use fewer"
            )
        return rows if self.count == 1 else rows[self.index :: self.count]

    def merge(self, samples: int) -> None:
        """Wait for the other shares, and make one file of all.

        Args:
          samples: rows of a prompt, which stay together.
        """
        if self.count == 1:
            return
        if self.index:
            while self.files[self.index].exists():  # the first takes it away when it is done
                time.sleep(POLL)
            return
        if not Path(self.whole).exists() or self.overwrite:
            while not all(file.exists() for file in self.files):
                time.sleep(POLL)
            with RowsFile(self.whole, self.settings, resume=False, overwrite=True) as out:
                for line in _in_turn(self.files, samples):
                    out.write_line(line)
        for file in self.files:  # the last one last: while it stands, this is not over
            file.unlink(missing_ok=True)


def _in_turn(files: Sequence[Path], samples: int) -> Iterator[bytes]:
    """`samples` lines of each file after the other, again and again."""
    opened = [file.open("rb") for file in files]
    try:
        for file in itertools.cycle(opened):
            lines = list(itertools.islice(file, samples))
            if not lines:  # prompts were dealt out in turn: where one ends, all do
                return
            yield from lines
    finally:
        for file in opened:
            file.close()
