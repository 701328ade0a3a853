"""What a comparison consists of: its cells, and where what has no cell lies."""

from __future__ import annotations

from pathlib import Path

from rewardjax.experiments.compare.programs import program_of
from rewardjax.experiments.compare.settings import (
    ArmConfig,
    CompareConfig,
    ModelConfig,
    decoded,
    models,
    strengths,
)
from rewardjax.experiments.compare.steps import Cell, Steps


def planned_cells(steps: Steps) -> list[Cell]:
    """Every cell of every arm; those at a β that is not chosen yet are left out."""
    parts = (curve_cells, full_cells, other_seed_cells)
    return [cell for part in parts for arm in steps.config.arms for cell in part(steps, arm)]


def curve_cells(steps: Steps, arm: ArmConfig) -> list[Cell]:
    """Unguided, and each model's first seed at every β."""
    config, first = steps.config, steps.config.seeds[0]
    return [Cell(arm, None, first, 0.0)] + [
        Cell(arm, model, first, beta)
        for model in decoded(config, arm)
        for beta in strengths(config, arm, model)
    ]


def full_cells(steps: Steps, arm: ArmConfig) -> list[Cell]:
    """The full protocol: unguided, and each main model at its chosen β."""
    config, first = steps.config, steps.config.seeds[0]
    if not (arm.full and config.protocol.full_prompts):
        return []
    chosen = [(m, steps.chosen_beta(arm, m)) for m in decoded(config, arm) if m.full]
    return [Cell(arm, None, first, 0.0, full=True)] + [
        Cell(arm, model, first, beta, full=True) for model, beta in chosen if beta is not None
    ]


def other_seed_cells(steps: Steps, arm: ArmConfig) -> list[Cell]:
    """The other training seeds of each model, at the β that was chosen with the first."""
    others = steps.config.seeds[1:] if arm.other_seeds else ()
    chosen = [(m, steps.chosen_beta(arm, m)) for m in decoded(steps.config, arm)]
    return [Cell(arm, m, seed, beta) for m, beta in chosen if beta is not None for seed in others]


def agreements(config: CompareConfig) -> list[tuple[int, ModelConfig]]:
    """Seeds and models whose agreement with the first model is measured."""
    if not config.agreement.texts:
        return []
    others = [m for m in models(config)[1:] if not program_of(m).makes_lm]
    return [(seed, model) for seed in config.seeds for model in others]


def ranks(steps: Steps) -> list[tuple[int, ModelConfig]]:
    """Seeds and models whose rank is analysed: of a model that runs on candidates the first seed,
    and last of all, since it takes longer than all the others."""
    config = steps.config
    if config.rank.held_out is None:
        return []
    return sorted(
        (
            (seed, model)
            for seed in config.seeds[: config.rank.seeds]
            for model in models(config)
            if not program_of(model).makes_lm
            and (seed == config.seeds[0] or not steps.reads_candidates(model))
        ),
        key=lambda one: steps.reads_candidates(one[1]),
    )


def untrained(steps: Steps) -> set[tuple[str, int]]:
    """Names and seeds of models that are to be trained: those that no workspace has trained, and
    those whose weights a missing number needs."""
    config, first = steps.config, steps.config.seeds[0]
    by_name = {model.name: model for model in models(config)}
    known = {(n, s): steps.published.seed(n, s) for n in by_name for s in config.seeds}
    needed = {key for key, found in known.items() if found is None}
    for cell in planned_cells(steps):
        if cell.model is not None and steps.measured(cell) is None:
            needed.add((cell.model.name, cell.seed))
    for seed, model in agreements(config):
        if not (known[model.name, seed] or {}).get("agreement"):
            needed |= {(model.name, seed), (next(iter(by_name)), first)}
    for seed, model in ranks(steps):
        if not (known[model.name, seed] or {}).get("rank"):
            needed.add((model.name, seed))
    made = {(n, s) for n, s in known if steps.trained(by_name[n], s).is_dir()}
    for name, model in reversed(by_name.items()):  # a student's teacher stands before it
        if model.teacher and any((name, seed) in needed - made for seed in config.seeds):
            needed.add((model.teacher, first))
    return needed - made


def speed_path(steps: Steps) -> Path:
    """JSON of decoding speeds."""
    config = steps.config
    timed = {
        model.name: steps.training(model, config.seeds[0])
        for model in config.models
        if model.decode
    }
    behind = [timed, config.top_k, max(config.betas), config.protocol.max_new_tokens]
    return steps.work.place("speed", "speed", behind, ".json")


def controls_path(steps: Steps) -> Path:
    """Folder of the synthetic controls."""
    return steps.work.folder / "controls"
