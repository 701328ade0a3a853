"""Settings of `rewardjax compare`: which reward models, on which prompts, at which strengths."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewardjax.experiments.settings import YamlOnly, merge, nested


@dataclass(frozen=True)
class ModelConfig:
    """One reward model of the comparison."""

    name: str = ""
    """how it is called in tables and figures"""
    settings: dict[str, Any] = field(default_factory=dict)
    """settings of its program over those in `training` (or `nado`, `attribute`)"""
    program: Literal["reward-model", "nado", "attribute"] = "reward-model"
    """of `rewardjax train`: on labels, by an oracle's word on the LM's samples, or the LM itself
    (which then decodes alone: it has no strength)"""
    teacher: str | None = None
    """distil from this model of the comparison (its first seed), or fine-tune the LM by it; unset:
    train on the labels"""
    decode: bool = True
    """also decode with it; False: train it and compare held-out error and rank only"""
    full: bool = True
    """run the full protocol with it, where the comparison has one"""
    link: str | None = None
    """what β multiplies, as of `decode guided`; unset: what it was trained for"""
    betas: tuple[float, ...] = ()
    """strengths of its curves, as another link may need; unset: those of the arm"""
    invert: bool | None = None
    """lower what it was trained for, or raise it; unset: as the arm says"""


@dataclass(frozen=True)
class SweepConfig:
    """The same model with one setting at several values."""

    name: str = ""
    """of the sweep; its models are called `name value`"""
    field: str = ""
    """the setting, with dots: reward_model.rank"""
    values: tuple[int | float, ...] = ()
    """its values, as they are to stand in the settings"""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """the other settings of these models, over those in `training`"""
    decode: bool = True
    """also decode with them"""


@dataclass(frozen=True)
class ArmConfig:
    """Prompts, and where they are to be steered."""

    name: str = ""
    """how it is called, such as `neutral prompts, up`"""
    prompts: str = ""
    """file of prompts"""
    prompt_field: str = "prompt"
    """field of a .jsonl"""
    where: tuple[str, ...] = ()
    """only prompts with FIELD OP NUMBER, such as prompt.toxicity>=0.5"""
    invert: bool = False
    """lower the attribute instead of raising it"""
    metric: str = ""
    """the metric on the curves' axis: SCORER.positive_rate, SCORER.toxic_rate …"""
    higher_is_better: bool = True
    """whether that metric is to rise"""
    betas: tuple[float, ...] = ()
    """strengths of its curves; unset: those of the comparison"""
    most_perplexity: float = 1.5
    """β is chosen as the best with at most this multiple of the unguided perplexity"""
    full: bool = True
    """run the full protocol on it as well"""
    models: tuple[str, ...] = ()
    """decode it with these models only; unset: with all that decode"""
    other_seeds: bool = True
    """decode it with the other training seeds as well, at the chosen β"""


@dataclass(frozen=True)
class ProtocolConfig:
    """How many texts are decoded."""

    prompts: int = 100
    """prompts of each arm, drawn by prompt_seed"""
    samples: int = 8
    """continuations per prompt"""
    max_new_tokens: int = 20
    """tokens per continuation"""
    full_prompts: int = 0
    """prompts of the full protocol, none of them among the others; 0: no full protocol"""
    full_samples: int = 25
    """continuations per prompt of the full protocol"""
    prompt_seed: int = 0
    """draws the prompts"""
    batch_size: int = 200
    """rows decoded at once: on CPU many cost less each, and memory is the limit"""
    perplexity_samples: int | None = 5
    """continuations per prompt, drawn by the seed, whose perplexity is measured; unset: all"""


@dataclass(frozen=True)
class RankConfig:
    """Rank analysis of each model's raw reward matrix."""

    held_out: str | None = None
    """file of texts whose prefixes are the rows: those that stand inside none that the first model
    was trained on. With the first seed these are a second set. Unset: no rank analysis"""
    text_field: str = "text"
    """its column of texts"""
    num_prefixes: int = 128
    """rows N of each set"""
    columns: str = "auto"
    """as of `rewardjax analyze rank`"""
    check_prefixes: int = 64
    """held-out rows of which a model that runs on candidates also gets the whole vocabulary; 0:
    none"""
    seeds: int = 1
    """how many of the seeds are analysed; of a model that runs on candidates only the first"""


@dataclass(frozen=True)
class AgreementConfig:
    """Agreement of every other model with the first one, token by token."""

    texts: str | None = None
    """file of texts that no model was trained on; unset: not measured"""
    text_field: str = "text"
    """their column of texts"""
    num_texts: int = 500
    """texts drawn from the file"""
    num_candidates: int = 8
    """the LM's candidates at each position, beside the observed token"""


@dataclass(frozen=True)
class CompareConfig:
    """Train reward models alike, decode with each at several strengths, compare."""

    name: str = "comparison"
    """title of the page"""
    question: str = ""
    """what is asked, in a sentence; stands on the page"""
    out: str = "runs/compare"
    """folder of what it makes; a stopped run goes on in it, and comparisons may share it"""
    publish: str | None = None
    """folder for README.md, results.json and report.html; unset: the same folder"""
    files: tuple[str, ...] = ()
    """NAME=PATH …: the files that stand as {NAME} in the YAML"""
    lm: str = "smollm2-135m"
    """the frozen LM"""
    dtype: str = "float32"
    """its precision"""
    training: YamlOnly[dict[str, Any]] = field(default_factory=dict)
    """settings of `train reward-model` that all models share (data, optim …)"""
    nado: YamlOnly[dict[str, Any]] = field(default_factory=dict)
    """settings of `train nado` that all models of that program share"""
    attribute: YamlOnly[dict[str, Any]] = field(default_factory=dict)
    """settings of `train attribute` that all fine-tuned LMs share"""
    models: YamlOnly[tuple[ModelConfig, ...]] = ()
    """the reward models; the first is the one that the others are compared with"""
    sweeps: YamlOnly[tuple[SweepConfig, ...]] = ()
    """models made by varying one setting"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """training seeds; the first is decoded at every beta, the others at the chosen one"""
    arms: YamlOnly[tuple[ArmConfig, ...]] = ()
    """prompts and directions"""
    betas: tuple[float, ...] = (10.0, 20.0, 40.0, 80.0)
    """guidance strengths of the curves, where an arm has none of its own"""
    top_k: int = 20
    """candidates per step"""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    scorers: tuple[str, ...] = ()
    """judges, as of `rewardjax evaluate`"""
    oracles: YamlOnly[dict[str, dict[str, Any]]] = field(default_factory=dict)
    """further judges of continuations, as `oracle` of `train nado`: the share that satisfies them
    is NAME.satisfied_rate"""
    perplexity_lm: str | None = None
    """an LM that had no part in the texts"""
    rank: RankConfig = field(default_factory=RankConfig)
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    controls: bool = False
    """also run the two synthetic controls (`rewardjax analyze controls`)"""
    hours: float | None = None
    """start no further step after this many hours; run again to go on"""
    estimate: bool = False
    """print the estimate of the cost and stop"""

    @property
    def inputs(self) -> set[str]:
        """Every file that is read: those of `files`, and those that the YAML names itself."""
        settings = [self.training, self.nado, self.attribute]
        settings += [m.settings for m in (*self.models, *self.sweeps)]
        parts = ("data", "prompts")
        named = [each.get(part, {}).get("path") for each in settings for part in parts]
        named += [each.get("oracle", {}).get("scorer") for each in settings]
        named += [oracle.get("scorer") for oracle in self.oracles.values()]
        named += [arm.prompts for arm in self.arms]
        named += [self.lm, self.perplexity_lm, self.agreement.texts, self.rank.held_out]
        named += self.scorers
        given = {pair.partition("=")[2] for pair in self.files}
        return given | {path for path in named if path and Path(path).exists()}


def models(config: CompareConfig) -> list[ModelConfig]:
    """The listed models and those of the sweeps, in order."""
    found = list(config.models)
    for sweep in config.sweeps:
        for value in sweep.values:
            settings = merge(sweep.settings, nested(sweep.field, value))
            name = f"{sweep.name} {value:g}"
            found.append(ModelConfig(name, settings, decode=sweep.decode, full=False))
    return found


def decoded(config: CompareConfig, arm: ArmConfig) -> list[ModelConfig]:
    """The models that decode an arm, in order."""
    return [m for m in models(config) if m.decode and (not arm.models or m.name in arm.models)]


def strengths(
    config: CompareConfig, arm: ArmConfig, model: ModelConfig | None = None
) -> tuple[float, ...]:
    """The β of an arm's curves, or of one model's curve: a fine-tuned LM has none, which is 0."""
    if model is not None and model.program == "attribute":
        return (0.0,)
    return (model and model.betas) or arm.betas or config.betas
