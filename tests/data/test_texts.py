"""Texts without labels: which of them a reward model is trained on, and which stand apart."""

from rewardjax.data.texts import apart


def test_texts_inside_others_are_not_apart():
    others = ["a good film, all in all", "bad"]
    assert apart(["good film", "a good film indeed", "bad", "all in all bad"], others) == [
        "a good film indeed",
        "all in all bad",
    ]
