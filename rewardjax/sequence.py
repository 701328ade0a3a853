"""Sequence-level rewards: a number for a whole completion, whatever computes it.

    score(prompt, completion) -> float, batched

A probe on hidden states, the value that a token-level reward model gives a whole text, or a scorer
of texts: selection and search know this contract alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from rewardjax.data.pooled import pool, pooled_states
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel, load_reward_model
from rewardjax.lm import LM, OpenedLM, load_lm
from rewardjax.metrics.scorers import Scorer, load_scorer
from rewardjax.probes import TrainedProbe, load_probe
from rewardjax.rewards import resolve_layer


class Completion(NamedTuple):
    """A prompt and what follows it, as text and as ids."""

    prompt: str
    text: str
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    """at least one"""
    states: Mapping[int, np.ndarray] = {}
    """layer -> [T, D], the base LM's states at `token_ids`, where decoding has kept them"""


@runtime_checkable
class SequenceReward(Protocol):
    """A reward of whole completions."""

    @property
    def name(self) -> str:
        """What it is called beside its numbers."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """The base LM's layers whose states at the completion it reads, so that decoding keeps
        them."""
        ...

    def __call__(self, completions: Sequence[Completion]) -> Float[np.ndarray, " N"]:
        """The rewards of N completions, float64."""
        ...


@dataclass(frozen=True)
class ProbeReward:
    """Q of a probe: from the states that decoding kept, or else by reading the text again."""

    name: str
    probe: TrainedProbe
    lm: LM
    """whose states the probe reads"""
    is_base: bool
    """whether that is the LM that decodes"""

    @property
    def layers(self) -> tuple[int, ...]:
        return (self._layer,) if self.is_base else ()

    @property
    def _layer(self) -> int:
        return resolve_layer(self.probe.config.layer, self.lm.config.num_hidden_layers)

    def __call__(self, completions: Sequence[Completion]) -> Float[np.ndarray, " N"]:
        pooling = self.probe.config.pooling
        if self.is_base and all(self._layer in one.states for one in completions):
            vectors = [pool(one.states[self._layer], 0, pooling) for one in completions]
            return self.probe(np.stack(vectors)).astype(np.float64)
        tokens, starts = zip(
            *(encode(self.lm, one, self.is_base) for one in completions), strict=True
        )
        states = pooled_states(self.lm, tokens, starts, (self._layer,), pooling, keep=False)
        return self.probe(states[:, 0]).astype(np.float64)


def encode(lm: LM | OpenedLM, completion: Completion, own_ids: bool) -> tuple[np.ndarray, int]:
    """Ids of prompt and completion together, and where the completion begins.

    Args:
      own_ids: the completion's ids are this LM's. Otherwise the two texts are joined and encoded,
        and the completion begins where the prompt's own ids would end.

    Raises:
      RewardJaxError: a completion without a token.
    """
    if own_ids:
        ids, start = [*completion.prompt_ids, *completion.token_ids], len(completion.prompt_ids)
    else:
        from rewardjax.text import encode_text

        ids = encode_text(lm, completion.prompt + completion.text, "a completion")
        start = len(encode_text(lm, completion.prompt, "a prompt"))
    if len(ids) <= start:
        raise RewardJaxError(
            f"a completion of {completion.prompt[:40]!r} holds no token to score; expected some"
            " text"
        )
    return np.asarray(ids, np.int32), start


@dataclass(frozen=True)
class ValueReward:
    """What a token-level reward model gives a text as a whole: the reward of its last token.

    RAD and ARM are trained to tell a text's label after any of its tokens.
    """

    name: str
    reward_model: TrainedRewardModel
    lm: LM
    output: int = 0
    layers: tuple[int, ...] = ()

    def __call__(self, completions: Sequence[Completion]) -> Float[np.ndarray, " N"]:
        from rewardjax.scoring import reward

        ids = [[*one.prompt_ids, *one.token_ids] for one in completions]
        rewards = reward(self.lm, self.reward_model, ids)
        return np.array([row[-1, self.output] for row in rewards], np.float64)


@dataclass(frozen=True)
class TextReward:
    """A scorer of texts (`metrics.scorers`), of the whole or of the completion as it asks for."""

    scorer: Scorer
    layers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.scorer.name

    def __call__(self, completions: Sequence[Completion]) -> Float[np.ndarray, " N"]:
        before = self.scorer.reads_prompt
        return self.scorer([one.prompt * before + one.text for one in completions])


def open_sequence_reward(spec: str, lm: LM) -> SequenceReward:
    """The reward that `spec` names: the folder of a probe or of a reward model, or a scorer.

    Raises:
      RewardJaxError: as `read_sequence_reward`; a probe or a reward model of another LM.
    """
    return read_sequence_reward(spec)(lm)


def read_sequence_reward(spec: str) -> Callable[[LM], SequenceReward]:
    """`open_sequence_reward` up to where it takes the LM that decodes, whose weights come late.

    Raises:
      RewardJaxError: as `load_probe`, `load_reward_model` and `load_scorer`.
    """
    folder = Path(spec)
    if (folder / "probe.json").is_file():
        return partial(_probe_reward, spec, load_probe(folder))
    if (folder / "config.json").is_file():
        return partial(_value_reward, spec, load_reward_model(folder))
    scorer = TextReward(load_scorer(spec))
    return lambda lm: scorer


def _probe_reward(spec: str, probe: TrainedProbe, lm: LM) -> SequenceReward:
    is_base = probe.lm_fingerprint == lm.fingerprint
    encoder = lm if is_base else load_lm(probe.lm_source)
    if encoder.fingerprint != probe.lm_fingerprint:
        raise RewardJaxError(
            f"probe {spec!r} was trained on the LM {probe.lm_source!r} with fingerprint"
            f" {probe.lm_fingerprint}, and neither that name nor {lm.source!r} has it; restore"
            " that LM, or train a probe for this one"
        )
    return ProbeReward(spec, probe, encoder, is_base)


def _value_reward(spec: str, reward_model: TrainedRewardModel, lm: LM) -> SequenceReward:
    reward_model.bind(lm)  # refuses another LM's
    return ValueReward(spec, reward_model, lm)


def digest_of(spec: str) -> str | None:
    """sha256 of the files of a folder that scores; None of a scorer that is none."""
    folder = Path(spec)
    names = ("probe.json", "probe.safetensors", "config.json", "model.safetensors", "judge.json",
             "weights.safetensors")  # fmt: skip
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        return None
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
