"""Settings of `rewardjax train nado`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rewardjax import oracle
from rewardjax.errors import RewardJaxError
from rewardjax.hosts import HostsConfig
from rewardjax.oracle import OracleConfig
from rewardjax.rewards import PARAMETRIZATIONS, RewardModelConfig
from rewardjax.rewards.next_token import NextTokenModel

from .checks import RESUME_MAY_CHANGE, check_least, check_run
from .sample_settings import (
    PROMPTS_LEAST,
    PromptsConfig,
    SampleConfig,
    check_prompts,
    sampling_config,
)
from .settings import RunConfig


@dataclass(frozen=True)
class NadoObjectiveConfig:
    """What is minimised: cross-entropy of C, and forward consistency."""

    prefixes: Literal["all", "last"] = "all"
    """Where the cross-entropy of C is taken: at every prefix, or at the whole text alone, so that
    consistency carries it to the prefixes."""
    consistency_weight: float = 0.1
    """λ, the weight of forward consistency; 0 leaves it out."""


@dataclass(frozen=True)
class NadoConfig(RunConfig):
    """Train a NADO: how likely each next token is to end in a text that satisfies an oracle.

    The LM's own samples are its data, and the oracle's word on them its labels.
    """

    run_dir: str = "runs/nado"
    """Where the run is written: config.yaml, metrics.jsonl, checkpoints/, reward_model/, what was
    sampled, and of rounds before the last a folder each."""
    chat: bool = False
    """Wrap each prompt in the tokenizer's chat template."""
    held_out: float = 0.1
    """Share of the prompts whose samples evaluate."""
    rounds: int = 1
    """Times to sample and train. From the second on, samples are guided by the round before, and
    weighed by what the LM alone would have made of them."""
    reward_model: RewardModelConfig = field(
        default_factory=lambda: RewardModelConfig(parametrization="nado")
    )
    oracle: OracleConfig = field(default_factory=OracleConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampling: SampleConfig = field(default_factory=SampleConfig)
    objective: NadoObjectiveConfig = field(default_factory=NadoObjectiveConfig)


MAY_CHANGE = (RESUME_MAY_CHANGE - {"optim.epochs", "optim.steps", "lm"}) | {"sampling.batch_size"}
"""Settings that may differ from config.yaml's when a run is resumed: none that a round before the
last could have been trained with."""

_LEAST = {
    "rounds": 1,
    "objective.consistency_weight": 0,
    **PROMPTS_LEAST,
}


def check(config: NadoConfig) -> None:
    """Refuse settings that cannot mean anything, before any file or weight is read.

    Raises:
      RewardJaxError: naming the field, the value and what is expected.
    """
    check_run(config)
    check_least(config, _LEAST)
    if config.hosts != HostsConfig():
        raise RewardJaxError("hosts is set, but train nado runs in one process; leave it out")
    if not 0 <= config.held_out < 1:
        raise RewardJaxError(f"held_out is {config.held_out}; expected 0 <= held_out < 1")
    kind = PARAMETRIZATIONS.get(config.reward_model.parametrization)
    if kind is not None and not issubclass(kind, NextTokenModel):
        raise RewardJaxError(
            f"reward_model.parametrization {config.reward_model.parametrization!r} runs on each"
            " candidate; NADO needs one that gives a whole row at once, such as nado or arm"
        )
    if config.reward_model.outputs != 1:
        raise RewardJaxError(
            f"reward_model.outputs is {config.reward_model.outputs}; expected 1, for one oracle"
        )
    if config.objective.prefixes == "last" and config.objective.consistency_weight == 0:
        raise RewardJaxError(
            "objective.prefixes is last and objective.consistency_weight 0, so that no token but"
            " the last would be trained; set one of them otherwise"
        )
    oracle.check(config.oracle)
    if (config.prompts.path is None) and config.prompts.task is None:
        raise RewardJaxError("prompts.path is unset; expected a file of prompts to sample from")
    check_prompts(config.prompts)
    sampling = sampling_config(config.sampling)
    if sampling.temperature == 0:
        raise RewardJaxError(
            "sampling.temperature is 0, where every sample of a prompt is the same; expected more"
        )
