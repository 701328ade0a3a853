"""A row's numbers are its own: not of its neighbours, the padding or the batch.

In one compiled program they are the same bit for bit. In another one only the rounding differs.
(On other meshes: `tests/test_sharding.py`.)
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewardjax as rj
from rewardjax.api import iterate_generations
from rewardjax.rewards import RewardModelConfig
from rewardjax.text import encode_prompt
from tests.soak import proved, times
from tests.trained import save_random

HEADS = {
    "arm": RewardModelConfig(layer=2),
    "rad": RewardModelConfig("rad", "own", num_layers=2),
}
ROW = ("it was not a good", 7)
"""prompt, and the index that its draws depend on"""
LONG = "the film " * 12
SAMPLING = rj.SamplingConfig(beta=50.0, max_new_tokens=8)
words = st.text(st.sampled_from(" abcfgilmnorst"), min_size=1, max_size=9).filter(str.strip)


def cases(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", params=HEADS)
def model(request, tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("invariance") / "head"
    return rj.load_reward_model(save_random(folder, tiny_lm, HEADS[request.param]))


def row_among(lm, model, before, after, batch_size):
    """ROW's ids and numbers, decoded between others."""
    numbered = enumerate([*before, *after], 100)
    others = [encode_prompt(lm, text, index) for index, text in numbered]
    prompts = [*others[: len(before)], encode_prompt(lm, *ROW), *others[len(before) :]]
    how = {"reward_model": model, "batch_size": batch_size}
    row = list(iterate_generations(lm, prompts, SAMPLING, **how))[len(before)]
    return row.token_ids, row.logprobs, row.base_logprobs, row.rewards


def test_neighbours_change_no_bit(tiny_lm, model, record_property):
    """The same slot of the same program, beside whatever fits its bucket.

    Prompts that differ: one that stands there twice is read once, by a program for fewer.
    """
    count = times(4, 100)
    want = row_among(tiny_lm, model, ["a"], ["b", "c"], 4)

    @cases(count)
    @given(st.lists(words, min_size=3, max_size=3, unique=True))
    def check(others):
        assert row_among(tiny_lm, model, others[:1], others[1:], 4) == want

    check()
    proved(record_property, "a row beside any neighbours: the same, bit for bit", count)


def test_the_batch_changes_no_more_than_rounding(tiny_lm, model, record_property):
    """Any slot, of three or more, and long prompts beside it, so that it waits for one.

    beta multiplies the rounding of rewards in the steered logits, and so in `logprobs`.
    """
    count = times(4, 100)
    want = row_among(tiny_lm, model, [], [], 4)
    some = st.lists(words | st.just(LONG), max_size=5)

    @cases(count)
    @given(some, some, st.sampled_from(times([3], [3, 4, 5])))
    def check(before, after, batch_size):
        ids, *values = row_among(tiny_lm, model, before, after, batch_size)
        assert ids == want[0]
        within = (1e-5 * (1 + 2 * SAMPLING.beta), 1e-5, 1e-5)
        for got, expected, atol in zip(values, want[1:], within, strict=True):
            np.testing.assert_allclose(got, expected, atol=atol, rtol=0)

    check()
    promise = "a row in any batch, slot and bucket: the same ids, logits and rewards within 1e-5"
    proved(record_property, promise, count)


def test_padding_changes_no_more_than_rounding(smollm2, tiny_lm, record_property):
    """Logits of the default LM within 2e-4, of a tiny one within 1e-5, whatever stands behind."""
    count, rng = times(4, 40), np.random.default_rng(0)
    for lm, width, within in ((smollm2, 24, 2e-4), (tiny_lm, 24, 1e-5)):
        texts = rng.integers(3, 100, (2, 9))
        alone = [lm.logits(text[None], [9])[0] for text in texts]
        for _ in range(count):
            tokens = rng.integers(3, 100, (3, width))
            place = rng.permutation(3)[:2]
            tokens[place, :9] = texts
            lengths = np.full(3, width)
            lengths[place] = 9
            logits = lm.logits(tokens, lengths)
            for row, want in zip(place, alone, strict=True):
                np.testing.assert_allclose(logits[row, :9], want, atol=within, rtol=0)
    proved(
        record_property, "a text in any padding: logits within 2e-4 (135M), 1e-5 (tiny)", 2 * count
    )


def test_a_batch_changes_rewards_no_more_than_rounding(tiny_lm, model, record_property):
    """Of texts that are scored, alone and among others, within 1e-5."""
    count, rng = times(4, 40), np.random.default_rng(0)
    texts = ["a good film", "it was bad", LONG]
    alone = [rj.reward(tiny_lm, model, [text])[0] for text in texts]
    for _ in range(count):
        order = rng.permutation(3)
        together = rj.reward(tiny_lm, model, [texts[i] for i in order])
        for i, got in zip(order, together, strict=True):
            np.testing.assert_allclose(got, alone[i], atol=1e-5)
    proved(record_property, "a text's reward alone and in a batch: within 1e-5", count)
