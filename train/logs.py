"""Metrics of a run: rows of metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """A value that JSON can say: what is not finite becomes None (null)."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsLog:
    """Writer of RUN_DIR/metrics.jsonl, one row per call, and of TensorBoard scalars beside it.

    Args:
      run_dir: an existing directory.
      after: forget rows of later steps than this (a resumed run writes them again).
      writes: whether it is this process, of several that run the job, that writes.
    """

    def __init__(self, run_dir: Path, *, after: int = 0, writes: bool = True) -> None:
        self._path = run_dir / "metrics.jsonl"
        self.rows: list[dict[str, Any]] = []
        self._board: Any = None
        self._file = None
        if not writes:
            return
        self.rows = [row for row in _read(self._path) if row["step"] <= after]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a", encoding="utf-8")
        if importlib.util.find_spec("tensorboard") is not None:
            summary = importlib.import_module("tensorboard.summary")
            self._board = summary.Writer(str(run_dir / "tensorboard"))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one row; it is on its way to the disk when this returns."""
        row = {"step": step, **plain(values)}
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last row of a killed run may be cut short
            break
    return rows
