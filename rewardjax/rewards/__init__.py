"""Reward models: the parametrizations of the reward matrix, one file each, one contract."""

from __future__ import annotations

import difflib

from rewardjax.errors import RewardJaxError
from rewardjax.lm import LMConfig
from rewardjax.rewards.arm import Arm
from rewardjax.rewards.contract import (
    Hidden,
    RewardModel,
    RewardModelConfig,
    RewardParams,
    resolve_layer,
)
from rewardjax.rewards.rad import Rad

PARAMETRIZATIONS: dict[str, type[RewardModel]] = {
    "arm": Arm,
    "rad": Rad,
}


def build(
    config: RewardModelConfig, lm: LMConfig, transformer: LMConfig | None = None
) -> RewardModel:
    """The static reward model that a config describes.

    Args:
        config: which parametrization on which hidden states.
        lm: the base LM that is steered.
        transformer: with `backbone: own`, the architecture of that backbone.

    Raises:
        RewardJaxError: unknown parametrization, layer out of range, outputs < 1, or a combination
            that has no meaning.
    """
    if config.parametrization not in PARAMETRIZATIONS:
        near = difflib.get_close_matches(config.parametrization, PARAMETRIZATIONS, 1, 0.0)
        raise RewardJaxError(
            f"reward_model.parametrization {config.parametrization!r} is unknown; expected one of"
            f" {', '.join(sorted(PARAMETRIZATIONS))} (nearest: {near[0]})"
        )
    if config.outputs < 1:
        raise RewardJaxError(f"reward_model.outputs is {config.outputs}; expected at least 1")
    if config.backbone == "base":
        if PARAMETRIZATIONS[config.parametrization].reads_candidates:
            raise RewardJaxError(
                f"reward_model.backbone 'base' does not go with {config.parametrization!r}, which"
                " runs on each candidate; set reward_model.backbone to own"
            )
        if config.init is not None or config.num_layers is not None:
            raise RewardJaxError(
                "reward_model.init and num_layers describe a backbone of its own; set"
                " reward_model.backbone to own, or remove them"
            )
        resolve_layer(config.layer, lm.num_hidden_layers)
        transformer = None
    elif transformer is None:
        raise RewardJaxError(
            "reward_model.backbone 'own' needs the architecture of its transformer"
        )
    return PARAMETRIZATIONS[config.parametrization](config, lm, transformer)


__all__ = [
    "PARAMETRIZATIONS",
    "Hidden",
    "RewardModel",
    "RewardModelConfig",
    "RewardParams",
    "build",
    "resolve_layer",
]
