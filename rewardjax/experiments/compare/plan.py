"""What a comparison consists of: its cells, and where what has no cell lies."""

from __future__ import annotations

from pathlib import Path

from rewardjax.experiments.compare.settings import decoded, models
from rewardjax.experiments.compare.steps import Cell, Steps


def planned_cells(steps: Steps) -> list[Cell]:
    """Every cell: curves of the first seed, the other seeds at the chosen β, the full protocol.

    Cells at a β that is not chosen yet are left out.
    """
    config = steps.config
    first, *others = config.seeds
    cells = []
    for arm in config.arms:
        cells.append(Cell(arm, None, first, 0.0))
        for model in decoded(config, arm):
            cells += [Cell(arm, model, first, beta) for beta in config.betas]
    for arm in config.arms:
        full = arm.full and config.protocol.full_prompts > 0
        if full:
            cells.append(Cell(arm, None, first, 0.0, full=True))
        for model in decoded(config, arm):
            beta = steps.chosen_beta(arm, model)
            if beta is None:
                continue
            if full and model.full:
                cells.append(Cell(arm, model, first, beta, full=True))
            if arm.other_seeds:
                cells += [Cell(arm, model, seed, beta) for seed in others]
    return cells


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
