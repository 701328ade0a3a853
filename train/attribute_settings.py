"""Settings of `rewardjax train attribute`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from rewardjax import oracle
from rewardjax.data import settings as data_settings
from rewardjax.data.settings import DataConfig
from rewardjax.errors import RewardJaxError, nearest
from rewardjax.lm.lora import Lora
from rewardjax.mesh import MeshConfig
from rewardjax.oracle import OracleConfig
from rewardjax.rewards import RewardModelConfig

from . import compute, nado_settings
from .checks import RESUME_MAY_CHANGE, check_least, check_run
from .nado_settings import NadoConfig, NadoObjectiveConfig
from .sample_settings import PROMPTS_LEAST, PromptsConfig, SampleConfig, sampling_config
from .settings import CheckpointConfig, ComputeConfig, EvalConfig, OptimConfig

TAU_LEAST = 0.02
"""Beneath it the weights of most rewards are 0 in float32."""


@dataclass(frozen=True)
class LoraConfig:
    """What of the LM trains."""

    rank: int = 8
    """Of the adapters beside every attention and feed-forward kernel; 0: all weights train."""
    alpha: float = 16.0
    """An adapter's product is scaled by alpha / rank."""

    def __call__(self) -> Lora | None:
        """The adapters; None: all weights train."""
        return Lora(self.rank, self.alpha) if self.rank else None


@dataclass(frozen=True)
class AttributeObjective:
    """What is minimised: L_LM + λ KL(q ‖ p_θ), both means over tokens."""

    kl_weight: float = 1.0
    """λ; 0 is plain fine-tuning, without a reward model."""
    prefixes: Literal["corpus", "samples"] = "corpus"
    """Over whose prefixes the KL is: those of L_LM's texts, or of the LM's own samples."""
    kl_label: str | None = None
    """One of data.labels, by which a text's λ is multiplied: 1 where it is relevant to the
    attribute, 0 where not. Unset: every text has the same."""
    source: Literal["data", "samples"] = "data"
    """What L_LM is over: the texts of data, or the LM's own samples (those of data then judge)."""
    texts: Literal["all", "accepted"] = "all"
    """accepted: over those texts alone that the oracle accepts."""
    weighting: Literal["none", "linear", "exponential"] = "none"
    """Reward-weighted regression: a text weighs its reward r in L_LM, or exp(r / tau), over the
    mean of the tokens that train."""
    tau: float = 0.5
    """Of exponential weights; the smaller, the more the best texts count."""


@dataclass(frozen=True)
class LearnerConfig:
    """How a round's NADO is trained, on samples that the oracle judged: as `train nado` does."""

    reward_model: RewardModelConfig = field(
        default_factory=lambda: RewardModelConfig(parametrization="nado")
    )
    objective: NadoObjectiveConfig = field(default_factory=NadoObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    """In the parallel scheme it makes as many updates as the LM."""
    held_out: float = 0.1
    """Share of the prompts whose samples judge it."""


@dataclass(frozen=True)
class AttributeConfig:
    """Fine-tune the LM towards an attribute, by a reward model and by texts.

    A round samples (where anything reads samples), trains a NADO (where `refit`) and fine-tunes the
    LM that the round before it gave.
    """

    run_dir: str = "runs/attribute"
    """Where the run is written: a folder for each round, with metrics.jsonl, lm/ and adapter/."""
    lm: str = "smollm2-135m"
    """The LM to fine-tune, in float32: an alias, a directory, a .gguf file or a hub id."""
    seed: int = 0
    """Decides the split, the order of the texts and the first adapters."""
    resume: bool = False
    """Continue the run in run_dir."""
    reward_model: str | None = None
    """Folder of a trained reward model of this LM whose link is raw (log R), sigmoid or
    log_sigmoid; with refit, the first round's of the parallel scheme."""
    output: int = 0
    """Which of its outputs."""
    invert: bool = False
    """It scores the opposite of the attribute: R is 1 - sigmoid."""
    rounds: int = 1
    """How often the LM is fine-tuned; learning rate and moments begin anew each time."""
    refit: bool = False
    """Train a NADO in each round, on samples of the LM that the round begins with."""
    scheme: Literal["sequential", "parallel"] = "sequential"
    """With refit. sequential: the LM trains with the reward model of its round, after it. parallel:
    with that of the round before (in the first: `reward_model`, or one that says nothing yet), in
    the same steps as the next one."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    oracle: OracleConfig = field(default_factory=OracleConfig)
    """What texts and samples have the attribute. Its value is a text's reward; from 1/2 on the text
    is accepted: C = 1. Unset, the first of data.labels says it of the texts."""
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampling: SampleConfig = field(default_factory=lambda: SampleConfig(top_k=0))
    """Of the whole vocabulary. With a smaller top_k NADO learns faster, and R is that of the LM
    among its k most probable tokens: what R says of other tokens was never trained, the samples
    (prefixes of the KL, texts) are drawn among those k, and q_t is still p_θold R over all of V."""
    objective: AttributeObjective = field(default_factory=AttributeObjective)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(batch_size=8))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    nado: LearnerConfig = field(default_factory=LearnerConfig)

    @property
    def samples(self) -> bool:
        """Whether a round samples."""
        own = self.objective.source == "samples"
        return self.refit or own or (self.steered and self.objective.prefixes == "samples")

    @property
    def steered(self) -> bool:
        """Whether there is a KL term."""
        return self.objective.kl_weight > 0

    @property
    def judged(self) -> bool:
        """Whether there is an oracle."""
        return self.oracle != OracleConfig()

    @property
    def labelled(self) -> bool:
        """Whether labels of the texts are read."""
        named = bool(self.data.labels) or self.data.dataset is not None
        return named and self.data.constant_label is None


MAY_CHANGE = RESUME_MAY_CHANGE - {"teacher", "optim.epochs", "optim.steps"} | {
    "reward_model", "sampling.batch_size", "prompts.path"
}  # fmt: skip
"""Settings that may differ from config.yaml's when a run continues (texts, prompts and reward
models are compared by content)."""

_LEAST = {
    "rounds": 1,
    "output": 0,
    "lora.rank": 0,
    "objective.kl_weight": 0,
    **PROMPTS_LEAST,
}


def check(config: AttributeConfig) -> None:
    """Refuse settings that cannot mean anything, before any file or weight is read.

    Raises:
      RewardJaxError: naming the field, the value and what is expected.
    """
    check_run(config)
    check_least(config, _LEAST)
    objective, prompts = config.objective, config.prompts
    if not 0 < config.lora.alpha < math.inf:
        raise RewardJaxError(f"lora.alpha is {config.lora.alpha}; expected more than 0, and finite")
    if not TAU_LEAST <= objective.tau < math.inf:
        raise RewardJaxError(
            f"objective.tau is {objective.tau}; expected at least {TAU_LEAST}, and finite"
        )
    data_settings.check(config.data)
    if config.compute.packing:
        raise RewardJaxError(
            "compute.packing is true, but texts of an LM that is fine-tuned lie in rows of their"
            " own; set it to false"
        )
    compute.check_parts(config.compute, config.optim.batch_size)
    if config.steered and config.reward_model is None and not config.refit:
        raise RewardJaxError(
            f"objective.kl_weight is {objective.kl_weight:g} and there is no reward model; name one"
            " (reward_model), train one (refit), or set it to 0"
        )
    if config.refit and config.reward_model is not None and config.scheme == "sequential":
        raise RewardJaxError(
            "reward_model has no meaning where refit trains one before each fine-tuning; leave one"
            " of them out, or set scheme to parallel"
        )
    if config.reward_model is None and (config.output or config.invert):
        name = "output" if config.output else "invert"
        raise RewardJaxError(
            f"{name} says how to read reward_model, and there is none; leave it out (a NADO that"
            " refit trains has one output, the attribute itself)"
        )
    if config.scheme == "parallel" and not config.refit:
        raise RewardJaxError("scheme parallel trains a reward model beside the LM; set refit")
    if prompts.task is not None:
        raise RewardJaxError("prompts.task has no meaning here; name a file with prompts.path")
    if config.samples and prompts.path is None:
        raise RewardJaxError(
            "prompts.path is empty; expected prompts to sample of, for refit, objective.source"
            " samples or objective.prefixes samples"
        )
    if config.judged or config.refit:
        oracle.check(config.oracle)
    if config.samples:
        sampling_config(config.sampling)
    if config.refit:
        nado = nado_config(config, 1, config.run_dir, config.lm)
        try:
            nado_settings.check(nado)
            compute.check(nado)
        except RewardJaxError as error:
            raise RewardJaxError(f"nado: {error}") from error
    _check_labels(config)


def nado_config(config: AttributeConfig, number: int, run_dir: str, lm: str) -> NadoConfig:
    """Settings under which the NADO of round `number` (from 1) is trained."""
    return NadoConfig(
        run_dir=run_dir,
        lm=lm,
        seed=(config.seed + number - 1) % 2**32,
        resume=True,
        mesh=config.mesh,
        oracle=config.oracle,
        prompts=config.prompts,
        sampling=config.sampling,
        **{item.name: getattr(config.nado, item.name) for item in fields(LearnerConfig)},
    )


def _check_labels(config: AttributeConfig) -> None:
    objective = config.objective
    judged = objective.texts == "accepted" or objective.weighting != "none"
    labelled = config.labelled and objective.source == "data"
    if judged and not config.judged and not labelled:
        name = "texts" if objective.texts == "accepted" else "weighting"
        raise RewardJaxError(
            f"objective.{name} is {getattr(objective, name)!r} and nothing judges the texts; set"
            " oracle, or data.labels"
        )
    if objective.kl_label is None:
        return
    names = data_settings.fill(config.data).labels if config.labelled else ()
    if objective.kl_label not in names:
        raise RewardJaxError(
            f"objective.kl_label is {objective.kl_label!r}; expected one of data.labels,"
            f" {', '.join(names) or 'none'}{nearest(objective.kl_label, names)}"
        )
    for name in ("source", "prefixes"):
        if getattr(objective, name) == "samples":
            raise RewardJaxError(
                f"objective.kl_label weighs texts of data, and objective.{name} is 'samples'; leave"
                " it out"
            )
