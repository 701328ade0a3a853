"""Reward models: the parametrizations of the reward matrix, one file each, one contract."""

from __future__ import annotations

import difflib
import math

from rewardjax.errors import RewardJaxError
from rewardjax.lm import LMConfig
from rewardjax.rewards.arm import Arm
from rewardjax.rewards.arm_factors import ArmFactors
from rewardjax.rewards.arm_rank import ArmRank
from rewardjax.rewards.config import Rank, RewardModelConfig
from rewardjax.rewards.contract import Hidden, RewardModel, RewardParams, resolve_layer
from rewardjax.rewards.mlp import Mlp
from rewardjax.rewards.nado import Nado, NadoNorm
from rewardjax.rewards.rad import Rad

PARAMETRIZATIONS: dict[str, type[RewardModel]] = {
    "arm": Arm,
    "arm_rank": ArmRank,
    "arm_factors": ArmFactors,
    "mlp": Mlp,
    "nado": Nado,
    "nado_norm": NadoNorm,
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
        RewardJaxError: unknown parametrization, layer, rank or outputs out of range, or a
            combination that has no meaning.
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
        if config.lora_rank:
            raise RewardJaxError(
                f"reward_model.lora_rank is {config.lora_rank}, but the base LM's own layers never"
                " train; set reward_model.backbone to own, or lora_rank to 0"
            )
        resolve_layer(config.layer, lm.num_hidden_layers)
        transformer = None
    elif config.layer != -1:
        raise RewardJaxError(
            f"reward_model.layer is {config.layer}, but a backbone of its own is read after its"
            " last layer; remove it, or set reward_model.num_layers to cut the backbone"
        )
    elif transformer is None:
        raise RewardJaxError(
            "reward_model.backbone 'own' needs the architecture of its transformer"
        )
    _check_head(config, PARAMETRIZATIONS[config.parametrization], transformer or lm)
    _check_lora(config, transformer or lm)
    return PARAMETRIZATIONS[config.parametrization](config, lm, transformer)


def _check_head(config: RewardModelConfig, kind: type[RewardModel], body: LMConfig) -> None:
    name, rank, width = config.parametrization, config.rank, body.hidden_size
    if kind.takes_rank is Rank.NONE:
        if rank is not None:
            takers = [n for n, k in PARAMETRIZATIONS.items() if k.takes_rank is not Rank.NONE]
            raise RewardJaxError(
                f"reward_model.rank is {rank}, but {name!r} has no rank to set; remove it, or set"
                f" reward_model.parametrization to one of {', '.join(takers)}"
            )
    else:
        bounded = kind.takes_rank is Rank.UP_TO_WIDTH
        expected = f"an integer from 1 to {width}, the hidden size" if bounded else "at least 1"
        if rank is None:
            raise RewardJaxError(
                f"reward_model.rank is unset and {name!r} needs it; expected {expected}"
            )
        if rank < 1 or (bounded and rank > width):
            raise RewardJaxError(f"reward_model.rank is {rank}; expected {expected}")
    if not config.baseline and not kind.takes_baseline:
        raise RewardJaxError(
            f"reward_model.baseline is false, but {name!r} has no baseline to leave out; remove it"
        )


def _check_lora(config: RewardModelConfig, body: LMConfig) -> None:
    rank, alpha = config.lora_rank, config.lora_alpha
    if not 0 <= rank <= body.hidden_size:
        raise RewardJaxError(
            f"reward_model.lora_rank is {rank}; expected 0 (no LoRA) to {body.hidden_size}, the"
            " backbone's hidden size"
        )
    if not 0 < alpha < math.inf:  # false for NaN as well
        raise RewardJaxError(
            f"reward_model.lora_alpha is {alpha}; expected more than 0, and finite"
        )


__all__ = [
    "PARAMETRIZATIONS",
    "Hidden",
    "Rank",
    "RewardModel",
    "RewardModelConfig",
    "RewardParams",
    "build",
    "resolve_layer",
]
