"""The folder of an experiment: what was made lies there under a name that says from what.

A name ends in a hash of the settings and input files behind it, so a stopped run goes on, a
changed setting makes new files, the old ones stay and serve again when it is changed back, and
several experiments in one folder share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rewardjax.cli import program
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.settings import Experiment, slug
from rewardjax.report.write import write_text


class OutOfTime(Exception):
    """The hours given are over: what was made stays, and the next run goes on."""


class Workspace:
    """Runs commands once each, and remembers what they cost."""

    def __init__(self, config: Experiment) -> None:
        self.config = config
        self.folder = Path(config.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self.id = self._named()
        self._costs = self.folder / "costs.json"
        self.costs = self._recorded()
        self.used: set[str] = set()
        """what this experiment asked for: others may share the folder"""
        # No path is replaced inside a longer one.
        longest_first = sorted(config.inputs, key=lambda path: (-len(path), path))
        self._digests = {path: _digest(Path(path)) for path in longest_first}

    @property
    def inputs(self) -> dict[str, str]:
        """Hashes of the files that are read, by their names; a folder (a judge) is not a file."""
        files = {path: digest for path, digest in self._digests.items() if Path(path).is_file()}
        return {Path(path).name: digest for path, digest in sorted(files.items())}

    def place(self, kind: str, name: str, behind: Any, suffix: str = "") -> Path:
        """Where something belongs: KIND/NAME-HASH, the hash being of `behind`."""
        text = json.dumps(behind, sort_keys=True, default=str)
        for path, digest in self._digests.items():
            text = text.replace(json.dumps(path)[1:-1], digest)
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        return folder / f"{slug(name)}-{hashlib.sha256(text.encode()).hexdigest()[:10]}{suffix}"

    def command(self, output: Path, words: tuple[str, ...], argv: Sequence[str]) -> None:
        """Run a command of rewardjax unless its output is there.

        Raises:
          OutOfTime: no further step may start.
        """
        text = " ".join(["rewardjax", *words, *map(shlex.quote, argv)])
        self.once(output, text, lambda: program(*words)(list(argv)))

    def once(self, output: Path, text: str, make: Callable[[], Any]) -> None:
        """Make `output` unless it is there; `text` says how, for people and for the record."""
        key = str(output.relative_to(self.folder))
        self.used.add(key)
        if output.exists():
            return
        hours = self.config.hours
        if hours is not None and time.monotonic() - self._began > 3600 * hours:
            raise OutOfTime
        Console(highlight=False, markup=False, soft_wrap=True).print(f"$ {text}", style="dim")
        wall, cpu = time.monotonic(), time.process_time()
        try:
            make()
        finally:  # a step that is stopped midway took time too
            spent = {
                "seconds": time.monotonic() - wall,
                "cpu_seconds": time.process_time() - cpu,
            }
            self.costs = self._recorded()  # another experiment in this folder may have written
            before = self.costs.get(key, {})
            total = {name: round(before.get(name, 0.0) + x, 2) for name, x in spent.items()}
            self.costs[key] = {"command": text, **total}
            write_text(self._costs, json.dumps(self.costs, indent=1, ensure_ascii=False) + "\n")
        if not output.exists():
            raise RewardJaxError(f"{text!r} ended without {str(output)!r}; run it again by itself")

    def _named(self) -> str:
        """A name by which results say where a number was made."""
        path = self.folder / "workspace.txt"
        if not path.is_file():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        return path.read_text(encoding="utf-8").strip()

    def _recorded(self) -> dict[str, dict[str, Any]]:
        if not self._costs.is_file():
            return {}
        return json.loads(self._costs.read_text(encoding="utf-8"))

    def made(self, kind: str = "") -> list[float]:
        """Seconds of every step whose output is there, of one kind (`models/` …) or of all."""
        return [
            cost["seconds"]
            for key, cost in self.costs.items()
            if key.startswith(kind) and (self.folder / key).exists()
        ]

    def record(self) -> list[dict[str, Any]]:
        """What the steps of this experiment took, in the order they were made."""
        return [cost for key, cost in self.costs.items() if key in self.used]

    def cost(self, output: Path) -> dict[str, Any]:
        """What making `output` took; empty when it is not known."""
        return self.costs.get(str(output.relative_to(self.folder)), {})


def _digest(path: Path) -> str:
    """Hash of a file's content, or of the files of a folder (a judge)."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
