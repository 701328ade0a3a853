"""The settings of a reward model, as YAML and saved models have them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from rewardjax.lm.lora import Lora


class Rank(Enum):
    """What a parametrization does with `RewardModelConfig.rank`."""

    NONE = "refuses it"
    UP_TO_WIDTH = "needs it, 1 to D: a larger one describes the same matrices"
    ANY = "needs it, 1 or more"


@dataclass(frozen=True)
class RewardModelConfig:
    """Which parametrization of the reward matrix, on which hidden states."""

    parametrization: str = "arm"
    """name in `rewardjax.rewards.PARAMETRIZATIONS`: arm, arm_rank, arm_factors, mlp, nado,
    nado_norm, rad"""
    backbone: Literal["base", "own"] = "base"
    """base: the frozen LM's own hidden states; own: a second transformer that trains"""
    layer: int = -1
    """base: whose output feeds the head; 0 = embeddings, -1 = last layer after the final norm"""
    init: str | None = None
    """own: the LM whose weights start the backbone (as --lm); unset: the base LM"""
    num_layers: int | None = None
    """own: keep only the first n layers of those weights; unset: all"""
    outputs: int = 1
    """number of attributes A that are scored at once; decoding uses the first"""
    rank: int | None = None
    """arm_rank, arm_factors, mlp: r, the number of products of prefix and token; unset elsewhere"""
    baseline: bool = True
    """arm, arm_rank, arm_factors, mlp: add <w, h(x)>, the same for every token; RAD has none"""
    lora_rank: int = 0
    """own: freeze the backbone and train adapters of this rank in its layers; 0: train all of it"""
    lora_alpha: float = 16.0
    """own: an adapter's product is scaled by lora_alpha / lora_rank"""

    @property
    def lora(self) -> Lora:
        """The adapters, where `lora_rank` is positive."""
        return Lora(self.lora_rank, self.lora_alpha)
