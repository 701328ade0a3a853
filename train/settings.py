"""Settings of `rewardjax train reward-model` and `rewardjax train distill`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rewardjax.data.settings import DataConfig
from rewardjax.hosts import HostsConfig
from rewardjax.mesh import MeshConfig
from rewardjax.rewards import RewardModelConfig


@dataclass(frozen=True)
class FeaturesConfig:
    """Cache of the base LM's hidden states: of heads and teachers on them (backbone: base), and of
    what the LM's candidates are chosen by in distillation."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """How they are kept on disk; bfloat16 halves the size."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised."""

    name: Literal["mse", "bce"] = "mse"
    """Cumulative squared error, or its twin: binary cross-entropy of rewards taken as logits."""
    prior_weight: float = 0.0
    """Weight of the prior regulariser (1 in the paper): unrelated tokens stay put. RAD has none."""
    num_random_tokens: int = 1
    """Random tokens per position over which the prior regulariser is a mean."""


@dataclass(frozen=True)
class DistillObjectiveConfig:
    """What is minimised: the squared difference to the teacher's raw rewards."""

    targets: Literal["observed", "candidates", "delta"] = "observed"
    """observed: of the text's own next token, as in the paper. candidates: of the LM's most
    probable next tokens. delta: of their deviations from their mean, and apart from it of that."""
    num_candidates: int = 8
    """The LM's k most probable next tokens at each position (candidates, delta)."""
    include_observed: bool = True
    """The observed token is a candidate too; the LM's k are then other tokens than it."""
    level_weight: float = 0.1
    """delta: weight of the candidates' mean (1 makes it the same as candidates; 0 leaves it free,
    and the clip to [0, 1] with it)."""
    prior_weight: float = 0.0
    """Weight of the prior regulariser (1 in the paper): unrelated tokens stay put. RAD has none."""
    num_random_tokens: int = 1
    """Random tokens per position over which the prior regulariser is a mean."""

    @property
    def width(self) -> int:
        """C, the number of candidates at each position."""
        if self.targets == "observed":
            return 1
        return self.num_candidates + self.include_observed


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
    non_finite: Literal["stop", "skip", "warn"] = "stop"
    """When a loss or gradient is not finite. stop: end the run, without the update. skip: leave the
    update out and go on. warn: make it all the same."""
    max_non_finite: int = 10
    """skip, warn: end the run after this many such steps."""


@dataclass(frozen=True)
class ComputeConfig:
    """How a step is computed: what it costs, and of its result nothing but the rounding."""

    accumulate: int = 1
    """Parts of a batch that are computed one after the other before the one update they share."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that a backbone of its own computes in; what trains, and the head, stay float32."""
    remat: Literal["none", "dots", "layers"] = "none"
    """What a gradient computes again in place of keeping it. dots: all but products with weights.
    layers: all but each layer's input."""
    packing: bool = False
    """A backbone of its own reads texts packed behind each other in rows as long as the longest.
    Batches are then drawn from all texts; otherwise from texts of about one length."""


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
    """How many of the newest are kept; the best by held-out error is kept besides."""
    export: Literal["last", "best"] = "last"
    """Which parameters become RUN_DIR/reward_model."""


@dataclass(frozen=True)
class RunConfig:
    """What every command that trains a reward model is told."""

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
    mesh: MeshConfig = field(default_factory=MeshConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


@dataclass(frozen=True)
class TextsConfig(RunConfig):
    """What commands that read texts are told besides."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class TrainConfig(TextsConfig):
    """Train a reward model on labelled texts."""

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


@dataclass(frozen=True)
class DistillConfig(TextsConfig):
    """Train a reward model on the rewards of another one.

    `data` needs no labels: where neither data.labels nor data.dataset is set, texts alone are read.
    Otherwise the held-out texts are evaluated against their labels as well.
    """

    run_dir: str = "runs/distilled"
    """Where the run is written: config.yaml, metrics.jsonl, checkpoints/, reward_model/."""
    teacher: str = ""
    """The folder of the trained reward model to imitate, of any parametrization, of the same LM."""
    objective: DistillObjectiveConfig = field(default_factory=DistillObjectiveConfig)


TextsRun = TrainConfig | DistillConfig
"""of a run that reads texts"""


def error_metric(targets: str | None) -> str:
    """The metric that says which evaluation of a run is best.

    Args:
      targets: `objective.targets` of a distillation; None where texts are labelled.
    """
    if targets is None:
        return "eval/squared_error"
    return "eval/objective" if targets == "delta" else "eval/distillation_error"


PROBE_METRIC = "eval/expected_reward"
"""The metric of a run that trains probes: the best layer's, the larger the better."""
OBJECTIVE_METRIC = "eval/objective"
"""The metric of a run that trains a NADO or fine-tunes an LM: what is minimised, of held-out
texts."""
