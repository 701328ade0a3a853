"""Oracles: what each kind says of texts whose answer is known, and settings that are none."""

import re

import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.scorers import load_scorer
from rewardjax.oracle import OracleConfig, check, open_oracle
from rewardjax.sequence import Completion

TEXTS = ["It rained.", "A raincoat", " RAIN, at last", "it's snow-white", "", "Straße  3 km"]


def said(texts=TEXTS, prompt="Rain is", **settings):
    oracle = open_oracle(OracleConfig(**settings))
    return oracle([Completion(prompt, text, (), range(len(text))) for text in texts]).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"words": ("rain", " snow")}, [0, 0, 1, 1, 0, 0]),  # whole words, in any case
        ({"words": ("STRASSE",)}, [0, 0, 0, 0, 0, 1]),
        ({"words": ("at last", "c++")}, [0, 0, 1, 0, 0, 0]),
        ({"pattern": r"rain\w+|\d"}, [1, 1, 0, 0, 0, 1]),
        ({"pattern": r"rain\w+|\d", "invert": True}, [0, 0, 1, 1, 1, 0]),
        ({"min_words": 2, "max_words": 2}, [1, 1, 0, 1, 0, 0]),
        ({"max_tokens": 10}, [1, 1, 0, 0, 1, 0]),
        ({"min_tokens": 1}, [1, 1, 1, 1, 0, 1]),
    ],
)
def test_of_the_text_alone(settings, expected):
    assert said(**settings) == expected


def test_scorers(tmp_path, monkeypatch):
    """Sentiment sees the prompt too and is strict; anything else sees the completion."""
    texts = ["bad", "good", "table"]
    score = load_scorer("vader")
    assert said(texts, "It is ", scorer="vader", threshold=0.0) == [0, 1, 0]
    assert said(["."], "It is great ", scorer="vader", threshold=0.0) == [1]
    assert score(["table"])[0] == 0
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lengths.py").write_text(
        "def score(texts):\n    return [len(t) / 4 for t in texts]"
    )
    own = {"scorer": "toxicity=lengths:score"}
    assert said(["a", "abc"], **own) == [0.25, 0.75]
    assert said(["a", "abc"], **own, invert=True) == [0.75, 0.25]
    assert said(["a", "abc"], **own, threshold=0.75, invert=True) == [1, 0]
    with pytest.raises(RewardJaxError, match=r"gives 1.25; expected 0 to 1: set oracle.threshold"):
        said(["abcde"], **own)
    with pytest.raises(RewardJaxError, match="gives -"):
        said(texts, "It is ", scorer="vader")


def test_a_version_tells_oracles_apart():
    texts = {"words": ("a",)}, {"words": ("a",), "invert": True}, {"pattern": "a"}
    scores = ({"scorer": "vader", "threshold": t} for t in (0.0, 0.1))
    asked = [*texts, *scores]
    versions = [open_oracle(OracleConfig(**one)).version for one in asked]
    assert len(set(versions)) == len(asked)
    assert "vaderSentiment" in versions[-1]


def test_values_of_soft_oracles_are_kept():
    oracle = open_oracle(OracleConfig(pattern="a"))
    assert oracle([]).shape == (0,)
    assert oracle([Completion("", "a", (), ())]).dtype == np.float64


BAD = [
    ({}, "exactly one of scorer, words, pattern and lengths (min_words … max_tokens), got none"),
    ({"words": ("a",), "min_words": 0}, "got words and lengths"),
    ({"words": ("a", " ")}, "oracle.words holds ' '"),
    ({"pattern": "*"}, "oracle.pattern '*' is no regular expression: nothing to repeat"),
    ({"pattern": "a", "threshold": 0.5}, "oracle.threshold is 0.5, but there is no oracle.scorer"),
    ({"scorer": "vader", "threshold": float("nan")}, "oracle.threshold is nan; expected a finite"),
    ({"max_words": -1}, "oracle.max_words is -1; expected at least 0"),
    ({"min_tokens": 3, "max_tokens": 2}, "min_tokens is 3; expected at most oracle.max_tokens, 2"),
]


@pytest.mark.parametrize(("settings", "expected"), BAD)
def test_bad_settings(settings, expected):
    with pytest.raises(RewardJaxError, match=re.escape(expected)):
        check(OracleConfig(**settings))
    with pytest.raises(RewardJaxError, match=re.escape(expected)):
        open_oracle(OracleConfig(**settings))
