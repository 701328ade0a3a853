"""What a request may ask of the sampler and of the guidance; checked when built. Loads no JAX."""

from __future__ import annotations

import dataclasses
import math
import numbers
import typing
from dataclasses import dataclass
from typing import Any

from rewardjax.errors import RewardJaxError, nearest

SCHEDULES = ("constant", "linear", "cosine")
LINK_NAMES = ("clip", "raw", "sigmoid", "log_sigmoid", "min_max")
MOST_STOP_IDS = 8
"""Ids that end a text, the LM's own among them: the width of an array in the state."""


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample and to steer. Settings that take several values have one per reward model."""

    beta: float | tuple[float, ...] = 0.0
    """guidance strength: multiplies the reward, larger is stronger"""
    beta_end: float | tuple[float, ...] = 0.0
    """the strength at the last of max_new_tokens steps; the schedule leads there"""
    schedule: str = "constant"
    """how beta moves to beta_end over the steps: constant (it does not), linear or cosine"""
    min_entropy: float = 0.0
    """steer only where the LM's next-token entropy (nats) is at least this; 0: everywhere"""
    invert: bool | tuple[bool, ...] = False
    """lower the attribute instead of raising it"""
    link: str | tuple[str, ...] | None = None
    """what beta multiplies: clip, raw, sigmoid, log_sigmoid or min_max of the raw reward; unset:
    the reward model's own"""
    top_k: int = 20
    """candidates per step, from the unsteered logits"""
    top_p: float = 1.0
    """nucleus within the top-k, from the unsteered logits"""
    min_p: float = 0.0
    """least probability of a candidate, relative to the most probable token"""
    temperature: float = 1.0
    """divides the steered scores; 0 is greedy"""
    repetition_penalty: float = 1.0
    """divides positive and multiplies negative logits of tokens in prompt and text; 1: none"""
    presence_penalty: float = 0.0
    """taken from the logits of tokens that the text has generated"""
    frequency_penalty: float = 0.0
    """taken from them once per occurrence"""
    min_new_tokens: int = 0
    """no end of the text before so many tokens"""
    max_new_tokens: int = 20
    """longest continuation, in tokens"""
    stop_ids: tuple[int, ...] = ()
    """token ids that end a continuation, beside the LM's own"""
    seed: int = 0
    """with the prompt's index and the sample's number, decides every text"""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(SamplingConfig):
            _check_type(field.name, getattr(self, field.name), field.default)
        for name in ("beta", "beta_end"):
            for value in each(getattr(self, name)):
                if not 0 <= value <= 1e6:
                    expected = "a number in 0 .. 1e6 (use --invert to lower the attribute)"
                    _refuse(name, value, expected)
        if self.schedule not in SCHEDULES:
            _refuse("schedule", repr(self.schedule), " or ".join(SCHEDULES))
        for link in each(self.link):
            if link is not None and link not in LINK_NAMES:
                hint = nearest(str(link), LINK_NAMES)
                _refuse("link", repr(link), f"{' or '.join(LINK_NAMES)}{hint}")
        if not self.min_entropy >= 0:
            _refuse("min_entropy", self.min_entropy, "nats, 0 or more")
        if self.top_k < 1:
            _refuse("top_k", self.top_k, "an integer >= 1 and at most the vocabulary's size")
        if not 0 < self.top_p <= 1:
            _refuse("top_p", self.top_p, "a number in (0, 1]")
        if not 0 <= self.min_p <= 1:
            _refuse("min_p", self.min_p, "a number in 0 .. 1")
        if not (self.temperature == 0 or 1e-6 <= self.temperature <= 1e6):
            _refuse("temperature", self.temperature, "0 (greedy) or a number in 1e-6 .. 1e6")
        if not 1e-3 <= self.repetition_penalty <= 1e3:
            _refuse("repetition_penalty", self.repetition_penalty, "a number in 1e-3 .. 1e3")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -100 <= getattr(self, name) <= 100:
                _refuse(name, getattr(self, name), "a number in -100 .. 100")
        if self.max_new_tokens < 1:
            _refuse("max_new_tokens", self.max_new_tokens, "an integer >= 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            _refuse("min_new_tokens", self.min_new_tokens, "an integer in 0 .. max_new_tokens")
        if any(token < 0 for token in self.stop_ids):
            _refuse("stop_ids", list(self.stop_ids), "token ids of the vocabulary")
        if not 0 <= self.seed < 2**32:
            _refuse("seed", self.seed, "an integer in 0 .. 2^32 - 1")


PER_MODEL = ("beta", "beta_end", "invert", "link")
"""Settings with a value for each reward model, or one for all."""


def per_model(sampling: SamplingConfig, count: int) -> list[dict[str, Any]]:
    """`PER_MODEL` of each of `count` reward models.

    Raises:
        RewardJaxError: a setting with neither one value nor as many as there are models.
    """
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for name in PER_MODEL:
        values = each(getattr(sampling, name))
        if len(values) not in (1, count):
            models = f"{count} reward model{'s' * (count != 1)}"
            _refuse(name, list(values), f"one value, or one for each of {models}")
        for i, one in enumerate(found):
            one[name] = values[i % len(values)]
    return found


def each(value: Any) -> tuple[Any, ...]:
    """A setting's values, be they one or several."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _check_type(name: str, value: Any, default: Any) -> None:
    several = name in PER_MODEL or isinstance(default, tuple)
    kind = str if name in ("schedule", "link") else int if name == "stop_ids" else type(default)
    values: tuple[Any, ...] = each(value) if several else (value,)
    for one in values:
        if one is None and default is None:
            continue
        if not isinstance(one, _KINDS[kind]) or isinstance(one, bool) != (kind is bool):
            _refuse(name, repr(value), f"a value of type {kind.__name__}")
        if kind is float and not math.isfinite(typing.cast(float, one)):
            _refuse(name, one, "a finite number")


_KINDS: dict[type, Any] = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}


def _refuse(name: str, value: object, expected: str) -> None:
    raise RewardJaxError(f"{name} is {value}; expected {expected}")
