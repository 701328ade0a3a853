"""`rewardjax analyze agreement`: two trained reward models side by side, and what it refuses."""

import json

import pytest

from rewardjax.cli import main as cli
from rewardjax.export import load_reward_model
from rewardjax.rewards import RewardModelConfig
from rewardjax.train.agreement import agreement
from rewardjax.train.settings import DistillObjectiveConfig
from tests.trained import save_random

TEXTS = [f"the film {i} was good and the end of it was not" for i in range(12)]


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_lm, tiny_lm_dir):
    folder = tmp_path_factory.mktemp("agreement")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"t": x}) + "\n" for x in TEXTS))
    save_random(folder / "arm", tiny_lm, RewardModelConfig())
    rad = RewardModelConfig(parametrization="rad", backbone="own", num_layers=1)
    save_random(folder / "rad", tiny_lm, rad)
    return folder, tiny_lm_dir


def command(given, *more, student="arm"):
    folder, lm = given
    argv = ["--lm", str(lm), "--reward-model", str(folder / student)]
    argv += ["--teacher", str(folder / "rad"), "--texts", str(folder / "texts.jsonl")]
    return cli(["analyze", "agreement", *argv, "--text-field", "t", *more])


def test_numbers_are_those_of_the_function(given, tiny_lm, capsys):
    folder, _ = given
    out = folder / "agreement.json"
    more = ("--num-texts", "12", "--num-candidates", "3", "--out", str(out))
    assert command(given, *more) == 0
    assert "Pearson" in capsys.readouterr().out
    found = json.loads(out.read_text())
    models = [load_reward_model(folder / name) for name in ("arm", "rad")]
    for name, objective in (
        ("observed", DistillObjectiveConfig("observed")),
        ("candidates", DistillObjectiveConfig("candidates", 3)),
    ):
        expected = agreement(tiny_lm, *models, TEXTS, objective)
        assert found[name] == pytest.approx(expected, rel=1e-5)
    assert found["texts"] == 12
    assert command(given, *more) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert command(given, *more, "--overwrite") == 0


def test_a_model_agrees_with_itself(given, capsys):
    out = given[0] / "self.json"
    assert command(given, "--num-texts", "4", "--out", str(out), student="rad") == 0
    found = json.loads(out.read_text())["candidates"]
    assert found["eval/distillation_error"] < 1e-10
    assert found["eval/delta_pearson"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num-texts", "13"), "has 12 texts; expected at least num_texts = 13"),
        (("--num-texts", "0"), "num_texts is 0; expected at least 1"),
        (("--seed", "-1"), "seed is -1"),
        (
            ("--num-texts", "2", "--num-candidates", "100000"),
            "num_candidates is 100000; expected at most",
        ),
    ],
)
def test_refuses(given, capsys, flags, words):
    assert command(given, *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
