"""Everything that was measured, as one JSON-ready dict: the page and README are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rewardjax.config import to_plain
from rewardjax.data.generations import group_by_prompt, read_rows
from rewardjax.experiments.compare.plan import controls_path, planned_cells, speed_path
from rewardjax.experiments.compare.programs import program_of
from rewardjax.experiments.compare.settings import (
    ArmConfig,
    ModelConfig,
    decoded,
    models,
    strengths,
)
from rewardjax.experiments.compare.steps import PERPLEXITY, Cell, Steps
from rewardjax.experiments.record import public, record
from rewardjax.metrics.tradeoff import Curve, area_between

SHOWN_PROMPTS = 3
_MEASURE = ("name", "scorer", "version", "note")
"""What a metric is: the same in every cell, so it is published once."""
_NUMBERS = ("value", "low", "high", "prompts", "dropped", "undefined")
"""What it is in a cell. The values of each prompt stay in the workspace, but for a curve's axes."""

_AGREEMENT = ("texts", "observed", "candidates")
_ERRORS = ("eval/objective", "eval/distillation_error", "eval/squared_error")
"""By which a run's best checkpoint is chosen: the first of these that it logs."""
_INTERVALS = ("eval/detection",)
"""Metrics of a training run that are a value with its interval."""


def collect(steps: Steps, command: str = "", *, finished: bool = True) -> dict[str, Any]:
    """What is there so far; `unfinished` counts cells that are not. `command`: as it was typed."""
    config = steps.config
    every = models(config)
    planned = planned_cells(steps)
    cells = [_cell(steps, cell) for cell in planned]
    known = [cell for cell in cells if cell is not None]
    return record(steps.work, command) | {
        "earlier": steps.published.records,
        "models": [_model(steps, model) for model in every],
        "sweeps": [
            {"name": s.name, "field": s.field, "values": list(s.values)} for s in config.sweeps
        ],
        "arms": [_arm(steps, arm) for arm in config.arms],
        "measures": _measures(steps, planned),
        "cells": known,
        "areas": [
            area
            for arm in config.arms
            for model in config.models[1:]
            if model in decoded(config, arm)
            and (area := _area(steps, arm, config.models[0], model))
        ],
        "speed": _stamped(steps, speed_path(steps)) or steps.published.speed,
        "controls": _controls(steps),
        "samples": [sample for arm in config.arms for sample in _samples(steps, arm)],
        "finished": finished and len(known) == len(cells),
        "unfinished": {"cells": len(cells) - len(known)},
    }


def _model(steps: Steps, model: ModelConfig) -> dict[str, Any]:
    settings = steps.training(model, steps.config.seeds[0])
    architecture = settings.get("reward_model", {})
    own = architecture.get("backbone", "base") == "own"
    return {
        "name": model.name,
        "program": program_of(model).name,
        "teacher": model.teacher,
        "reward_model": architecture,
        "objective": settings.get("objective", {}),
        "link": model.link,
        "betas": list(model.betas),
        # What a reward model reads for one generated token, its own transformer being meant.
        "reads_per_token": steps.config.top_k if steps.reads_candidates(model) else int(own),
        "seeds": [_seed(steps, model, seed) for seed in steps.config.seeds],
    }


def _seed(steps: Steps, model: ModelConfig, seed: int) -> dict[str, Any]:
    folder, output = steps.run_dir(model, seed), steps.trained(model, seed)
    log = output.parent / "metrics.jsonl"  # of the last round
    rows = [json.loads(x) for x in log.read_text().splitlines()] if log.is_file() else []
    evaluated = [row for row in rows if any(key.startswith("eval/") for key in row)]
    if steps.training(model, seed).get("checkpoint", {}).get("export") == "best":
        kept = [row for row in evaluated if row["step"]]  # a run keeps no checkpoint before a step
        metric = next((m for m in _ERRORS if kept and m in kept[-1]), None)
        evaluated += [min(kept, key=lambda row: row[metric])] if metric else []
    last: dict[str, Any] = {}
    for row in [*rows[:1], *evaluated]:
        last |= {k: v for k, v in row.items() if isinstance(v, int | float) or k in _INTERVALS}
    cost = steps.work.cost(output)
    rank = _read(steps.rank(model, seed) / "rank.json")
    if rank:
        rank = {key: rank[key] for key in ("sets", "seconds")}
        _shorten(rank["sets"], first=seed == steps.config.seeds[0])
    agreement = _read(steps.agreement(model, seed))
    if agreement:
        agreement = {key: agreement[key] for key in _AGREEMENT}
    known = steps.published.seed(model.name, seed)
    if known:  # trained in another workspace, where its texts come from; analysed there or here
        return known | {
            "rank": rank or known["rank"],
            "agreement": agreement or known["agreement"],
        }
    return {
        "seed": seed,
        "workspace": steps.work.id,
        "finished": output.is_dir(),
        "metrics": _named(last),
        "before": _named(_first(folder / "round-1" / "metrics.jsonl")),
        "schedule": _read(folder / "schedule.json"),
        "held_out": _read(output.parent / "held_out.json"),
        "seconds": cost.get("seconds"),
        "cpu_seconds": cost.get("cpu_seconds"),
        "rank": rank,
        "agreement": agreement,
    }


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k.split("/")[0] in ("eval", "data", "model")}


def _first(log: Path) -> dict[str, Any]:
    """The first row of a fine-tuning's log: the LM as it was."""
    if not log.is_file():
        return {}
    with log.open(encoding="utf-8") as rows:
        return json.loads(next(rows, "{}"))


def _shorten(sets: dict[str, Any], *, first: bool) -> None:
    """Spectra with four digits and growth with N of the first seed only: ranks are kept of all."""
    for found in sets.values():
        for analysis in (found["analysis"], found["check_full"], found["check_sample"]):
            for part in (analysis or {}).values():
                values = part["singular_values"] if first else []
                part["singular_values"] = [float(f"{value:.4g}") for value in values]
                if not first:
                    part["growth"] = part["growth"][-1:]


def _arm(steps: Steps, arm: ArmConfig) -> dict[str, Any]:
    chosen = {m.name: steps.chosen_beta(arm, m) for m in decoded(steps.config, arm)}
    return to_plain(arm) | {
        "prompts": Path(arm.prompts).name,
        "betas": list(strengths(steps.config, arm)),
        "chosen_beta": chosen,
    }


def _cell(steps: Steps, cell: Cell) -> dict[str, Any] | None:
    numbers = steps.measured(cell)
    if numbers is None:
        return None
    if "workspace" in numbers:  # of another workspace: as it was published there
        metrics, axes = numbers["metrics"], numbers.get("per_prompt")
        own = {key: {n: m[n] for n in _NUMBERS if n in m} for key, m in metrics.items()}
        return numbers | {"metrics": own} | ({"per_prompt": axes} if axes else {})
    metrics = {
        key: {name: _rounded(metric[name]) for name in _NUMBERS if name in metric}
        for key, metric in numbers["metrics"].items()
    }
    cost = steps.work.cost(steps.texts(cell))
    return {
        "arm": cell.arm.name,
        "model": cell.model.name if cell.model else None,
        "workspace": steps.work.id,
        "seed": cell.seed,
        "beta": cell.beta,
        "full": cell.full,
        "prompts": numbers["prompts"],
        "texts": numbers["texts"],
        "seconds": cost.get("seconds"),
        "metrics": metrics,
        **_per_prompt(steps, cell, numbers),
    }


def _per_prompt(steps: Steps, cell: Cell, numbers: dict[str, Any]) -> dict[str, Any]:
    """Values of each prompt on the two axes of a curve, which areas between curves are made of."""
    if cell.full or cell.seed != steps.config.seeds[0]:
        return {}
    axes = [key for key in (cell.arm.metric, PERPLEXITY) if key in numbers["metrics"]]
    kept = {key: {k: numbers["metrics"][key][k] for k in ("values", "weights")} for key in axes}
    for metric in kept.values():
        metric["values"] = [_rounded(value) for value in metric["values"]]
    return {"per_prompt": kept}


def _measures(steps: Steps, cells: list[Cell]) -> dict[str, dict[str, Any]]:
    """Metric → its name, and the judge with its version and what it was fitted on."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for key, metric in (steps.measured(cell) or {"metrics": {}})["metrics"].items():
            measure = {name: metric[name] for name in _MEASURE if name in metric}
            before = found.setdefault(key, measure)
            # A judge that was fitted again on another machine: the same but for rounding.
            known = before["version"].split(" and ")
            new = [v for v in measure["version"].split(" and ") if v not in known]
            before["version"] = " and ".join([*known, *new])
    return public(steps.config, found)


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _area(
    steps: Steps, arm: ArmConfig, reference: ModelConfig, model: ModelConfig
) -> dict[str, Any] | None:
    if any(len(strengths(steps.config, arm, each)) < 2 for each in (model, reference)):
        return None  # no curve: a line from the unguided texts to one point would be made up
    curves = [_curve(steps, arm, each) for each in (model, reference)]
    if curves[0] is None or curves[1] is None:  # a published area is that of published cells
        cells = [cell for each in (model, reference) for cell in _cells(steps, arm, each)]
        ours = any(steps.numbers(cell).is_file() for cell in cells)
        return None if ours else steps.published.area(arm.name, model.name, reference.name)
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
    found = [steps.measured(cell) for cell in _cells(steps, arm, model)]
    if any(f is None or PERPLEXITY not in f["metrics"] for f in found):
        return None
    if any("values" not in f["metrics"][arm.metric] for f in found if f is not None):
        return None  # of another workspace
    arrays = []
    for key in (arm.metric, PERPLEXITY):
        metrics = [f["metrics"][key] for f in found if f is not None]
        values = np.array([m["values"] for m in metrics], np.float64)  # None becomes NaN
        weights = [m["weights"] or [1.0] * len(m["values"]) for m in metrics]
        arrays.append((values, np.where(np.isfinite(values), np.array(weights), 0.0)))
    (attribute, weights), (perplexity, perplexity_weights) = arrays
    return Curve(attribute, perplexity, weights, perplexity_weights)


def _cells(steps: Steps, arm: ArmConfig, model: ModelConfig) -> list[Cell]:
    """The cells of a curve: unguided, then the model's by rising β."""
    seed, betas = steps.config.seeds[0], sorted(strengths(steps.config, arm, model))
    return [Cell(arm, None, seed, 0.0), *(Cell(arm, model, seed, beta) for beta in betas)]


def _samples(steps: Steps, arm: ArmConfig) -> list[dict[str, Any]]:
    """The first sample of the first prompts, unguided and under each model at its β."""
    config = steps.config
    seed = config.seeds[0]
    columns: list[tuple[str, Cell]] = [("unguided", Cell(arm, None, seed, 0.0))]
    for model in config.models:
        beta = steps.chosen_beta(arm, model) if model in decoded(config, arm) else None
        if beta is not None:
            label = f"{model.name}, β = {beta:g}" if beta else model.name
            columns.append((label, Cell(arm, model, seed, beta)))
    texts: dict[str, list[dict[str, str]]] = {}
    for label, cell in columns:
        path = steps.texts(cell)
        rows = (group[0] for group in group_by_prompt(read_rows(path))) if path.is_file() else ()
        shown = [(row.prompt, row.text) for row in rows][:SHOWN_PROMPTS]
        for prompt, text in shown or steps.published.samples(arm.name, label):
            texts.setdefault(prompt, []).append({"label": label, "text": text})
    return [{"arm": arm.name, "prompt": p, "columns": found} for p, found in texts.items()]


def _controls(steps: Steps) -> dict[str, Any] | None:
    """The controls, where this comparison asks for them: another of its folder may have."""
    if not steps.config.controls:
        return None
    return _stamped(steps, controls_path(steps) / "controls.json") or steps.published.controls


def _stamped(steps: Steps, path: Path) -> dict[str, Any] | None:
    """A step's JSON with the workspace that it was made in and no path, or None before."""
    found = _read(path)
    return found and public(steps.config, found) | {"workspace": steps.work.id}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
