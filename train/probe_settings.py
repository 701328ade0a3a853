"""Settings of `rewardjax train probe`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from rewardjax.data.completions import CompletionsConfig
from rewardjax.errors import RewardJaxError
from rewardjax.probe_step import ProbeObjective, ProbeOptim

from .checks import check_least
from .sample_settings import (
    PROMPTS_LEAST,
    PromptsConfig,
    SampleConfig,
    check_prompts,
    sampling_config,
)


@dataclass(frozen=True)
class ShapeConfig:
    """What a probe reads and is."""

    pooling: Literal["last", "mean"] = "last"
    """Of the completion's tokens: the last one's state, or the mean of all."""
    depth: int = 1
    """1: linear. 2, 3: a perceptron of ReLU units."""
    width: int = 256
    """Its hidden units, where depth is 2 or 3."""


@dataclass(frozen=True)
class ProbeTrainConfig:
    """Train a probe: a score of whole completions from the LM's hidden states.

    Either `data` has completions with rewards, or `prompts` and `reward` say how to make them.
    """

    run_dir: str = "runs/probe"
    """Where the run is written: config.yaml, metrics.jsonl, probe/, and what was sampled."""
    lm: str = "smollm2-135m"
    """The frozen LM: an alias, a directory, a .gguf file or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The frozen LM's precision."""
    seed: int = 0
    """Decides which prompts are held out, and the steps."""
    resume: bool = False
    """Go on with the samples of an interrupted run in run_dir; training starts over."""
    chat: bool = False
    """Wrap each prompt in the tokenizer's chat template, to sample and to read it."""
    held_out: float = 0.1
    """Share of the prompts whose completions judge the probes, and choose the layer."""
    layers: tuple[int, ...] = (-1,)
    """Probes are trained on each; the best by held-out reward is kept. 0: embeddings, -1: the last;
    none: all."""
    reward: str = ""
    """Of sampled completions, the larger the better: a scorer as for `rewardjax evaluate`, or a
    checker of the task (gsm8k, mbpp, arithmetic). Unset: the task's own."""
    allow_code_execution: bool = False
    """Let the checker mbpp run code that the LM wrote, in a locked process."""
    data: CompletionsConfig = field(default_factory=CompletionsConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampling: SampleConfig = field(default_factory=SampleConfig)
    probe: ShapeConfig = field(default_factory=ShapeConfig)
    objective: ProbeObjective = field(default_factory=ProbeObjective)
    optim: ProbeOptim = field(default_factory=ProbeOptim)


MAY_CHANGE = frozenset({"resume", "run_dir", "sampling.batch_size"})
"""Settings that may differ from config.yaml's when a run is resumed."""

_LEAST = {
    "objective.group_size": 2,
    "objective.baseline": -math.inf,
    "optim.epochs": 1,
    "optim.batch_size": 1,
    "optim.learning_rate": 0,
    "optim.weight_decay": 0,
    **PROMPTS_LEAST,
    "seed": 0,
}


def check(config: ProbeTrainConfig) -> None:
    """Refuse settings that cannot mean anything, before any file or weight is read.

    Raises:
      RewardJaxError: naming the field, the value and what is expected.
    """
    check_least(config, _LEAST)
    if config.seed >= 2**32:
        raise RewardJaxError(f"seed is {config.seed}; expected at most {2**32 - 1}")
    if not 0 <= config.held_out < 1:
        raise RewardJaxError(f"held_out is {config.held_out}; expected 0 <= held_out < 1")
    if config.held_out == 0 and len(config.layers) != 1:
        raise RewardJaxError(
            "held_out is 0 and layers are several; expected held-out prompts to choose among them"
        )
    prompts = config.prompts
    sampled = prompts.path is not None or prompts.task is not None
    if sampled == (config.data.path is not None):
        got = "both" if sampled else "neither"
        raise RewardJaxError(
            "expected either data.path, of completions with rewards, or prompts.path or"
            f" prompts.task, got {got}"
        )
    if not sampled:
        if config.reward:
            raise RewardJaxError(
                f"reward is {config.reward!r}, but the rows of data.path have rewards; leave it"
                " out, or give prompts.path in place of data.path"
            )
        return
    if prompts.task is None and not config.reward:
        raise RewardJaxError(
            "reward is empty; expected a scorer of the completions, such as vader or"
            " KIND=module:function"
        )
    check_prompts(prompts)
    sampling_config(config.sampling)
