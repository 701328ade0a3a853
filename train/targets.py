"""What a teacher says: its raw rewards of a few tokens at every position, computed once per text.

The teacher is deterministic and its rewards are not clipped (arXiv 2407.04615). They lie in the
user's cache directory under a name that depends on the teacher's weights, the LM, the candidates
and the token ids, so that further epochs, seeds and students read them from there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from rewardjax.cache import cache_dir
from rewardjax.data import features
from rewardjax.data.batches import Batch
from rewardjax.data.features import Features
from rewardjax.data.hidden import estimate
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel
from rewardjax.hosts import fetch
from rewardjax.lm import LM, LMConfig
from rewardjax.rewards import RewardModel, RewardParams
from rewardjax.sharding import place_batch

from . import token_rows
from .candidates import lm_candidates
from .settings import DistillConfig, DistillObjectiveConfig
from .token_rows import Block, TokenRows, all_batches, texts_of

_VERSION = 1


@dataclass(frozen=True)
class Targets:
    """The teacher's raw rewards of C tokens at every position of every text."""

    rewards: TokenRows
    """its array `rewards`: float32 [C, A] for each token"""
    candidates: TokenRows | None
    """its array `candidates`: int32 [C]; None: the observed token is the only one"""
    first_scored: int
    """first position of a text that the teacher scores"""

    def batch(self, batch: Batch) -> tuple[Int[np.ndarray, "B T C"], Float[np.ndarray, "B T C A"]]:
        """Candidates and the teacher's rewards of them, right-padded with zeros."""
        width = batch.tokens.shape[1]
        rewards = self.rewards.batch("rewards", batch.ids, width)
        if self.candidates is None:
            return batch.tokens[..., None], rewards
        return self.candidates.batch("candidates", batch.ids, width), rewards

    @property
    def seconds(self) -> float:
        """What choosing the candidates and scoring them took, in this run or an earlier one."""
        return self.rewards.seconds + (self.candidates.seconds if self.candidates else 0.0)


def check_teacher(teacher: TrainedRewardModel, config: DistillConfig, lm: LMConfig) -> None:
    """Refuse what cannot be distilled, before the LM's weights are read.

    Raises:
      RewardJaxError: another number of outputs, or more candidates than the vocabulary holds.
    """
    outputs, objective = config.reward_model.outputs, config.objective
    if teacher.config.outputs != outputs:
        raise RewardJaxError(
            f"reward_model.outputs is {outputs} and the teacher {config.teacher!r} has "
            f"{teacher.config.outputs}; expected the same number"
        )
    check_candidates(objective, lm)


def check_candidates(objective: DistillObjectiveConfig, lm: LMConfig) -> None:
    """Refuse more candidates than the vocabulary holds."""
    if objective.targets != "observed" and objective.width > lm.vocab_size:
        most = lm.vocab_size - objective.include_observed
        raise RewardJaxError(
            f"num_candidates is {objective.num_candidates}; expected at most {most}, for "
            f"the vocabulary has {lm.vocab_size} tokens"
            f"{', the observed one included' if objective.include_observed else ''}"
        )


def load_or_compute(
    lm: LM,
    teacher: TrainedRewardModel,
    bound: tuple[RewardModel, RewardParams],
    objective: DistillObjectiveConfig,
    tokens: Sequence[np.ndarray],
    *,
    dtype: str = "float32",
    states: Features | None = None,
) -> Targets:
    """The teacher's rewards of the observed token, or of the LM's candidates, at every position.

    Args:
      bound: `teacher.bind(lm)`, which refuses a teacher of another LM.
      tokens: token ids of each text.
      dtype: how hidden states of the LM are kept, where the teacher or the candidates need them.
      states: hidden states of these texts that are at hand; used for the candidates if they fit.

    Raises:
      RewardJaxError: too little space on the disk.
    """
    model, params = bound
    # Equal inputs, equal targets: neither dropout nor sampling is anywhere in a reward model.
    own = features.load_or_compute(lm, tokens, model.layers, dtype=dtype) if model.layers else None
    chosen = None
    if objective.targets != "observed":
        chosen = lm_candidates(
            lm,
            tokens,
            objective.num_candidates,
            include_observed=objective.include_observed,
            dtype=dtype,
            states=[found for found in (states, own) if found is not None],
        )
    identity = [
        _VERSION,
        "teacher",
        fingerprint(teacher),
        f"{lm.fingerprint} {lm.params['embed_tokens']['embedding'].dtype}",
        None if chosen is None else chosen.directory.name,
    ]
    key = features.cache_key(
        json.dumps(identity), model.layers, dtype if model.layers else "", tokens
    )

    def compute() -> Iterator[Block]:
        for batch in all_batches(tokens, objective.width):
            part, width = batch.own(), batch.tokens.shape[1]
            hidden = own.batch(part.ids, width) if own else {}
            candidates = chosen.batch("candidates", part.ids, width) if chosen else None
            read = (part.tokens, part.lengths, hidden, candidates)
            rewards = fetch(_score(params, *place_batch(read, len(batch.lengths)), model=model))
            yield from texts_of(batch, rewards=rewards)

    rewards = token_rows.load_or_compute(
        cache_dir() / "targets",
        key,
        np.array([len(ids) for ids in tokens]),
        {"rewards": ((objective.width, model.outputs), np.dtype(np.float32))},
        compute,
        what="The teacher's rewards",
        flops=_flops(model, sum(map(len, tokens)), objective.width),
    )
    return Targets(rewards, chosen, model.first_scored)


@functools.partial(jax.jit, static_argnames="model")
def _score(params, tokens, lengths, hidden, candidates, *, model):
    if candidates is None:
        return model.token_rewards(params, tokens, lengths, hidden)[:, :, None]
    return model.position_rewards(params, tokens, lengths, hidden, candidates)


def fingerprint(teacher: TrainedRewardModel) -> str:
    """sha256 over a reward model's settings and every trained value."""
    described = [
        dataclasses.asdict(teacher.config),
        teacher.transformer.to_dict() if teacher.transformer else None,
        teacher.backbone_fingerprint,
    ]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(teacher.trainable):
        value = fetch(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _flops(model: RewardModel, tokens: int, width: int) -> float:
    """Work of the teacher, roughly: its own layers, and a product of D x D for each head."""
    shape = model.transformer or model.lm
    head = 2.0 * tokens * model.outputs * shape.hidden_size**2
    if model.transformer is None:
        return head
    reads = tokens * (1 + width if model.reads_candidates and width > 1 else 1)
    return head + estimate(shape, reads, (shape.num_hidden_layers,))
