"""The order of a comparison's steps: what shows most comes first, so a part is worth reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardjax.data.prompts import read_prompts
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.compare import speed
from rewardjax.experiments.compare.plan import (
    agreements,
    controls_path,
    curve_cells,
    full_cells,
    planned_cells,
    ranks,
    speed_path,
)
from rewardjax.experiments.compare.prefix_sets import prefix_texts
from rewardjax.experiments.compare.programs import program_of, shared
from rewardjax.experiments.compare.settings import CompareConfig, ModelConfig, models
from rewardjax.experiments.compare.steps import Steps, judges
from rewardjax.experiments.settings import merge
from rewardjax.export import architecture
from rewardjax.lm import open_lm
from rewardjax.report.write import write_text


def prepare(config: CompareConfig) -> None:
    """Look at everything that can be wrong before any work: settings, files, judges, LMs.

    Raises:
      RewardJaxError: naming the model or arm.
    """
    opened = open_lm(config.lm, dtype=config.dtype)
    if config.perplexity_lm is not None:
        open_lm(config.perplexity_lm)
    scorers = [scorer.name for scorer in judges(config)]
    for arm in config.arms:
        need = config.protocol.prompts + (config.protocol.full_prompts if arm.full else 0)
        found = len(read_prompts(arm.prompts, arm.prompt_field, where=arm.where))
        if found < need:
            raise RewardJaxError(
                f"arm {arm.name!r} has {found} prompts; expected at least {need}: protocol.prompts"
                " and, apart from them, protocol.full_prompts"
            )
        scorer = arm.metric.rpartition(".")[0]
        if scorer not in scorers:
            raise RewardJaxError(
                f"arm {arm.name!r}: metric {arm.metric!r} is of {scorer!r}, which is none of the "
                f"scorers ({', '.join(scorers) or 'none'})"
            )
    if config.rank.held_out is not None:
        prefix_texts(config)
    for model in models(config):
        settings = merge(shared(config, model), model.settings)
        where, program = f"model {model.name!r}", program_of(model)
        found = program.check(settings, where)
        if not program.makes_lm:
            architecture(found.reward_model, opened)


def run(steps: Steps) -> None:
    """Every step that is not made yet.

    Raises:
      OutOfTime: the hours given are over.
    """
    config = steps.config
    first, *others = config.seeds
    every = models(config)
    for model in every:
        _train(steps, model, first)
    for arm in config.arms:
        for part in (curve_cells, full_cells):  # the second is at the β that the first gives
            for cell in part(steps, arm):
                steps.cell(cell)
    if config.arms and (speed_path(steps).exists() or not steps.published.speed):
        _once(steps, speed_path(steps), "speed of decoding", lambda: speed.measure(steps))
    for seed in others:
        for model in every:
            _train(steps, model, seed)
    for seed, model in agreements(config):
        known = steps.published.seed(model.name, seed) or {}
        if steps.agreement(model, seed).exists() or not known.get("agreement"):
            steps.measure_agreement(model, seed)
    for cell in planned_cells(steps):
        steps.cell(cell)
    out = controls_path(steps) / "controls.json"
    if config.controls and (out.exists() or not steps.published.controls):
        steps.work.command(out, ("analyze", "controls"), ["--out", str(out.parent)])
    for seed, model in ranks(steps):
        known = steps.published.seed(model.name, seed) or {}
        if (steps.rank(model, seed) / "rank.json").exists() or not known.get("rank"):
            steps.analyse_rank(model, seed)


def _train(steps: Steps, model: ModelConfig, seed: int) -> None:
    """Train a model, unless another workspace has and nothing here needs its weights."""
    if steps.trained(model, seed).exists() or not steps.published.seed(model.name, seed):
        steps.train(model, seed)


def _once(steps: Steps, path: Path, what: str, make: Any) -> None:
    steps.work.once(path, what, lambda: write_text(path, json.dumps(make(), indent=1) + "\n"))
