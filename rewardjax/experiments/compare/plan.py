"""What a comparison consists of: its cells, and where what has no cell lies."""

from __future__ import annotations

from pathlib import Path

from rewardjax.experiments.compare.settings import ArmConfig, decoded, models, strengths
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


def speed_path(steps: Steps) -> Path:
    """JSON of decoding speeds."""
    config = steps.config
    timed = {
        model.name: steps.training(model, config.seeds[0])
        for model in models(config)
        if model.decode
    }
    behind = [timed, config.top_k, max(config.betas), config.protocol.max_new_tokens]
    return steps.work.place("speed", "speed", behind, ".json")


def controls_path(steps: Steps) -> Path:
    """Folder of the synthetic controls."""
    return steps.work.folder / "controls"
