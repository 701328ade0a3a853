"""`rj.stream` against `rj.generate`: the same text, never taken back."""

import pytest

import rewardjax as rj
from rewardjax import streaming
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardModelConfig
from rewardjax.streaming import settled
from tests.trained import save_random

SETTINGS = {"max_new_tokens": 30, "top_k": 30, "temperature": 1.3}


@pytest.fixture(scope="module")
def reward_model(tiny_lm, tmp_path_factory):
    folder = save_random(tmp_path_factory.mktemp("arm"), tiny_lm, RewardModelConfig())
    return rj.load_reward_model(folder)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", [None, ["e", " t"]])
def test_pieces_make_the_text(tiny_lm, reward_model, seed, stop):
    settings = {**SETTINGS, "reward_model": reward_model, "beta": 4.0, "seed": seed, "stop": stop}
    ((whole,),) = rj.generate(tiny_lm, ["the film"], **settings)
    pieces = list(rj.stream(tiny_lm, "the film", **settings))
    assert "".join(pieces) == whole.text
    assert all(pieces)
    if stop is None and whole.finish_reason == "length":
        assert len(pieces) > 1


def test_half_characters_and_beginnings_of_stop_strings_wait():
    assert settled("caf\ufffd", ()) == "caf"
    assert settled("a \ufffd\ufffd", ()) == "a "
    assert settled("one END", ("ENDED",)) == "one "
    assert settled("one E", ("ENDED", "xE1")) == "one "
    assert settled("one two", ("ENDED",)) == "one two"


def test_characters_of_several_tokens_come_whole(tiny_lm, monkeypatch):
    """A tokenizer of bytes gives a half character after every other step."""
    text = "né à ü ö é"
    data = text.encode()

    def decode(lm, prompt_ids, token_ids):
        return data[: len(token_ids)].decode(errors="replace")

    monkeypatch.setattr(streaming, "continuation_text", decode)
    monkeypatch.setattr(streaming, "row_text", lambda *args: text)
    monkeypatch.setattr(streaming, "BLOCK", 1)
    settings = {"max_new_tokens": len(data), "min_new_tokens": len(data)}
    pieces = list(rj.stream(tiny_lm, "the film", **settings))
    assert "".join(pieces) == text
    assert len(pieces) > 5


def test_errors_come_before_the_first_piece(tiny_lm):
    with pytest.raises(RewardJaxError, match=r"beta is 3\.0 without a reward model"):
        rj.stream(tiny_lm, "a", beta=3.0)
    with pytest.raises(RewardJaxError, match=r"'tempratur' is no argument and no setting; did you"):
        rj.stream(tiny_lm, "a", tempratur=0.5)
