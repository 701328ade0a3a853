"""Everything that was measured, as one JSON-ready dict: the page and README are made from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from rewardjax.config import to_plain
from rewardjax.data.generations import group_by_prompt, read_rows
from rewardjax.experiments.compare.settings import ArmConfig, ModelConfig, models
from rewardjax.experiments.compare.steps import PERPLEXITY, Cell, Steps
from rewardjax.experiments.versions import versions
from rewardjax.metrics.tradeoff import Curve, area_between

SHOWN_PROMPTS = 3
_NOT_PUBLISHED = ("values", "weights")  # one number per prompt: they stay in the workspace


def collect(steps: Steps, command: str = "") -> dict[str, Any]:
    """What is there so far; `unfinished` counts what is not. `command`: as it was typed."""
    config = steps.config
    every = models(config)
    cells = [_cell(steps, cell) for cell in planned_cells(steps)]
    known = [cell for cell in cells if cell is not None]
    return {
        "name": config.name,
        "question": config.question,
        "command": _public(steps, command),
        "settings": _settings(steps),
        "machine": machine(),
        "versions": versions(),
        "commit": _commit(),
        "models": [_model(steps, model) for model in every],
        "sweeps": [
            {"name": s.name, "field": s.field, "values": list(s.values)} for s in config.sweeps
        ],
        "arms": [_arm(steps, arm) for arm in config.arms],
        "cells": known,
        "areas": [
            area
            for arm in config.arms
            for model in config.models[1:]
            if model.decode and (area := _area(steps, arm, config.models[0], model))
        ],
        "speed": _read(speed_path(steps)),
        "controls": _read(controls_path(steps) / "controls.json"),
        "samples": [sample for arm in config.arms for sample in _samples(steps, arm)],
        "unfinished": {"cells": len(cells) - len(known)},
        "seconds": _total(steps, "seconds"),
        "cpu_seconds": _total(steps, "cpu_seconds"),
        "commands": [_public(steps, cost["command"]) for cost in steps.work.record()],
    }


def planned_cells(steps: Steps) -> list[Cell]:
    """Every cell: curves of the first seed, the other seeds at the chosen β, the full protocol.

    Cells at a β that is not chosen yet are left out.
    """
    config = steps.config
    first, *others = config.seeds
    decoded = [model for model in models(config) if model.decode]
    cells = []
    for arm in config.arms:
        cells.append(Cell(arm, None, first, 0.0))
        cells += [Cell(arm, model, first, beta) for model in decoded for beta in config.betas]
    for arm in config.arms:
        full = arm.full and config.protocol.full_prompts > 0
        if full:
            cells.append(Cell(arm, None, first, 0.0, full=True))
        for model in decoded:
            beta = steps.chosen_beta(arm, model)
            if beta is None:
                continue
            if full and model.full:
                cells.append(Cell(arm, model, first, beta, full=True))
            cells += [Cell(arm, model, seed, beta) for seed in others]
    return cells


def speed_path(steps: Steps) -> Path:
    """JSON of decoding speeds."""
    decoded = [steps.training(m, steps.config.seeds[0]) for m in models(steps.config) if m.decode]
    return steps.work.place("speed", "speed", [decoded, steps.config.top_k], ".json")


def controls_path(steps: Steps) -> Path:
    """Folder of the synthetic controls."""
    return steps.work.folder / "controls"


def machine() -> dict[str, Any]:
    """What it ran on, in words that fit a page."""
    import jax

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    devices = [device.device_kind for device in jax.devices()]
    return {"cpu": model, "cores": os.cpu_count(), "devices": devices, "system": platform.system()}


def _settings(steps: Steps) -> dict[str, Any]:
    plain = to_plain(steps.config)
    for name in ("out", "publish", "hours", "estimate"):
        del plain[name]
    return json.loads(_public(steps, json.dumps(plain)))


def _public(steps: Steps, text: str) -> str:
    """Text without paths, which only say where one works: OUT, and the files' own names."""
    config = steps.config
    paths = {str(steps.work.folder): "OUT"}
    for path in (
        *(pair.partition("=")[2] for pair in config.files),
        *(source for source in (config.lm, config.perplexity_lm) if source),
    ):
        paths[path] = Path(path).name
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(json.dumps(path)[1:-1], paths[path])
    return text


def _commit() -> str | None:
    try:
        here = Path(__file__).parent
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _model(steps: Steps, model: ModelConfig) -> dict[str, Any]:
    settings = steps.training(model, steps.config.seeds[0])
    architecture = settings.get("reward_model", {})
    own = architecture.get("backbone", "base") == "own"
    return {
        "name": model.name,
        "teacher": model.teacher,
        "reward_model": architecture,
        "objective": settings.get("objective", {}),
        # What a reward model reads for one generated token, its own transformer being meant.
        "reads_per_token": steps.config.top_k if steps.reads_candidates(model) else int(own),
        "seeds": [_seed(steps, model, seed) for seed in steps.config.seeds],
    }


def _seed(steps: Steps, model: ModelConfig, seed: int) -> dict[str, Any]:
    folder = steps.run_dir(model, seed)
    log = folder / "metrics.jsonl"
    rows = [json.loads(x) for x in log.read_text().splitlines()] if log.is_file() else []
    last: dict[str, Any] = {}
    for row in rows:
        if row["step"] == 0 or any(key.startswith("eval/") for key in row):
            last |= {k: v for k, v in row.items() if isinstance(v, int | float)}
    cost = steps.work.cost(folder / "reward_model")
    rank = _read(steps.rank(model, seed) / "rank.json")
    if rank:
        rank = {key: rank[key] for key in ("sets", "seconds")}
        _shorten(rank["sets"], spectra=seed == steps.config.seeds[0])
    return {
        "seed": seed,
        "finished": (folder / "reward_model").is_dir(),
        "metrics": {k: v for k, v in last.items() if k.split("/")[0] in ("eval", "data", "model")},
        "seconds": cost.get("seconds"),
        "cpu_seconds": cost.get("cpu_seconds"),
        "rank": rank,
    }


def _shorten(sets: dict[str, Any], *, spectra: bool) -> None:
    """Spectra with four digits, of the first seed only: ranks are kept of every seed."""
    for found in sets.values():
        for analysis in (found["analysis"], found["check_full"], found["check_sample"]):
            for part in (analysis or {}).values():
                values = part["singular_values"] if spectra else []
                part["singular_values"] = [float(f"{value:.4g}") for value in values]


def _arm(steps: Steps, arm: ArmConfig) -> dict[str, Any]:
    chosen = {
        model.name: steps.chosen_beta(arm, model) for model in models(steps.config) if model.decode
    }
    return to_plain(arm) | {"prompts": Path(arm.prompts).name, "chosen_beta": chosen}


def _cell(steps: Steps, cell: Cell) -> dict[str, Any] | None:
    numbers = steps.measured(cell)
    if numbers is None:
        return None
    metrics = {
        key: {k: v for k, v in metric.items() if k not in _NOT_PUBLISHED}
        for key, metric in numbers["metrics"].items()
    }
    cost = steps.work.cost(steps.texts(cell))
    return {
        "arm": cell.arm.name,
        "model": cell.model.name if cell.model else None,
        "seed": cell.seed,
        "beta": cell.beta,
        "full": cell.full,
        "prompts": numbers["prompts"],
        "texts": numbers["texts"],
        "seconds": cost.get("seconds"),
        "metrics": metrics,
    }


def _area(
    steps: Steps, arm: ArmConfig, reference: ModelConfig, model: ModelConfig
) -> dict[str, Any] | None:
    curves = [_curve(steps, arm, each) for each in (model, reference)]
    if curves[0] is None or curves[1] is None:
        return None
    area = area_between(curves[0], curves[1])
    numbers = {"value": area.value, "low": area.low, "high": area.high}
    return {
        "arm": arm.name,
        "model": model.name,
        "reference": reference.name,
        "metric": arm.metric,
        "prompts": area.n,
        **{key: x if np.isfinite(x) else None for key, x in numbers.items()},
    }


def _curve(steps: Steps, arm: ArmConfig, model: ModelConfig) -> Curve | None:
    seed = steps.config.seeds[0]
    cells = [Cell(arm, None, seed, 0.0)]
    cells += [Cell(arm, model, seed, beta) for beta in sorted(steps.config.betas)]
    found = [steps.measured(cell) for cell in cells]
    if any(f is None or PERPLEXITY not in f["metrics"] for f in found):
        return None
    arrays = []
    for key in (arm.metric, PERPLEXITY):
        metrics = [f["metrics"][key] for f in found if f is not None]
        values = np.array([m["values"] for m in metrics], np.float64)  # None becomes NaN
        weights = [m["weights"] or [1.0] * len(m["values"]) for m in metrics]
        arrays.append((values, np.where(np.isfinite(values), np.array(weights), 0.0)))
    (attribute, weights), (perplexity, perplexity_weights) = arrays
    return Curve(attribute, perplexity, weights, perplexity_weights)


def _samples(steps: Steps, arm: ArmConfig) -> list[dict[str, Any]]:
    """The first sample of the first prompts, unguided and under each model at its β."""
    config = steps.config
    seed = config.seeds[0]
    columns: list[tuple[str, Cell]] = [("unguided", Cell(arm, None, seed, 0.0))]
    for model in config.models:
        beta = steps.chosen_beta(arm, model) if model.decode else None
        if beta is not None:
            columns.append((f"{model.name}, β = {beta:g}", Cell(arm, model, seed, beta)))
    texts: dict[str, list[dict[str, str]]] = {}
    for label, cell in columns:
        path = steps.texts(cell)
        if path.is_file():
            for group in group_by_prompt(read_rows(path))[:SHOWN_PROMPTS]:
                row = group[0]
                texts.setdefault(row.prompt, []).append({"label": label, "text": row.text})
    return [{"arm": arm.name, "prompt": p, "columns": found} for p, found in texts.items()]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _total(steps: Steps, name: str) -> float:
    return round(sum(cost.get(name, 0.0) for cost in steps.work.record()), 1)
