"""Settings of `rewardjax analyze selection`: which tasks, which losses, what is swept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewardjax.experiments.settings import YamlOnly, merge


@dataclass(frozen=True)
class GuideConfig:
    """A reward model that steers decoding, beside choosing among completions."""

    name: str = ""
    """how it is called"""
    reward_model: str = ""
    """its folder"""
    betas: tuple[float, ...] = (20.0,)
    """guidance strengths"""


@dataclass(frozen=True)
class TaskConfig:
    """Prompts, how they are completed, what is learned and who judges."""

    name: str = ""
    """how it is called"""
    prompts: str = ""
    """file of prompts; empty with `task`"""
    prompt_field: str = "prompt"
    """field of a .jsonl"""
    where: tuple[str, ...] = ()
    """only prompts with FIELD OP NUMBER"""
    task: Literal["arithmetic"] | None = None
    """make problems whose answers can be checked, instead of reading prompts"""
    chat: bool = False
    """wrap each prompt in the LM's chat template"""
    prompt_seed: int = 0
    """draws the prompts; it and the next one also seed the training and the test completions"""
    train_prompts: int = 300
    """prompts whose completions train the probes"""
    train_samples: int = 16
    """completions of each"""
    test_prompts: int = 150
    """other prompts, on which every choice is judged"""
    samples: int = 48
    """completions of each"""
    max_new_tokens: int = 20
    """tokens of a completion"""
    temperature: float = 1.0
    """1: the LM's own distribution"""
    top_k: int = 20
    """candidates of each token"""
    stop: tuple[str, ...] = ()
    """strings that end a completion"""
    train_reward: str = ""
    """what the probes learn: a scorer as of `rewardjax evaluate`, or the task's checker"""
    judges: tuple[str, ...] = ()
    """what test completions are judged by, the first one in all figures; the training reward is
    shown after them"""
    skylines: tuple[str, ...] = ()
    """scorers, or names in `guides` (the reward of the last token), whose best of k is shown"""
    guides: tuple[GuideConfig, ...] = ()
    """reward models that steer, on the test prompts"""
    guided_samples: int = 16
    """completions of each test prompt under guidance"""


@dataclass(frozen=True)
class VariantConfig:
    """A probe as it is trained, beside the plain one of each loss."""

    name: str = ""
    """how it is called"""
    loss: Literal["L_PG", "L_CE", "L_Q", "L_QP"] = "L_PG"
    """what is minimised"""
    settings: dict[str, Any] = field(default_factory=dict)
    """probe, objective and optim of `rewardjax train probe`, over those in `fit`"""


@dataclass(frozen=True)
class SelectionConfig:
    """What choosing among k completions earns, by probes of several losses."""

    name: str = "selection"
    """title of the page"""
    question: str = ""
    """what is asked, in a sentence; stands on the page"""
    out: str = "runs/selection"
    """folder of what it makes; a stopped run goes on in it"""
    publish: str | None = None
    """folder for README.md, results.json and report.html; unset: the same folder"""
    files: tuple[str, ...] = ()
    """NAME=PATH …: the files that stand as {NAME} in the YAML"""
    lm: str = "smollm2-135m"
    """the frozen LM"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """its precision"""
    batch_size: int = 64
    """completions decoded at once: memory and speed only"""
    tasks: YamlOnly[tuple[TaskConfig, ...]] = ()
    """what is completed and judged"""
    losses: tuple[Literal["L_PG", "L_CE", "L_Q", "L_QP"], ...] = ("L_PG", "L_CE", "L_Q", "L_QP")
    """of the probes; the first one also chooses among guided completions"""
    variants: YamlOnly[tuple[VariantConfig, ...]] = ()
    """further probes, such as remedies for a loss that does badly"""
    fit: YamlOnly[dict[str, Any]] = field(default_factory=dict)
    """probe, objective and optim of `rewardjax train probe` that all probes share"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """each decides which training prompts choose the layer and τ, and a probe's start and steps"""
    held_out: float = 0.2
    """share of the training prompts on which the layer and τ are chosen"""
    layers: tuple[int, ...] = (0, 6, 12, 18, 24, -1)
    """layers whose states are read; 0: embeddings, -1: the last"""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48)
    """sizes of the pool that is chosen from"""
    sweep_k: int = 16
    """the size at which layers and numbers of training prompts are compared"""
    taus: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    """grid of τ, in deviations of Q within a prompt: the losses' Q have different units"""
    data_sizes: tuple[int, ...] = ()
    """numbers of training prompts, fewer than there are, that are tried as well"""
    hours: float | None = None
    """start no further step after this many hours; run again to go on"""
    estimate: bool = False
    """print the estimate of the cost and stop"""

    @property
    def inputs(self) -> set[str]:
        """Every file that is read: those of `files`, and those that the YAML names itself."""
        named = [self.lm]
        for task in self.tasks:
            named += [task.prompts, task.train_reward, *task.judges, *task.skylines]
            named += [guide.reward_model for guide in task.guides]
        given = {pair.partition("=")[2] for pair in self.files}
        return given | {path for path in named if path and Path(path).exists()}


def probes(config: SelectionConfig) -> list[VariantConfig]:
    """A plain probe of each loss, then the variants."""
    return [*(VariantConfig(loss, loss) for loss in config.losses), *config.variants]


def fit_settings(config: SelectionConfig, variant: VariantConfig) -> dict[str, Any]:
    """Settings of a probe's training, as `probe_fit.FitConfig` has them."""
    settings = merge(config.fit, variant.settings)
    return merge(settings, {"objective": {"name": variant.loss}})
