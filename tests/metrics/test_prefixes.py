"""Prefixes: proper, different, decided by the seed, and complete where they must be."""

import itertools

import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.prefixes import cut_prefixes

TEXTS = [[1, 2, 3, 4], [1, 2, 5], [7, 8, 9, 10, 11], [6]]


def test_proper_different_and_seeded():
    texts = np.random.default_rng(0).integers(0, 50, (200, 12)).tolist()
    found = cut_prefixes(texts, 150, 3)
    assert len(set(found)) == len(found) == 150
    whole = {tuple(text) for text in texts}
    for prefix in found:
        assert 1 <= len(prefix) < 12
        assert any(text[: len(prefix)] == prefix for text in whole)
    lengths = [len(prefix) for prefix in found]
    assert set(lengths) == set(range(1, 12))  # places are spread over the whole text
    assert found == cut_prefixes(texts, 150, 3) != cut_prefixes(texts, 150, 4)
    assert found[:60] == cut_prefixes(texts, 60, 3)


def test_all_there_are_and_no_more():
    everything = {(1,), (1, 2), (1, 2, 3), (7,), (7, 8), (7, 8, 9), (7, 8, 9, 10)}
    for seed in range(5):
        found = cut_prefixes(TEXTS, 7, seed)
        assert len(found) == 7
        assert set(found) == everything
    with pytest.raises(RewardJaxError, match=r"have 7 different prefixes \(3 texts.*at least 8"):
        cut_prefixes(TEXTS, 8, 0)


def test_no_text_long_enough():
    with pytest.raises(RewardJaxError, match="'dev' have 0 different prefixes"):
        cut_prefixes([[1], []], 1, 0, name="'dev'")


def test_texts_are_all_used_before_any_is_used_again():
    texts = [[i, i + 100, i + 200] for i in range(20)]
    firsts = [prefix[0] for prefix in cut_prefixes(texts, 20, 0)]
    assert sorted(firsts) == list(range(20))
    assert list(itertools.chain(firsts)) != sorted(firsts)
