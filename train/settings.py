"""Settings of `rewardjax train reward-model`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from rewardjax.data import examples
from rewardjax.data.examples import DataConfig
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import PARAMETRIZATIONS, RewardModel, RewardModelConfig
from rewardjax.rewards.next_token import NextTokenModel


@dataclass(frozen=True)
class FeaturesConfig:
    """Cache of the base LM's hidden states (reward_model.backbone: base)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """How they are kept on disk; bfloat16 halves the size."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised."""

    name: Literal["mse", "bce"] = "mse"
    """Cumulative squared error, or its twin: binary cross-entropy of rewards taken as logits."""
    prior_weight: float = 0.0
    """Weight of the prior regulariser (ARM only; 1 in the paper): unrelated tokens stay put."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    batch_size: int = 32
    """Texts in a step."""
    epochs: float = 1.0
    """Passes over the training texts."""
    steps: int | None = None
    """Number of steps, instead of epochs."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How it falls afterwards, to 0 at the last step."""
    weight_decay: float = 0.01
    """Decoupled weight decay; never on biases, norms or frozen arrays."""
    b1: float = 0.9
    """Decay of the gradient's mean."""
    b2: float = 0.95
    """Decay of the gradient's square."""
    eps: float = 1e-12
    """Added to the denominator."""
    clip: float = 2.0
    """Largest global norm of the gradients; 0 does not clip."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on the held-out texts."""

    every: int | None = None
    """Steps between evaluations. Unset: one each epoch. The last step always evaluates."""
    log_every: int = 1
    """Steps between rows of training metrics."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept, to continue from and to use."""

    every: int | None = None
    """Steps between checkpoints. Unset: at each evaluation. The last step is always kept."""
    keep: int = 3
    """How many of the newest are kept; the best by held-out squared error is kept besides."""
    export: Literal["last", "best"] = "last"
    """Which parameters become RUN_DIR/reward_model."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a reward model on labelled texts."""

    run_dir: str = "runs/reward-model"
    """Where the run is written: config.yaml, metrics.jsonl, checkpoints/, reward_model/."""
    lm: str = "smollm2-135m"
    """The frozen LM to be steered: an alias, a directory, a .gguf file or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The frozen LM's precision."""
    seed: int = 0
    """Decides the split, the order of the texts, the initial head and the prior's tokens."""
    resume: bool = False
    """Continue the run in run_dir from its newest checkpoint."""
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


_LEAST = {
    "seed": 0,
    "objective.prior_weight": 0,
    "optim.batch_size": 1,
    "optim.steps": 1,
    "optim.warmup_steps": 0,
    "optim.learning_rate": 0,
    "optim.weight_decay": 0,
    "optim.clip": 0,
    "eval.every": 1,
    "eval.log_every": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
}


def check(config: TrainConfig) -> None:
    """Refuse settings that cannot mean anything, before any file or weight is read.

    Raises:
      RewardJaxError: naming the field, the value and what is expected.
    """
    for name, least in _LEAST.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        # false for NaN as well
        if value is not None and not least <= value < math.inf:  # pyright: ignore
            raise RewardJaxError(f"{name} is {value}; expected at least {least}, and finite")
    optim, outputs = config.optim, config.reward_model.outputs
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
    examples.check(config.data)
    if len(config.data.labels) != outputs:
        raise RewardJaxError(
            f"data.labels names {len(config.data.labels)} columns and reward_model.outputs is "
            f"{outputs}; expected as many outputs as label columns"
        )
    kind = PARAMETRIZATIONS.get(config.reward_model.parametrization)
    plain = kind and (
        kind.token_rewards_and_prior is RewardModel.token_rewards_and_prior
        or getattr(kind, "delta", None) is NextTokenModel.delta
    )
    if plain and config.objective.prior_weight > 0:
        raise RewardJaxError(
            f"objective.prior_weight is {config.objective.prior_weight}, but "
            f"{config.reward_model.parametrization!r} has no prefix baseline; set it to 0"
        )


RESUME_MAY_CHANGE = frozenset(
    {"resume", "run_dir", "lm", "optim.epochs", "optim.steps", "eval.log_every", "checkpoint.every"}
    | {"checkpoint.keep", "checkpoint.export", "data.path"}
)
"""Settings that may differ from config.yaml's when a run continues (the LM and the texts are
compared by content)."""


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of the settings that differ and may not, when a run continues."""

    def flat(value: object, prefix: str = "") -> dict[str, object]:
        if not dataclasses.is_dataclass(value):
            return {prefix[:-1]: value}
        leaves: dict[str, object] = {}
        for item in dataclasses.fields(value):
            leaves |= flat(getattr(value, item.name), f"{prefix}{item.name}.")
        return leaves

    before, after = flat(old), flat(new)
    return [k for k in after if k not in RESUME_MAY_CHANGE and before.get(k) != after[k]]
