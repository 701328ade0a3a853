"""Settings of a training run that cannot mean anything, or that changed since it was begun."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rewardjax.data import settings as data_settings
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import PARAMETRIZATIONS, RewardModel
from rewardjax.rewards.next_token import NextTokenModel

from .settings import DistillConfig, TextsRun, TrainConfig

_LEAST = {
    "seed": 0,
    "optim.batch_size": 1,
    "optim.steps": 1,
    "optim.warmup_steps": 0,
    "optim.learning_rate": 0,
    "optim.weight_decay": 0,
    "optim.clip": 0,
    "optim.max_non_finite": 0,
    "eval.every": 1,
    "eval.log_every": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
}
_LEAST_PRIOR = {"objective.prior_weight": 0, "objective.num_random_tokens": 1}
_LEAST_DISTILLING = {"objective.num_candidates": 1, "objective.level_weight": 0}


def check_least(config: object, least: Mapping[str, float]) -> None:
    """Refuse numbers that are too small, infinite or NaN.

    Args:
      least: dotted name of a setting → its least value; unset ones are left alone.
    """
    for name, smallest in least.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        # false for NaN as well
        if value is not None and not (smallest <= value and abs(value) < math.inf):
            raise RewardJaxError(f"{name} is {value}; expected at least {smallest}, and finite")


def check_run(config: Any) -> None:
    """Refuse settings that every command that trains step by step has.

    Raises:
      RewardJaxError: naming the field, the value and what is expected.
    """
    check_least(config, _LEAST)
    optim = config.optim
    for name, value, most in (
        ("seed", config.seed, 2**32 - 1),
        ("optim.steps", optim.steps or 1, 2**31 - 1),
        ("optim.epochs", optim.epochs, 10**6),
    ):
        if value > most:
            raise RewardJaxError(f"{name} is {value}; expected at most {most}")
    for name, value in (("epochs", optim.epochs), ("eps", optim.eps)):
        if not 0 < value < math.inf:
            raise RewardJaxError(f"optim.{name} is {value}; expected more than 0, and finite")
    for name in ("b1", "b2"):
        if not 0 <= getattr(optim, name) < 1:
            raise RewardJaxError(
                f"optim.{name} is {getattr(optim, name)}; expected 0 <= {name} < 1"
            )


def check(config: TextsRun) -> None:
    """Refuse settings that cannot mean anything, before any file or weight is read.

    Raises:
      RewardJaxError: naming the field, the value and what is expected.
    """
    outputs, least = config.reward_model.outputs, _LEAST_PRIOR
    if isinstance(config, DistillConfig):
        least = least | _LEAST_DISTILLING
    check_run(config)
    check_least(config, least)
    data_settings.check(config.data)
    columns = data_settings.fill(config.data).labels
    if labelled(config) and len(columns) != outputs:
        raise RewardJaxError(
            f"data.labels names {len(columns)} columns and reward_model.outputs is "
            f"{outputs}; expected as many outputs as label columns"
        )
    if isinstance(config, DistillConfig):
        _check_distillation(config)
    kind = PARAMETRIZATIONS.get(config.reward_model.parametrization)
    plain = kind and (
        kind.position_rewards_and_prior is RewardModel.position_rewards_and_prior
        or getattr(kind, "delta", None) is NextTokenModel.delta
    )
    if plain and config.objective.prior_weight > 0:
        raise RewardJaxError(
            f"objective.prior_weight is {config.objective.prior_weight}, but "
            f"{config.reward_model.parametrization!r} has no prefix baseline; set it to 0"
        )


def labelled(config: TextsRun) -> bool:
    """Whether the texts' labels are read: always, except where distillation names none."""
    data = config.data
    named = bool(data.labels) or data.dataset is not None
    return isinstance(config, TrainConfig) or (named and data.constant_label is None)


def _check_distillation(config: DistillConfig) -> None:
    if not config.teacher:
        raise RewardJaxError(
            "teacher is empty; expected the folder of a trained reward model, such as "
            "RUN_DIR/reward_model"
        )
    if config.objective.targets == "delta" and config.objective.width < 2:
        raise RewardJaxError(
            "objective.targets delta compares candidates with each other, and there is 1; raise "
            "objective.num_candidates or set objective.include_observed"
        )


RESUME_MAY_CHANGE = frozenset(
    {"resume", "run_dir", "lm", "optim.epochs", "optim.steps", "eval.log_every", "checkpoint.every"}
    | {"checkpoint.keep", "checkpoint.export", "data.path", "teacher"}
    | {"compute.accumulate", "compute.remat", "optim.non_finite", "optim.max_non_finite"}
    | {"mesh.data", "mesh.fsdp", "mesh.tensor"}
    | {"hosts.join", "hosts.coordinator", "hosts.count", "hosts.index"}
)
"""Settings that may differ from config.yaml's when a run continues (the LM, the teacher and the
texts are compared by content)."""


def differences(
    old: object, new: object, may_change: frozenset[str] = RESUME_MAY_CHANGE
) -> list[str]:
    """Dotted names of the settings that differ and may not, when a run continues."""

    def flat(value: object, prefix: str = "") -> dict[str, object]:
        if not dataclasses.is_dataclass(value):
            return {prefix[:-1]: value}
        leaves: dict[str, object] = {}
        for item in dataclasses.fields(value):
            leaves |= flat(getattr(value, item.name), f"{prefix}{item.name}.")
        return leaves

    before, after = flat(old), flat(new)
    return [k for k in after if k not in may_change and before.get(k) != after[k]]
