"""Penalties and candidates, against Hugging Face's processors and the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rewardjax.decoding.guides import Guides, row_settings
from rewardjax.decoding.penalties import penalize
from rewardjax.decoding.sampling import draw, invert, select_candidates
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.decoding.state import NO_TOKEN

VOCABULARY = 50
RNG = np.random.default_rng(1)
LOGITS = RNG.normal(scale=3, size=(6, VOCABULARY)).astype(np.float32)
PROMPT = RNG.integers(0, VOCABULARY, (6, 5)).astype(np.int32)
TEXT = RNG.integers(0, 6, (6, 8)).astype(np.int32)  # few ids: they repeat
STEPS = np.array([0, 1, 3, 5, 8, 2], np.int32)


def penalized(**settings):
    rows = row_settings([SamplingConfig(**settings)] * 6, Guides(), (7, 9))
    prompt = np.where(np.arange(5) < 4, PROMPT, NO_TOKEN)  # each prompt has four tokens
    return np.asarray(jax.jit(penalize)(LOGITS, prompt, TEXT, STEPS, rows))


def known(row):
    return np.concatenate([PROMPT[row, :4], TEXT[row, : STEPS[row]]])


def test_nothing_asked_changes_nothing():
    np.testing.assert_array_equal(penalized(), LOGITS)


@pytest.mark.parametrize("penalty", [1.3, 0.5])
def test_repetition_is_hugging_faces(penalty):
    got = penalized(repetition_penalty=penalty)
    for row in range(6):
        ids = torch.tensor(known(row)[None].astype(np.int64))
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, torch.tensor(LOGITS[row : row + 1]))
        np.testing.assert_allclose(got[row], theirs[0], rtol=1e-6)


def test_presence_counts_once_and_frequency_every_time():
    got = penalized(presence_penalty=0.7, frequency_penalty=0.4)
    for row in range(6):
        count = np.bincount(TEXT[row, : STEPS[row]], minlength=VOCABULARY)
        expected = LOGITS[row] - 0.7 * (count > 0) - 0.4 * count
        np.testing.assert_allclose(got[row], expected, rtol=1e-5, atol=1e-6)


def test_all_penalties_in_their_order():
    got = penalized(repetition_penalty=1.5, presence_penalty=0.7, frequency_penalty=0.4)
    for row in range(6):
        z = LOGITS[row].copy()
        seen = np.unique(known(row))
        z[seen] = np.where(z[seen] > 0, z[seen] / 1.5, z[seen] * 1.5)
        count = np.bincount(TEXT[row, : STEPS[row]], minlength=VOCABULARY)
        expected = z - 0.7 * (count > 0) - 0.4 * count
        np.testing.assert_allclose(got[row], expected, rtol=1e-5, atol=1e-6)


def test_no_end_before_min_new_tokens():
    got = penalized(min_new_tokens=3, stop_ids=(11,))
    for row in range(6):
        processor = MinNewTokensLengthLogitsProcessor(4, 3, [7, 9, 11], device="cpu")
        ids = torch.tensor(known(row)[None].astype(np.int64))
        theirs = processor(ids, torch.tensor(LOGITS[row : row + 1]))
        np.testing.assert_array_equal(got[row], theirs[0])


@pytest.mark.parametrize("capacity", [20, VOCABULARY])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(20, 1.0, 0.0), (7, 0.8, 0.0), (20, 1.0, 0.2), (12, 0.9, 0.05)]
)
def test_candidates_are_hugging_faces(capacity, top_k, top_p, min_p):
    fill = lambda value: jnp.full(6, value)  # noqa: E731
    found = select_candidates(jnp.asarray(LOGITS), capacity, fill(top_k), fill(top_p), fill(min_p))
    scores = torch.tensor(LOGITS)
    for warper in (TopKLogitsWarper(top_k), TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)):
        scores = warper(None, scores)
    for row in range(6):
        kept = set(np.asarray(found.ids[row])[np.asarray(found.mask[row])].tolist())
        assert kept == set(np.flatnonzero(np.isfinite(scores[row].numpy())).tolist())


def test_min_p_is_relative_to_the_best_token():
    logits = jnp.log(jnp.array([[0.5, 0.26, 0.14, 0.1]]))
    one = jnp.ones(1)
    found = select_candidates(logits, 3, jnp.array([3]), one, 0.5 * one)
    assert found.mask.tolist() == [[True, True, False]]


def test_a_draw_does_not_depend_on_the_order_of_candidates():
    keys = jax.random.split(jax.random.key(0), 400)
    logprobs = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    ids = jnp.array([5, 2, 9, 0])
    order = jnp.array([3, 1, 0, 2])
    fill = lambda x: jnp.broadcast_to(x, (400, 4))  # noqa: E731
    ones = jnp.ones(400)
    first = ids[draw(keys, fill(ids), fill(logprobs), ones)]
    second = ids[order][draw(keys, fill(ids[order]), fill(logprobs[order]), ones)]
    np.testing.assert_array_equal(first, second)
    assert len(set(np.asarray(first).tolist())) == 4


@pytest.mark.parametrize("count", [1, 5, 255, 256, 257, 5000])
def test_inverting_in_blocks_is_inverting_the_running_sum(count):
    rng = np.random.default_rng(count)
    probabilities = rng.dirichlet(np.full(count, 0.1), 200).astype(np.float32)
    probabilities[:, rng.random(count) < 0.3] = 0  # candidates that may not be drawn
    probabilities[:, 0] += 0.01
    uniform = rng.random(200).astype(np.float32)
    uniform[:3] = 0.0, 1 - 2**-24, 0.5
    found = np.asarray(invert(jnp.asarray(probabilities), jnp.asarray(uniform)))
    running = np.cumsum(probabilities.astype(np.float64), axis=1)
    target = uniform.astype(np.float64) * running[:, -1]
    at = np.arange(200)
    assert (probabilities[at, found] > 0).all()
    # Its interval holds the target, up to the rounding of float32 sums.
    assert (running[at, found] >= target - 1e-5).all()
    assert (running[at, found] - probabilities[at, found] <= target + 1e-5).all()
