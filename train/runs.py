"""`rewardjax runs`: the training runs below a folder, their state and best metrics."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rewardjax.config import load_yaml, parse
from rewardjax.errors import RewardJaxError
from rewardjax.lock import held

from .settings import OBJECTIVE_METRIC, PROBE_METRIC, error_metric


@dataclass(frozen=True)
class RunsConfig:
    """Which runs are listed."""

    folder: Annotated[str, tyro.conf.Positional] = "runs"
    """where to look, in it and below"""
    json: bool = False
    """print JSON in place of a table"""


@dataclass(frozen=True)
class RunState:
    """What a run's folder says."""

    run: str
    """its folder"""
    state: str
    """finished, running, or stopped (resumable)"""
    lm: str
    parametrization: str
    backbone: str
    step: int
    """the last update that was logged"""
    metric: str
    """what says which evaluation is best"""
    best: float | None
    """None: nothing was evaluated yet"""
    best_step: int | None
    seconds: float | None
    """of training so far"""
    changed: str
    """when something was logged last, local time"""


def main(argv: list[str]) -> int:
    """`rewardjax runs [FOLDER]`."""
    config = parse(
        RunsConfig,
        argv,
        prog="rewardjax runs",
        description="The training runs below a folder, their state and best metrics.",
    )
    folder = Path(config.folder)
    if not folder.is_dir():
        raise RewardJaxError(f"{config.folder!r} is no folder; name one that holds runs")
    found = sorted(find(folder), key=lambda run: run.changed)
    if config.json:
        print(json.dumps([dataclasses.asdict(run) for run in found], indent=1))
        return 0
    if not found:
        print(f"no training runs in {config.folder}")
        return 0
    from rewardjax.report.table import print_table

    print_table(_table(found))
    return 0


def find(folder: Path) -> Iterator[RunState]:
    """Every run in a folder and below: a folder with config.yaml and metrics.jsonl."""
    for path in sorted(folder.rglob("config.yaml")):
        if (path.parent / "metrics.jsonl").is_file():
            yield read(path.parent)


def read(run: Path) -> RunState:
    """State of the run in a folder.

    Raises:
      RewardJaxError: its config.yaml is not readable.
    """
    settings = load_yaml(run / "config.yaml")
    log = run / "metrics.jsonl"
    lines = log.read_bytes().decode("utf-8", "replace").splitlines()
    rows = [row for line in lines if (row := _row(line))]
    objective, model = _section(settings, "objective"), _section(settings, "reward_model")
    targets = objective.get("targets", "") if settings.get("teacher") else None
    probe, tuned = (isinstance(settings.get(name), dict) for name in ("probe", "nado"))
    metric = error_metric(targets if targets is None else str(targets))
    if probe:
        metric = PROBE_METRIC
    elif tuned or "consistency_weight" in objective:
        metric = OBJECTIVE_METRIC
    scored = [(row[metric], row["step"]) for row in rows if _number(row, metric)]
    best, best_step = (max if probe else min)(scored, default=(None, None))
    result = "probe/probe.json" if probe else "reward_model/config.json"
    if tuned:  # a round of a run, whose folder is held
        result = "lm/config.json"
    busy = held(run.parent if tuned else run)
    state = "running" if busy else "finished" if (run / result).is_file() else "stopped"
    kind, detail = str(model.get("parametrization", "arm")), model.get("backbone", "base")
    if probe:
        kind, detail = "probe", objective.get("name", "")
    if tuned:
        kind, detail = "the LM itself", f"λ = {objective.get('kl_weight', '')}"
    times = [row["train/seconds"] for row in rows if _number(row, "train/seconds")]
    moment = datetime.datetime.fromtimestamp(log.stat().st_mtime)
    return RunState(
        run=str(run),
        state=state,
        lm=str(settings.get("lm", "")),
        parametrization=kind,
        backbone=str(detail),
        step=max((row["step"] for row in rows), default=0),
        metric=metric,
        best=best,
        best_step=best_step,
        seconds=times[-1] if times else None,
        changed=moment.isoformat(" ", "seconds"),
    )


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # the last row of a killed run may be cut short
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if _number(row, "step") else None


def _number(row: dict[str, Any], name: str) -> bool:
    value = row.get(name)
    return isinstance(value, int | float) and abs(value) < 1e300  # false for NaN as well


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of config.yaml; of a run that cannot be resumed it may be anything."""
    value = settings.get(name)
    return value if isinstance(value, dict) else {}


def _table(found: list[RunState]) -> Any:
    from rewardjax.report.table import Cell, Table, number

    columns = ("run", "state", "reward model", "step", "best", "at step", "minutes", "changed")
    rows = [
        (
            Cell(run.run, run.lm),
            Cell(run.state),
            Cell(run.parametrization, run.backbone),
            Cell(str(run.step)),
            Cell(number(run.best, 4), run.metric),
            Cell("–" if run.best_step is None else str(run.best_step)),
            Cell(number(None if run.seconds is None else run.seconds / 60, 1)),
            Cell(run.changed),
        )
        for run in found
    ]
    return Table(tuple(map(Cell, columns)), tuple(rows))
