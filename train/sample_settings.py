"""Which completions a run samples for itself: settings that several commands share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from rewardjax.decoding.settings import SamplingConfig
from rewardjax.errors import RewardJaxError
from rewardjax.text import check_sampling


@dataclass(frozen=True)
class PromptsConfig:
    """What completions are sampled of."""

    path: str | None = None
    """.txt or .jsonl of prompts; with a task its own file (unset: the hub's)."""
    prompt_field: str = "prompt"
    """Of a .jsonl: the prompt's field, dots for nesting."""
    where: tuple[str, ...] = ()
    """Of a .jsonl: only rows that compare so, such as 'prompt.toxicity<0.5'."""
    task: Literal["gsm8k", "mbpp", "arithmetic"] | None = None
    """Tasks whose answers can be checked; arithmetic makes its own."""
    split: str = "train"
    """Of the tasks."""
    limit: int | None = None
    """Take so many (unset: all; of arithmetic 200)."""
    offset: int = 0
    """Of a file: leave out so many first, of those that `seed` draws."""
    seed: int | None = None
    """Draw them at random by it (unset: in the order of the file; of arithmetic 0)."""


PROMPTS_LEAST = {"prompts.seed": 0, "prompts.limit": 1, "prompts.offset": 0}
"""Dotted name of a setting → its least value, for `check_least`."""


@dataclass(frozen=True)
class SampleConfig:
    """How completions are sampled: as `rewardjax decode guided` does without a reward model."""

    num_samples: int = 10
    """Completions of each prompt."""
    max_new_tokens: int = 64
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """1: the LM's own distribution."""
    top_k: int = 20
    """Candidates of each token, 0 for the whole vocabulary; take those of the decoding to come."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion (left out of its text)."""
    seed: int = 0
    """With a prompt's index and the sample's number, decides every completion."""
    batch_size: int = 32
    """Completions decoded at once: memory and speed only."""


def check_prompts(prompts: PromptsConfig) -> None:
    """Refuse what has no meaning together. Raises RewardJaxError."""
    if prompts.task == "arithmetic" and prompts.path is not None:
        raise RewardJaxError("prompts.path has no meaning for arithmetic; leave it out")
    for name in ("where", "offset"):
        if prompts.task is not None and getattr(prompts, name):
            raise RewardJaxError(f"prompts.{name} has no meaning for tasks; leave it out")


def resolved(config: SampleConfig, vocab_size: int) -> SampleConfig:
    """The same with the number of candidates that a `top_k` of 0 stands for."""
    return dataclasses.replace(config, top_k=config.top_k or vocab_size)


def sampling_config(config: SampleConfig) -> SamplingConfig:
    """The same as the sampler knows it, `resolved` or not. Raises RewardJaxError for what it
    refuses."""
    check_sampling(config.num_samples, config.batch_size, config.stop)
    return SamplingConfig(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k or 1,
        seed=config.seed,
    )
