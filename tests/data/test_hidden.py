"""Completions that share a row and their prompt have the states that each text has alone."""

import dataclasses

import numpy as np
import pytest

from rewardjax.data import hidden
from tests.conftest import tiny_config

LAYERS = (0, 2, 3)
# prompt → lengths of its completions; the last text shares nothing.
GROUPS = {3: [1, 4, 2], 20: [9, 30, 1, 12, 100], 37: [5], 0: [6]}


def texts():
    rng = np.random.default_rng(0)
    tokens, shared = [], []
    for prompt, completions in GROUPS.items():
        begin = rng.integers(3, 128, prompt)
        for length in completions:
            tokens.append(np.r_[begin, rng.integers(3, 128, length)].astype(np.int32))
            shared.append(prompt)
    order = rng.permutation(len(tokens))  # completions of a prompt need not lie side by side
    return [tokens[i] for i in order], [shared[i] for i in order]


@pytest.mark.parametrize("window", [None, 4])
def test_states_after_a_shared_prompt_are_those_of_each_text_alone(tiny_lm, window):
    config = dataclasses.replace(tiny_lm.config, sliding_window=window)
    lm = dataclasses.replace(tiny_lm, config=config)
    tokens, shared = texts()
    alone = dict(hidden.states_of_texts(lm, tokens, LAYERS))
    found = dict(hidden.states_of_texts(lm, tokens, LAYERS, shared=shared))
    assert found.keys() == alone.keys() == set(range(len(tokens)))
    for i, states in alone.items():
        for layer in LAYERS:
            assert found[i][layer].shape == (len(tokens[i]), tiny_config().hidden_size)
            np.testing.assert_allclose(found[i][layer], states[layer], rtol=1e-5, atol=1e-5)


def test_a_prompt_is_read_once_for_as_many_completions_as_a_row_holds():
    config = tiny_config()
    assert [hidden.row_width(config, n) for n in (0, 3, 20, 10**6)] == [64, 64, 64, 2048]
    larger = dataclasses.replace(config, intermediate_size=40_000)
    assert [hidden.row_width(larger, n) for n in (0, 1, 20)] == [64, 256, 1024]
    tokens, shared = texts()
    for model, of_twenty in ((larger, [20 + 152]), (config, [20 + 100, 20 + 52])):
        found = hidden.chunks(model, tokens, shared)
        assert sorted(i for chunk in found for i in chunk.texts) == list(range(len(tokens)))
        lengths = hidden.chunk_lengths(found, tokens)
        assert sorted(lengths) == sorted([3 + 7, *of_twenty, 37 + 5, 6])
    assert len(hidden.chunks(config, tokens, None)) == len(tokens)
