"""Texts of attribute-controlled fine-tuning as a step takes them: of the data, and sampled."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32

from rewardjax.data import batches, examples, features, files
from rewardjax.data.batches import Batch
from rewardjax.data.examples import Examples
from rewardjax.data.features import Features
from rewardjax.data.generations import Row
from rewardjax.data.settings import fill, without_labels
from rewardjax.errors import RewardJaxError
from rewardjax.lm import LM, OpenedLM
from rewardjax.objectives.attribute import exponential_weights
from rewardjax.oracle import Oracle
from rewardjax.text import EncodedPrompt

from .attribute_loss import LMInputs
from .attribute_settings import AttributeConfig
from .sample_settings import SampleConfig
from .samples import names_of, oracle_reward, score, token_ids


@dataclass(frozen=True)
class TextSet:
    """N texts as token ids, with their weights in the two terms."""

    examples: Examples
    """labels [N, 2]: the text's weight in L_LM (mean 1 over the tokens that train) and in the KL"""
    tokens: list[np.ndarray]
    starts: Int32[np.ndarray, "N"]
    """first predicted position"""
    train_rows: np.ndarray
    eval_rows: np.ndarray
    accepted: Bool[np.ndarray, "N"] | None = None
    """what the oracle says of them"""
    old: Features | None = None
    """θ_old's states"""
    hidden: Features | None = None
    """those that the reward model reads; None: it has a backbone of its own"""

    @property
    def digest(self) -> str:
        """Hash of ids and weights."""
        found = hashlib.sha256(features.cache_key("", (), "", self.tokens).encode())
        found.update(self.examples.labels.tobytes() + self.starts.tobytes())
        return found.hexdigest()[:32]

    @functools.cached_property
    def most(self) -> int:
        """Predicted tokens of the text that has most: one shape for all batches of samples."""
        return max(len(x) - int(start) for x, start in zip(self.tokens, self.starts, strict=True))

    def inputs(self, batch: Batch, *, with_kl: bool) -> LMInputs:
        """Arrays of a batch of these texts; states only where the KL is computed."""
        width = batch.tokens.shape[1]
        t = batch.prompt_lengths[:, None] + np.arange(min(width - 1, self.most), dtype=np.int32)
        positions = np.where(t < batch.lengths[:, None], t, 0)
        found = LMInputs(batch.tokens, batch.lengths, positions, batch.labels)
        if not with_kl:
            return found
        assert self.old is not None
        old = self.old.batch(batch.ids, width)
        hidden = {}
        if self.hidden is self.old:
            hidden = old
        elif self.hidden is not None:
            hidden = self.hidden.batch(batch.ids, width)
        return found._replace(old=old[max(old)], hidden=hidden)

    def with_states(self, old: LM, reader: LM, layers: Sequence[int]) -> TextSet:
        """With θ_old's states, and those of `layers` that the reward model reads of its LM."""
        top = old.config.num_hidden_layers
        if old is reader:
            found = features.load_or_compute(old, self.tokens, (top, *layers))
            return dataclasses.replace(self, old=found, hidden=found if layers else None)
        hidden = features.load_or_compute(reader, self.tokens, layers) if layers else None
        found = features.load_or_compute(old, self.tokens, (top,))
        return dataclasses.replace(self, old=found, hidden=hidden)


class Texts(NamedTuple):
    """The texts D before they are judged."""

    examples: Examples
    tokens: list[np.ndarray]
    train_rows: np.ndarray
    eval_rows: np.ndarray


class Samples(NamedTuple):
    """What the LM of a round wrote."""

    rows: list[Row]
    values: Float32[np.ndarray, "N"] | None
    """the oracle's; None: there is none"""
    prompts: Mapping[int, EncodedPrompt]
    sampling: SampleConfig
    """that they were drawn by, `resolved`"""


def read_texts(config: AttributeConfig, lm: OpenedLM) -> Texts:
    """The texts D as tokens, and split. Which are held out does not depend on the arm.

    Raises:
      RewardJaxError: as the readers of labelled texts.
    """
    data = config.data if config.labelled else without_labels(config.data)
    found = files.read_examples(data)
    seed = config.seed if data.split_seed is None else data.split_seed
    found = examples.subset(found, data.max_examples, seed)
    found, tokens = batches.tokenize(
        found,
        lm.tokenizer,
        context=lm.config.max_position_embeddings,
        shortest=2,  # the first token is not predicted
        max_length=data.max_length,
        on_bad_row=data.on_bad_row,
    )
    return Texts(found, tokens, *examples.split(found.texts, data.held_out, seed))


def judge_texts(
    config: AttributeConfig, lm: OpenedLM, texts: Texts, oracle: Oracle | None
) -> TextSet:
    """The texts D judged by the oracle, or else by their first label, and weighted.

    The oracle reads what the LM does: a text that was cut is judged as far as it goes. Its values
    are kept in RUN_DIR/texts.jsonl (`samples.score`).

    Raises:
      RewardJaxError: as the oracle; labels outside [0, 1]; no text is left to train on.
    """
    found, tokens, train, held = texts
    values = None
    if oracle is not None:
        read = lm.tokenizer.batch_decode([x.tolist() for x in tokens], skip_special_tokens=True)
        rows = [Row("", text, i, 0, tokens[i].tolist()) for i, text in enumerate(read)]
        values = score(Path(config.run_dir) / "texts.jsonl", rows, oracle_reward(oracle))
    elif config.labelled:
        values = found.labels[:, 0]
        if not (values.min() >= 0 and values.max() <= 1):
            raise RewardJaxError(
                f"data.labels[0] goes from {values.min():g} to {values.max():g}; expected 0 to 1,"
                " or an oracle"
            )
    weights = weigh(config, values, len(tokens))
    if config.objective.kl_label is not None:
        weights[:, 1] = found.labels[:, fill(config.data).labels.index(config.objective.kl_label)]
    corpus = TextSet(
        dataclasses.replace(found, labels=weights),
        tokens,
        np.ones(len(tokens), np.int32),
        train,
        held,
        accepted(values),
    )
    return chosen(config, corpus) if config.objective.source == "data" else corpus


def chosen(config: AttributeConfig, texts: TextSet) -> TextSet:
    """Those texts to train on that the arm asks for.

    Raises:
      RewardJaxError: there is none.
    """
    train = texts.train_rows
    if config.objective.texts == "accepted":
        assert texts.accepted is not None
        train = train[texts.accepted[train]]
    for i, name in enumerate(("in L_LM", "in the KL term")):
        if not texts.examples.labels[train, i].any():
            why = "the oracle accepts none of them" if not len(train) else "their weight is 0"
            raise RewardJaxError(f"no text is left to train on {name}: {why}; look at oracle")
    labels, count = texts.examples.labels.copy(), np.array([len(x) for x in texts.tokens])
    predicted = (count - texts.starts)[train]
    labels[:, 0] *= predicted.sum() / (labels[train, 0] * predicted).sum(dtype=np.float64)
    return dataclasses.replace(
        texts, examples=dataclasses.replace(texts.examples, labels=labels), train_rows=train
    )


def samples_beside(config: AttributeConfig, samples: TextSet, corpus: TextSet) -> TextSet:
    """Samples to train on, and the held-out texts of the corpus to judge by."""
    own, first = chosen(config, samples), len(corpus.tokens)
    parts = (corpus.examples, own.examples)
    labels = np.concatenate([part.labels for part in parts])
    texts, ids = ([x for part in parts for x in getattr(part, name)] for name in ("texts", "ids"))
    accepted = None
    if corpus.accepted is not None and own.accepted is not None:
        accepted = np.concatenate([corpus.accepted, own.accepted])
    return TextSet(
        Examples(texts, labels, ids, corpus.examples.skipped),
        corpus.tokens + own.tokens,
        np.concatenate([corpus.starts, own.starts]),
        first + own.train_rows,
        corpus.eval_rows,
        accepted,
    )


def accepted(values: Float32[np.ndarray, "N"] | None) -> Bool[np.ndarray, "N"] | None:
    """C: whether the oracle's values are at least 1/2, which of those of a threshold is 1."""
    return None if values is None else values >= 0.5


def weigh(
    config: AttributeConfig, values: Float32[np.ndarray, "N"] | None, count: int
) -> Float32[np.ndarray, "N 2"]:
    """Weights of texts in L_LM and in the KL term."""
    weights, objective = np.ones((count, 2), np.float32), config.objective
    if objective.weighting == "none":
        return weights
    assert values is not None
    weights[:, 0] = values
    if objective.weighting == "exponential":
        weights[:, 0] = exponential_weights(jnp.asarray(weights[:, 0]), objective.tau)
    return weights


def read_samples(config: AttributeConfig, samples: Samples) -> TextSet:
    """The LM's own samples; predicted are the tokens after their prompts."""
    rows, values, prompts, _ = samples
    train, held = examples.split([row.prompt for row in rows], config.data.held_out, config.seed)
    weights = np.ones((len(rows), 2), np.float32)
    if config.objective.source == "samples":
        weights = weigh(config, values, len(rows))
    return TextSet(
        Examples([row.prompt + row.text for row in rows], weights, names_of(rows)),
        [token_ids(prompts[row.prompt_index], row) for row in rows],
        np.array([len(prompts[row.prompt_index].token_ids) for row in rows], np.int32),
        train,
        held,
        accepted(values),
    )
