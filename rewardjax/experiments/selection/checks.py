"""Settings of a selection experiment looked at, before any work."""

from __future__ import annotations

import math
from pathlib import Path

from rewardjax.errors import RewardJaxError
from rewardjax.experiments.selection.settings import SelectionConfig, TaskConfig, probes
from rewardjax.experiments.settings import slug

_LEAST = {
    "prompt_seed": 0,
    "train_prompts": 2,
    "train_samples": 2,
    "test_prompts": 1,
    "samples": 1,
    "guided_samples": 1,
}


def check(config: SelectionConfig) -> None:
    """Refuse what cannot mean anything.

    Raises:
      RewardJaxError: naming the setting.
    """
    if not config.tasks:
        raise RewardJaxError("tasks is empty; expected at least one task to judge choices on")
    _names("task", [task.name for task in config.tasks])
    if not config.losses:
        raise RewardJaxError("losses is empty; expected at least one of L_PG, L_CE, L_Q, L_QP")
    _names("probe (a loss or a variant)", [probe.name for probe in probes(config)])
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise RewardJaxError(f"seeds is {list(config.seeds)}; expected different integers >= 0")
    if not 0 < config.held_out < 1:
        raise RewardJaxError(f"held_out is {config.held_out}; expected 0 < held_out < 1")
    if not config.layers:
        raise RewardJaxError("layers is empty; expected at least one layer")
    if not (config.taus and all(0 < tau < math.inf for tau in config.taus)):
        raise RewardJaxError(f"taus is {list(config.taus)}; expected finite numbers above 0")
    if list(config.ks) != sorted(set(config.ks)) or not config.ks or config.ks[0] < 1:
        raise RewardJaxError(f"ks is {list(config.ks)}; expected rising integers from 1 on")
    if config.sweep_k not in config.ks:
        raise RewardJaxError(f"sweep_k is {config.sweep_k}; expected one of ks {list(config.ks)}")
    if config.batch_size < 1:
        raise RewardJaxError(f"batch_size is {config.batch_size}; expected at least 1")
    if config.hours is not None and not 0 < config.hours < math.inf:
        raise RewardJaxError(f"hours is {config.hours}; expected more than 0, and finite")
    for task in config.tasks:
        _check_task(config, task)


def _names(kind: str, names: list[str]) -> None:
    slugs = [slug(name) for name in names]
    if not all(slugs):
        raise RewardJaxError(f"a {kind} has no name of letters or digits; give each one a name")
    for place, name in enumerate(slugs):
        if name in slugs[:place]:
            raise RewardJaxError(
                f"two of a {kind} are called {names[place]!r}, or nearly so; expected different"
                " names"
            )


def _check_task(config: SelectionConfig, task: TaskConfig) -> None:
    where = f"task {task.name!r}"
    for name, least in _LEAST.items():
        if getattr(task, name) < least:
            raise RewardJaxError(
                f"{where}: {name} is {getattr(task, name)}; expected at least {least}"
            )
    if (task.task is None) == (not task.prompts):
        got = "both" if task.prompts else "neither"
        raise RewardJaxError(f"{where}: expected a file of prompts or task: arithmetic, got {got}")
    if not task.train_reward or not task.judges:
        missing = "judges" if task.train_reward else "train_reward"
        raise RewardJaxError(f"{where}: {missing} is empty; expected a scorer, such as vader")
    if task.samples < config.ks[-1]:
        raise RewardJaxError(
            f"{where}: samples is {task.samples} and the largest of ks {config.ks[-1]}; expected at"
            " least as many completions of each test prompt"
        )
    wrong = [size for size in config.data_sizes if not 2 <= size < task.train_prompts]
    if wrong:
        raise RewardJaxError(
            f"{where}: data_sizes has {wrong[0]} and train_prompts is {task.train_prompts};"
            " expected 2 or more, and fewer than these"
        )
    guides = [guide.name for guide in task.guides]
    if guides:
        _names(f"guide of {where}", guides)
    for guide in task.guides:
        if not (Path(guide.reward_model) / "config.json").is_file():
            raise RewardJaxError(
                f"{where}: guide {guide.name!r}: {guide.reward_model!r} is no folder of a reward"
                f" model; expected one of `rewardjax train"
                " reward-model`"
            )
        if not (guide.betas and all(0 < beta <= 1e6 for beta in guide.betas)):
            raise RewardJaxError(
                f"{where}: guide {guide.name!r}: betas is {list(guide.betas)}; expected numbers"
                " above 0, up to 1e6"
            )
