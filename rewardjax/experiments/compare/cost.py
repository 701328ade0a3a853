"""What a comparison will cost, before it starts: matrix products counted, this machine measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rewardjax.experiments import estimate
from rewardjax.experiments.compare.plan import planned_cells, untrained
from rewardjax.experiments.compare.programs import program_of
from rewardjax.experiments.compare.settings import decoded, models, strengths
from rewardjax.experiments.compare.steps import Cell, Steps
from rewardjax.experiments.estimate import unembedding, weights
from rewardjax.export import architecture
from rewardjax.lm import LMConfig, OpenedLM, open_lm
from rewardjax.report.table import Table
from rewardjax.rewards import RewardModelConfig

PROMPT = 16
"""Tokens of a prompt, about."""
TEXT = 16
"""Tokens of a training text, about; training texts are not read for an estimate."""
TEXTS = 20_000


def table(steps: Steps) -> Table:
    """Hours of each kind of step: what is left, estimated, and what was made, measured."""
    config = steps.config
    opened = open_lm(config.lm, dtype=config.dtype)
    judge = open_lm(config.perplexity_lm).config if config.perplexity_lm else None
    speed = estimate.speed()
    training = [operations / speed for operations in trainings(steps, opened)]
    decoding, evaluation = [], []
    for cell in _all_cells(steps):
        if steps.measured(cell) is not None:
            continue
        evaluation.append(_reading(steps, cell, judge) / speed)
        if not steps.texts(cell).is_file():
            decoding.append(_decoding(steps, cell, opened) / speed)
    left = {
        ("training", "models/"): training,
        ("decoding", "texts/"): decoding,
        ("evaluation", "numbers/"): evaluation,
    }
    made = steps.work.made
    others = sum(made()) - sum(sum(made(folder)) for _, folder in left)
    caption = "Rank analysis, controls and speed are not in the estimate"
    caption += f" ({others / 3600:.1f} h so far)." if others > 1 else "."
    return estimate.table(steps.work, left, caption)


def _all_cells(steps: Steps) -> list[Cell]:
    """Planned cells; where β is not chosen yet, the middle one of the grid stands for it."""
    config = steps.config
    cells = planned_cells(steps)
    for arm in config.arms:
        for model in decoded(config, arm):
            betas = sorted(strengths(config, arm, model))
            middle = betas[len(betas) // 2]
            if steps.chosen_beta(arm, model) is None:
                others = config.seeds[1:] if arm.other_seeds else ()
                cells += [Cell(arm, model, seed, middle) for seed in others]
                if arm.full and model.full and config.protocol.full_prompts:
                    cells.append(Cell(arm, model, config.seeds[0], middle, full=True))
    return cells


def _backbone(settings: dict[str, Any], opened: OpenedLM) -> LMConfig | None:
    model = architecture(RewardModelConfig(**settings.get("reward_model", {})), opened)
    return model.transformer


def trainings(steps: Steps, opened: OpenedLM) -> Iterator[float]:
    """Operations of every training that is left. What a pass over the texts gives is kept, so that
    only the first model which needs it pays for it."""
    paid: set[str] = set()
    left = untrained(steps)
    for seed in steps.config.seeds:
        for model in models(steps.config):
            settings = steps.training(model, seed)
            operations, passes = _OF_PROGRAM[program_of(model).name](settings, opened)
            if (model.name, seed) in left:
                yield operations + sum(cost for key, cost in passes.items() if key not in paid)
            if (model.name, seed) in left or steps.trained(model, seed).is_dir():
                paid |= passes.keys()


def _training(settings: dict[str, Any], opened: OpenedLM) -> tuple[float, dict[str, float]]:
    """Operations of the steps, and of each pass before them under the name of what it gives."""
    data, objective = settings.get("data", {}), settings.get("objective", {})
    texts = json.dumps([data, None if "split_seed" in data else settings["seed"]], sort_keys=True)
    tokens = (data.get("max_examples") or TEXTS) * TEXT
    transformer = _backbone(settings, opened)
    passes = {}
    if "teacher" in settings:
        asked = objective.get("num_candidates", 8) * (
            objective.get("targets", "observed") != "observed"
        )
        name = f"targets {asked} {settings['teacher']} {texts}"
        teacher = transformer or opened.config  # a teacher is as large as its student, about
        passes[name] = 2 * tokens * (1 + asked) * weights(teacher)
    if transformer is None:  # the head's own products are few beside the LM's one pass
        layer = settings.get("reward_model", {}).get("layer", -1)
        passes[f"states {layer} {texts}"] = 2 * tokens * weights(opened.config)
        return 0.0, passes
    epochs = settings.get("optim", {}).get("epochs", 1.0)
    return 6 * tokens * epochs * weights(transformer), passes


def _nado(settings: dict[str, Any], opened: OpenedLM) -> tuple[float, dict[str, float]]:
    """Each round's texts are sampled and read once; the head's own products are few."""
    sampled = _sampling(settings, opened)
    return (settings.get("rounds", 1) - 1) * sampled, {_samples(settings): sampled}


def _fine_tuning(settings: dict[str, Any], opened: OpenedLM) -> tuple[float, dict[str, float]]:
    rounds, objective = settings.get("rounds", 1), settings.get("objective", {})
    tokens = (settings.get("data", {}).get("max_examples") or TEXTS) * TEXT
    epochs = settings.get("optim", {}).get("epochs", 1.0)
    every = weights(opened.config) + unembedding(opened.config)
    steered = objective.get("kl_weight", 1.0) > 0
    batches = 1 + (steered and objective.get("prefixes") == "samples")  # of texts, and of samples
    own = settings.get("refit") or "samples" in (objective.get("prefixes"), objective.get("source"))
    sampled = _sampling(settings, opened) if own else 0.0
    updates = rounds * (6 + 2 * steered) * batches * epochs * tokens * every
    return updates + (rounds - 1) * sampled, {_samples(settings): sampled} if own else {}


def _samples(settings: dict[str, Any]) -> str:
    """Name of what the LM samples for a first round: whoever asks for the same copies it."""
    return json.dumps([settings.get("prompts"), settings.get("sampling")], sort_keys=True)


def _sampling(settings: dict[str, Any], opened: OpenedLM) -> float:
    """Operations of drawing a run's own texts, and of reading them again."""
    prompts, sampling = settings.get("prompts", {}), settings.get("sampling", {})
    texts = (prompts.get("limit") or TEXTS // 10) * sampling.get("num_samples", 10)
    tokens = texts * (sampling.get("max_new_tokens", 64) + PROMPT)
    return 2.0 * tokens * (2 * weights(opened.config) + unembedding(opened.config))


_OF_PROGRAM = {
    "reward-model": _training,
    "distill": _training,
    "nado": _nado,
    "attribute": _fine_tuning,
}


def _decoding(steps: Steps, cell: Cell, opened: OpenedLM) -> float:
    config, protocol = steps.config, steps.config.protocol
    prompts = protocol.full_prompts if cell.full else protocol.prompts
    samples = protocol.full_samples if cell.full else protocol.samples
    per_token = 2.0 * (weights(opened.config) + unembedding(opened.config))
    if cell.model is not None and not program_of(cell.model).makes_lm:
        settings = steps.training(cell.model, cell.seed)
        transformer = _backbone(settings, opened)
        if transformer is not None:
            rad = settings["reward_model"].get("parametrization") == "rad"
            per_token += 2.0 * weights(transformer) * (config.top_k if rad else 1)
    tokens = prompts * (samples * protocol.max_new_tokens + PROMPT)
    return tokens * per_token


def _reading(steps: Steps, cell: Cell, judge: LMConfig | None) -> float:
    if judge is None:
        return 0.0
    protocol = steps.config.protocol
    prompts = protocol.full_prompts if cell.full else protocol.prompts
    samples = protocol.full_samples if cell.full else protocol.samples
    texts = prompts * min(samples, protocol.perplexity_samples or samples)
    read = (PROMPT + protocol.max_new_tokens) * weights(judge)
    return 2.0 * texts * (read + protocol.max_new_tokens * unembedding(judge))
