"""What attribute-controlled fine-tuning trains on: the texts, their weights and states."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.data.batches import make_batch
from rewardjax.data.generations import Row
from rewardjax.lm import open_lm
from rewardjax.lm.decoder import read
from rewardjax.oracle import open_oracle
from rewardjax.sequence import TextReward
from rewardjax.text import encode_prompt
from rewardjax.train.attribute_data import (
    Samples,
    accepted,
    judge_texts,
    read_samples,
    read_texts,
    samples_beside,
)
from rewardjax.train.attribute_settings import AttributeObjective
from rewardjax.train.sample_settings import resolved
from tests.train.attribute.common import ORACLE, SAMPLING, SOFT, V, badness


def test_the_lms_own_samples_as_texts(job, tmp_path):
    """Accepted ones train, each from behind its prompt; texts of data judge."""
    config = job(objective=AttributeObjective(source="samples", texts="accepted"), oracle=ORACLE)
    corpus = corpus_of(config)
    texts = [" good", " bad", " great", " not", " a film", " bd"]
    opened = open_lm(config.lm)
    rows = [
        Row(prompt, text, i, j, opened.tokenizer(text)["input_ids"])
        for i, prompt in enumerate(("the film", "it"))
        for j, text in enumerate(texts)
    ]
    prompts = {i: encode_prompt(opened, text, i) for i, text in enumerate(("the film", "it"))}
    values = 1 - np.array(badness([row.text for row in rows]), np.float32)
    values = (values > 0.8).astype(np.float32)
    samples = read_samples(config, Samples(rows, values, prompts, resolved(SAMPLING, V)))
    both = samples_beside(config, samples, corpus)
    np.testing.assert_array_equal(both.eval_rows, corpus.eval_rows)
    trained = {both.examples.texts[i] for i in both.train_rows}
    good = [row.prompt + row.text for row in rows if badness([row.text])[0] < 0.2]
    assert trained == {text for text in good if text.startswith(tuple(kept_prompts(samples)))}
    assert trained
    prompts = {p: len(open_lm(config.lm).tokenizer(p)["input_ids"]) for p in ("the film", "it")}
    for i in both.train_rows:
        prompt = next(p for p in prompts if both.examples.texts[i].startswith(p))
        assert both.starts[i] == prompts[prompt]
    batch = make_batch(
        both.train_rows[:2].tolist(),
        both.tokens,
        both.examples.labels,
        width=8,
        batch_size=3,
        starts=both.starts,
    )
    found = both.inputs(batch, with_kl=False)
    for row, at in zip(both.train_rows[:2], found.positions, strict=False):
        wanted = list(range(both.starts[row], len(both.tokens[row])))
        assert at.tolist() == wanted + [0] * (len(at) - len(wanted))
    assert not found.positions[2].any()
    assert found.positions.shape[1] <= 7


def kept_prompts(samples):
    """The prompts whose samples train: held out are all of a prompt's, or none."""
    prompts = {"the film", "it"}
    held = {
        p for i in samples.eval_rows for p in prompts if samples.examples.texts[i].startswith(p)
    }
    kept = {
        p for i in samples.train_rows for p in prompts if samples.examples.texts[i].startswith(p)
    }
    assert held | kept == prompts
    assert not held & kept
    return kept


def test_states_are_those_of_the_right_lm(job, lm):
    """θ_old's, and those of the LM that the reward model belongs to, which may be an older one."""
    corpus = corpus_of(job())
    older = dataclasses.replace(lm, params=jax.tree.map(lambda x: 1.1 * x, lm.params))
    rows = corpus.train_rows[:2].tolist()
    batch = make_batch(rows, corpus.tokens, corpus.examples.labels, width=8, batch_size=2)
    for reader in (older, lm):
        found = corpus.with_states(lm, reader, (0, 1)).inputs(batch, with_kl=True)
        want = [
            read(x.config, x.params, jnp.asarray(batch.tokens), jnp.asarray(batch.lengths), {0, 1})
            for x in (lm, reader)
        ]
        pairs = [(found.old, want[0][1]), *((found.hidden[i], want[1][i]) for i in (0, 1))]
        for row, length in enumerate(batch.lengths):
            for got, expected in pairs:
                np.testing.assert_allclose(
                    got[row, :length], expected[row, :length], rtol=1e-4, atol=1e-5
                )


def corpus_of(config):
    """The texts D of a run, judged."""
    Path(config.run_dir).mkdir(exist_ok=True)
    oracle = open_oracle(config.oracle) if config.judged else None
    lm = open_lm(config.lm)
    return judge_texts(config, lm, read_texts(config, lm), oracle)


def test_arms_differ_by_their_texts_and_weights(job, monkeypatch):
    """Filtered: accepted texts alone train; the same texts are held out in every arm.

    The oracle's values are kept: the same are not asked for again.
    """

    def corpus(**changes):
        return corpus_of(
            job(objective=AttributeObjective(**changes.pop("objective", {})), **changes)
        )

    every = corpus()
    assert (every.examples.labels == 1).all()
    bad = np.array([text.endswith((" bad", " not")) for text in every.examples.texts])
    np.testing.assert_array_equal(every.accepted, ~bad)
    kept = corpus(objective={"texts": "accepted"})
    np.testing.assert_array_equal(kept.train_rows, [i for i in every.train_rows if not bad[i]])
    np.testing.assert_array_equal(kept.eval_rows, every.eval_rows)
    scored = corpus(objective={"texts": "accepted"}, oracle=ORACLE)
    cut = [open_lm(job().lm).tokenizer.decode(ids.tolist()) for ids in every.tokens]
    assert all(map(str.startswith, every.examples.texts, cut))
    assert set(cut) - set(every.examples.texts)  # the oracle reads what the LM does
    shares = np.array(badness(cut))

    def unit(weights):
        """Mean 1 over the predicted tokens of the texts that train."""
        predicted = np.array([len(every.tokens[i]) - 1 for i in every.train_rows])
        return weights / np.average(weights[every.train_rows], weights=predicted)

    assert 0 < len(scored.train_rows) < len(every.train_rows)
    assert set(scored.train_rows) == {i for i in every.train_rows if shares[i] < 0.2}
    (Path(job().run_dir) / "texts.jsonl").unlink()  # values of another oracle
    linear = corpus(objective={"weighting": "linear"}, oracle=SOFT)
    np.testing.assert_array_equal(linear.accepted, shares <= 0.5)
    monkeypatch.setattr(TextReward, "__call__", lambda *_: pytest.fail("scored again"))
    np.testing.assert_allclose(linear.examples.labels[:, 0], unit(1 - shares), rtol=1e-5)
    weighted = corpus(
        objective={"weighting": "exponential", "tau": 0.3, "kl_label": "relevant"}, oracle=SOFT
    ).examples.labels
    np.testing.assert_allclose(weighted[:, 0], unit(np.exp(-shares / 0.3)), rtol=1e-5)
    np.testing.assert_array_equal(weighted[:, 1], np.arange(len(shares)) % 3 == 0)
    soft = np.array([0, 0.4999, 0.5, 1], np.float32)
    np.testing.assert_array_equal(accepted(soft), [False, False, True, True])
    none = corpus(data=dataclasses.replace(job().data, labels=()))
    assert none.accepted is None
