"""Samples that a run asks for are drawn once: another run with the same settings copies them."""

import dataclasses
import json
from pathlib import Path

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.train import samples
from rewardjax.train.sample_settings import SampleConfig

SAMPLING = SampleConfig(num_samples=2, max_new_tokens=3, seed=5)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws for a run of that name; and what was decoded, in order."""
    decoded = []

    def program(*words):
        assert words == ("decode", "guided")

        def decode(argv):
            out = argv[argv.index("--out") + 1]
            decoded.append(out)
            rows = [
                {"prompt": "I", "text": f"{len(decoded)}", "prompt_index": 0, "sample_index": i}
                for i in range(2)
            ]
            with open(out, "w") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))

        return decode

    monkeypatch.setattr(samples, "program", program)

    def draw(name, sampling=SAMPLING, prompts="I\n", fingerprint="a", guide=None, **other):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "prompts.jsonl").write_text(prompts)
        settings = {"lm": "x", "dtype": "float32", "chat": False, "guide": guide} | other
        rows = samples.sample(
            folder / "completions.jsonl",
            folder / "prompts.jsonl",
            sampling,
            fingerprint=fingerprint,
            **settings,
        )
        return rows[0].text

    return draw, decoded


def test_the_same_samples_are_drawn_once(draw):
    draw, decoded = draw
    assert draw("one") == "1"
    assert draw("other") == "1"
    assert draw("batches", dataclasses.replace(SAMPLING, batch_size=7)) == "1"
    assert draw("other") == "1"  # there already
    assert len(decoded) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": dataclasses.replace(SAMPLING, seed=6)},
        {"sampling": dataclasses.replace(SAMPLING, temperature=1.5)},
        {"prompts": "You\n"},
        {"fingerprint": "b"},
        {"dtype": "bfloat16"},
        {"chat": True},
    ],
    ids=["seed", "temperature", "prompts", "LM", "dtype", "chat"],
)
def test_others_are_not_taken_for_them(draw, change):
    draw, _ = draw
    assert draw("one") == "1"
    assert draw("other", **change) == "2"


def test_guided_samples_are_of_their_run_alone(draw):
    draw, decoded = draw
    for name in ("one", "other"):
        draw(name, guide=Path("reward_model"))
    draw("third")
    assert len(decoded) == 3


def test_what_a_kill_left_is_gone_on_with(draw, tmp_path):
    draw, decoded = draw
    draw("one")
    folder = tmp_path / "killed"
    folder.mkdir()
    for name in ("completions.jsonl", "completions.jsonl.partial.json"):
        (folder / name).write_text("")
    draw("killed")
    assert len(decoded) == 2


def test_samples_of_another_lm_are_not_gone_on_with(draw):
    draw, decoded = draw
    draw("one")
    with pytest.raises(RewardJaxError, match=r"completions.jsonl' was sampled by another LM than"):
        draw("one", fingerprint="b")
    assert len(decoded) == 1


def test_samples_that_name_no_lm_are_nobodys(draw, tmp_path):
    draw, decoded = draw
    draw("one")
    author = tmp_path / "one" / "completions.lm"
    author.unlink()
    assert draw("one", fingerprint="b") == "1"
    assert len(decoded) == 1
    assert not author.exists()
