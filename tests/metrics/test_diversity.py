"""dist-n against worked examples and a brute-force count."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardjax.metrics.diversity import distinct_by_prompt, distinct_n


def test_worked_example():
    texts = ["the cat sat", "the cat ran away"]
    # 7 words; unigrams the cat sat ran away; bigrams the-cat cat-sat cat-ran ran-away.
    assert distinct_n(texts, 1) == 5 / 7
    assert distinct_n(texts, 2) == 4 / 7
    assert distinct_n(texts, 3) == 3 / 7


def test_no_ngram_crosses_a_border():
    assert distinct_n(["a b", "c d"], 2) == 2 / 4
    assert distinct_n(["a b c d"], 2) == 3 / 4


def test_spaces_only_separate():
    assert distinct_n([" a  b "], 1) == 1.0
    assert distinct_n(["a\nb a\nb"], 1) == 1 / 2


def test_nothing_to_count():
    assert math.isnan(distinct_n(["", "  "], 1))
    assert distinct_n(["one"], 3) == 0.0
    with pytest.raises(ValueError, match="n ≥ 1"):
        distinct_n(["a"], 0)


@given(st.lists(st.text("ab ", max_size=12), max_size=4), st.integers(1, 3))
def test_equals_brute_force(texts, n):
    grams, words = [], 0
    for text in texts:
        pieces = text.split()
        words += len(pieces)
        for start in range(len(pieces)):
            gram = pieces[start : start + n]
            if len(gram) == n and gram not in grams:
                grams.append(gram)
    got = distinct_n(texts, n)
    assert math.isnan(got) if words == 0 else got == len(grams) / words


def test_by_prompt():
    got = distinct_by_prompt([["a a"], ["a b"]], (1, 2))
    np.testing.assert_array_equal(got, [[0.5, 0.5], [1.0, 0.5]])
    assert distinct_by_prompt([], (1, 2, 3)).shape == (0, 3)
