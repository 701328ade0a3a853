"""`rewardjax train nado`: prompts and an oracle in, a reward model that decodes at β = 1 out."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from rewardjax import config as settings_file
from rewardjax.cli import main
from rewardjax.data.generations import read_rows
from rewardjax.errors import RewardJaxError
from rewardjax.export import load_reward_model
from rewardjax.train import nado, nado_settings, trainer
from rewardjax.train.nado_settings import NadoConfig
from rewardjax.train.runs import read
from rewardjax.train.sampled import warn_of_few

CONFIGS = Path(__file__).parents[2] / "configs"
VOWELS = "[aeiou]"


@pytest.fixture
def job(tmp_path, tiny_lm_dir, monkeypatch):
    """Runs the command in tmp_path; its status."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("".join(f"{word} film\n" for word in "abcdefghijkl"))

    def run(*flags, run_dir="run"):
        argv = ["train", "nado", "--lm", str(tiny_lm_dir), "--run-dir", run_dir]
        argv += ["--prompts.path", "prompts.txt", "--oracle.pattern", VOWELS]
        argv += ["--sampling.num-samples", 16, "--sampling.max-new-tokens", 4]
        argv += ["--sampling.batch-size", 192, "--sampling.top-k", 12, "--held-out", 0.25]
        argv += ["--optim.learning-rate", 0.02]
        argv += ["--optim.steps", 20, "--optim.batch-size", 16, "--eval.every", 10]
        return main([*map(str, argv), *map(str, flags)])

    return run


def weights_of(folder):
    return (Path(folder) / "reward_model" / "model.safetensors").read_bytes()


def satisfied(path):
    return np.mean([bool(re.search(VOWELS, row.text)) for row in read_rows(path)])


def log_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def learns(folder):
    losses = [row["train/loss"] for row in log_of(folder) if "train/loss" in row]
    return np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])


def check_weights(lm, run, rows):
    """Weights and candidates against the LM's own logits, row by row: p among the 12 best / q."""
    logs, lengths = np.zeros(len(rows)), [len(ids) for ids in run.tokens]
    padded = [np.pad(ids, (0, max(lengths) - len(ids))) for ids in run.tokens]
    everything = np.asarray(lm.logits(padded, lengths), np.float64)
    for i, row in enumerate(rows):
        start, ids = int(run.starts[i]), run.tokens[i]
        logits = everything[i, start - 1 : len(ids) - 1]
        best = np.argsort(-logits, axis=1)[:, :12]
        scores = np.take_along_axis(logits, best, 1)
        own = np.take_along_axis(logits, ids[start:, None], 1)[:, 0]
        logs[i] = np.sum(own - np.logaddexp.reduce(scores, axis=1)) - np.sum(row.logprobs)
        candidates = run.sampled.candidates.batch("candidates", np.array([i]), len(ids))[0, start:]
        np.testing.assert_array_equal(np.sort(candidates), np.sort(best))
    weights = np.exp(logs)
    weights /= weights[run.train_rows].mean()
    np.testing.assert_allclose(run.sampled.weights, weights, rtol=1e-3)
    assert np.std(np.log(weights)) > 0.1


def leaves_equal(one, other):
    return (
        all(np.array_equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
    )


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("rewardjax: error: ")
    assert error.count("\n") == 1
    return error


ONE = ("--sampling.temperature", 1.3)
TWO = (*ONE, "--rounds", 2)


def test_two_rounds_then_decoding(job, capsys, tiny_lm, tiny_lm_dir, monkeypatch):
    made, prepare = [], nado.prepare
    monkeypatch.setattr(nado, "prepare", lambda *args: made.append(prepare(*args)) or made[-1])
    assert job(*TWO) == 0
    for run, folder in zip(made, ("run/round-1", "run"), strict=True):
        check_weights(tiny_lm, run, read_rows(f"{folder}/completions.jsonl"))
    starts, heads = made[1].params.trainable["head"], load_reward_model("run/round-1/reward_model")
    assert leaves_equal(starts, heads.trainable["head"])
    out = capsys.readouterr().out
    assert "of the LM's own by their weights" in out
    assert "decode with --beta 1 and --top-k 12" in out
    model = load_reward_model("run/reward_model")
    assert (model.config.parametrization, model.link) == ("nado", "log_sigmoid")

    # Labels are the oracle's; round 2 was guided by round 1, whose samples were the LM's own.
    for folder, guided in (("run/round-1", False), ("run", True)):
        rows = read_rows(f"{folder}/completions.jsonl")
        scored = [json.loads(x) for x in Path(folder, "scored.jsonl").read_text().splitlines()]
        assert [row["reward"] for row in scored] == [
            float(bool(re.search(VOWELS, row.text))) for row in rows
        ]
        assert bool(rows[0].rewards[0]) is guided
        first, *_, last = log_of(folder)
        assert first["data/satisfied"] == pytest.approx(satisfied(f"{folder}/completions.jsonl"))
        assert 0 < first["data/effective_samples"] < 144
        for name in ("objective", "auc", "last_bce", "consistency", "calibration_error"):
            assert np.isfinite(last[f"eval/{name}"]), name
        # untrained, R is 1/2: ln 2 a token, and it fits together
        if not guided:
            assert first["eval/last_bce"] == pytest.approx(np.log(2), rel=1e-5)
            assert first["eval/consistency"] == pytest.approx(0, abs=1e-6)
            assert learns(folder)
    assert "train/consistency" in log_of("run")[-2]
    assert satisfied("run/completions.jsonl") > satisfied("run/round-1/completions.jsonl")
    state = read(Path("run"))
    assert (state.state, state.parametrization, state.metric) == (
        "finished",
        "nado",
        "eval/objective",
    )

    # The saved link is the default of decoding.
    argv = ["decode", "guided", "--lm", str(tiny_lm_dir), "--prompts", "prompts.txt"]
    argv += ["--num-samples", "16", "--max-new-tokens", "4", "--top-k", "12", "--batch-size", "192"]
    guide = ["--reward-model", "run/reward_model", "--beta"]
    assert main([*argv, *guide, "1", "--out", "up.jsonl"]) == 0
    assert main([*argv, "--out", "plain.jsonl"]) == 0
    assert satisfied("up.jsonl") > satisfied("plain.jsonl") + 0.1

    # A finished run may be gone on with: rounds before the last are not made again.
    before = weights_of("run")
    Path("run/round-1/completions.jsonl").unlink()
    assert job(*TWO, "--resume") == 0
    assert weights_of("run") == before
    assert not Path("run/round-1/completions.jsonl").exists()
    assert job(*TWO, "--resume", "--optim.steps", 21) == 2
    assert "optim.steps differ" in capsys.readouterr().err

    # Killed while it trained: the same in the end, bit for bit (in scoring: test_probe).
    step, left = trainer.Trainer._step, iter(range(12))

    def stopped(self, batch):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_step", stopped)
    assert job(*ONE, run_dir="killed") == 130
    monkeypatch.setattr(trainer.Trainer, "_step", step)
    assert job(*ONE, "--resume", run_dir="killed") == 0
    assert weights_of("killed") == weights_of("run/round-1")


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        (("nado_norm",), ("--sampling.top-k", 0)),
        (
            ("arm_rank", "--reward-model.rank", 2, "--objective.consistency-weight", 0),
            ("--reward-model.backbone", "own", "--reward-model.num-layers", 1),
        ),
    ],
    ids=["nado_norm", "arm_rank"],
)
def test_other_heads_and_the_whole_vocabulary(job, model, flags):
    assert job("--reward-model.parametrization", *model, *flags) == 0
    saved = load_reward_model("run/reward_model")
    assert saved.link == ("raw" if model[0] == "nado_norm" else "log_sigmoid")
    assert learns("run")
    first = log_of("run")[0]
    assert first["data/effective_samples"] == 144  # drawn from the LM itself: none is weighed
    assert first["data/satisfied"] == pytest.approx(first["data/satisfied_by_lm"], abs=0.2)


BAD = {
    "no oracle": (["--oracle.pattern", ""], "exactly one of scorer, words, pattern"),
    "two": (["--oracle.words", "a"], "got words and pattern"),
    "pattern": (["--oracle.pattern", "("], r"oracle.pattern '\(' is no regular expression"),
    "scorer": (["--oracle.pattern", "", "--oracle.scorer", "vadr"], "oracle.scorer: unknown"),
    "rounds": (["--rounds", "0"], "rounds is 0; expected at least 1"),
    "weight": (["--objective.consistency-weight", "-1"], "consistency_weight is -1.0; expected"),
    "nothing": (
        ["--objective.consistency-weight", "0", "--objective.prefixes", "last"],
        "no token but the last",
    ),
    "rad": (
        ["--reward-model.parametrization", "rad", "--reward-model.backbone", "own"],
        "'rad' runs on each candidate; NADO needs",
    ),
    "outputs": (["--reward-model.outputs", "2"], "outputs is 2; expected 1"),
    "rank": (["--reward-model.rank", "3"], "'nado' has no rank to set"),
    "greedy": (["--sampling.temperature", "0"], "every sample of a prompt is the same"),
    "candidates": (["--sampling.top-k", "129"], "top_k is 129; expected at most"),
    "long": (["--sampling.max-new-tokens", "300"], "exceeds the context of 256"),
    "held out": (["--held-out", "0.99"], "leave none to train on"),
    "hosts": (["--hosts.join", "--hosts.count", "2"], "runs in one process"),
    "batch": (["--compute.accumulate", "5"], "accumulate is 5; expected a divisor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(job, case, capsys, monkeypatch):
    arguments, expected = BAD[case]
    monkeypatch.setattr("rewardjax.lm.OpenedLM.load", None)  # weights are not read for this
    assert job(*arguments) == 2
    assert re.search(expected, one_line(capsys))
    assert not Path("run").exists()


def test_a_section_of_the_yaml_changes_what_it_names_alone():
    config = settings_file.from_dict(NadoConfig, {"reward_model": {"layer": 2}})
    assert (config.reward_model.parametrization, config.reward_model.layer) == ("nado", 2)


def test_an_oracle_that_teaches_nothing(job, capsys):
    """Known only once everything is sampled: the samples stay."""
    assert job("--oracle.pattern", "zzzz") == 2
    assert "no sample satisfies the oracle (rate 0 of 144 samples" in one_line(capsys)
    assert len(read_rows("run/completions.jsonl")) == 192


def test_few_effective_samples_are_said(capsys):
    warn_of_few(50.0, 100)
    assert capsys.readouterr().out == ""
    warn_of_few(9.0, 100)
    assert "100 weighted samples are worth 9" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("nado_*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_every_key_is_commented(path):
    config = settings_file.from_dict(NadoConfig, settings_file.load_yaml(path))
    with pytest.raises(RewardJaxError, match=r"prompts\.path is unset"):
        nado_settings.check(config)  # prompts come from the command line
    prompts = dataclasses.replace(config.prompts, path="prompts.jsonl")
    nado_settings.check(dataclasses.replace(config, prompts=prompts))
    for number, line in enumerate(path.read_text().splitlines(), 1):
        code, _, comment = line.partition("#")
        if ":" in code and code.split(":", 1)[1].strip():
            assert comment.strip(), f"{path}:{number} has no comment"
