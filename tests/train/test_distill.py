"""Whole distillation runs on a tiny LM, with small random teachers."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax import cli
from rewardjax.checkpoint import Checkpoints
from rewardjax.data.batches import make_batch
from rewardjax.data.examples import split
from rewardjax.data.settings import DataConfig, fill
from rewardjax.errors import RewardJaxError
from rewardjax.export import load_reward_model
from rewardjax.lm import init_params
from rewardjax.metrics import regression
from rewardjax.rewards import RewardModelConfig
from rewardjax.train import losses, targets
from rewardjax.train import run as run_module
from rewardjax.train.agreement import agreement
from rewardjax.train.distill import distill
from rewardjax.train.losses import Inputs, TeacherLoss
from rewardjax.train.settings import (
    CheckpointConfig,
    DistillConfig,
    DistillObjectiveConfig,
    EvalConfig,
    OptimConfig,
)
from rewardjax.train.teacher_evaluation import compare
from tests.trained import save_random

OBSERVED = DistillObjectiveConfig("observed")
TOP4 = DistillObjectiveConfig("candidates", 4)
DELTA4 = DistillObjectiveConfig("delta", 4)


@pytest.fixture
def teacher(tiny_lm, tmp_path):
    return save_random(tmp_path / "teacher", tiny_lm, RewardModelConfig(), scale=0.02)


@pytest.fixture
def settings(tmp_path, teacher):
    """Settings of a short distillation in a fresh directory, with changes."""

    def make(objective=OBSERVED, **changes):
        values = {
            "run_dir": str(tmp_path / "run"),
            "teacher": str(teacher),
            "optim": OptimConfig(batch_size=16, steps=20, learning_rate=3e-3),
            "objective": objective,
            "eval": EvalConfig(every=10),
        }
        return DistillConfig(**{**values, **changes})

    return make


def leaves_equal(a, b):
    same = jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b)
    return all(jax.tree.leaves(same))


@pytest.mark.parametrize("objective", [OBSERVED, TOP4, DELTA4], ids=lambda o: o.targets)
def test_an_arm_becomes_its_arm_teacher(objective, tiny_lm, settings, reviews):
    """Student and teacher are of one kind, so that nothing need be left of the error."""
    optim = OptimConfig(
        batch_size=32, steps=250, learning_rate=2e-2, weight_decay=0.0, schedule="cosine"
    )
    every = {"eval": EvalConfig(every=250, log_every=50)}
    result = distill(settings(objective, optim=optim, **every), lm=tiny_lm, texts=reviews[0])
    first = next(row for row in result.history if "eval/distillation_error" in row)
    assert result.metrics["eval/distillation_error"] < 0.01 * first["eval/distillation_error"]
    assert result.metrics["eval/distillation_r2"] > 0.98
    assert result.metrics["eval/distillation_pearson"] > 0.99
    assert "eval/squared_error" not in result.metrics
    if objective.width > 1:
        assert result.metrics["eval/delta_pearson"] > 0.99
        parts = result.metrics["eval/delta_error"] + result.metrics["eval/level_error"]
        assert parts == pytest.approx(result.metrics["eval/distillation_error"])
    model, _ = load_reward_model(result.run_dir / "reward_model").bind(tiny_lm)
    assert model.config == RewardModelConfig()


@pytest.mark.parametrize("kind", ["arm of its own", "rad"])
def test_students_with_a_backbone_learn_from_another_kind(kind, tiny_lm, settings, reviews):
    student = RewardModelConfig("rad" if kind == "rad" else "arm", "own", num_layers=1)
    config = settings(TOP4, reward_model=student)
    result = distill(config, lm=tiny_lm, texts=reviews[0])
    first = next(row for row in result.history if "eval/distillation_error" in row)
    assert result.metrics["eval/distillation_error"] < 0.7 * first["eval/distillation_error"]


def test_what_a_run_leaves_behind(tiny_lm, settings, reviews, tmp_path):
    config = settings(data=DataConfig(labels=("a",)))
    result = distill(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    assert rows == result.history
    assert rows[0]["model/trainable_parameters"] == 32 + 32 * 32
    assert rows[0]["data/target_seconds"] > 0
    assert [row["step"] for row in rows if "eval/distillation_error" in row] == [0, 10, 20]
    assert "eval/auc" in rows[0], "the labels were given, so they are evaluated"
    saved = load_reward_model(result.run_dir / "reward_model")
    assert saved.link == "clip"
    # Against the labels the raw rewards are evaluated as decoding sees them, sigmoid included.
    logits = save_random(tmp_path / "logits", tiny_lm, RewardModelConfig(), link="sigmoid")
    config = settings(teacher=str(logits), run_dir=str(tmp_path / "two"))
    other = distill(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    assert other.reward_model.link == "sigmoid"
    start = next(row for row in other.history if "eval/squared_error" in row)
    assert start["eval/squared_error"] == pytest.approx(0.25), "a zero head is a half for sure"


def inputs_of(tiny_lm, objective, outputs=2):
    rng = np.random.default_rng(0)
    width = objective.width
    return Inputs(
        jnp.asarray(rng.integers(0, 128, (3, 6)), jnp.int32),
        jnp.array([6, 3, 0]),
        jnp.zeros((3, outputs)),
        {3: jnp.asarray(rng.normal(size=(3, 6, 32)), jnp.float32)},
        jnp.asarray(rng.integers(0, 128, (3, 6, width)), jnp.int32),
        jnp.asarray(rng.normal(size=(3, 6, width, outputs)), jnp.float32),
    )


@pytest.fixture
def student(tiny_lm, tmp_path):
    config = RewardModelConfig(outputs=2)
    return load_reward_model(save_random(tmp_path / "student", tiny_lm, config)).bind(tiny_lm)


def slow_rewards(student, inputs, b, t):
    """r(v|x) of the candidates at one position, by the formula: [C, A] and their deltas."""
    head = jax.tree.map(np.float64, student[1].trainable["head"])
    e = np.float64(student[1].frozen["embedding"])
    h = np.float64(inputs.hidden[3][b, t - 1])
    baseline = head["baseline"] @ h

    def delta(v):
        return np.stack([e[v] @ w @ h for w in head["projection"]])

    return np.stack([baseline + delta(v) for v in np.asarray(inputs.candidates[b, t])]), delta


@pytest.mark.parametrize("objective", [TOP4, DELTA4], ids=lambda o: o.targets)
@pytest.mark.parametrize("count", [1, 3])
def test_loss_is_the_slow_formula(objective, count, tiny_lm, student):
    objective = dataclasses.replace(objective, prior_weight=0.7, num_random_tokens=count)
    inputs, first = inputs_of(tiny_lm, objective), 2
    keys = jax.random.split(jax.random.key(2), 3)
    got, prior = TeacherLoss(objective, first)(*student, inputs, keys)
    rows = [jax.random.randint(key, (count, 6), 0, 128, jnp.int32) for key in keys]
    drawn = np.stack(rows, axis=1)
    errors, penalties = [], []
    for b, length in enumerate([6, 3, 0]):
        for t in range(1, length):
            rewards, delta = slow_rewards(student, inputs, b, t)
            penalties.append(np.mean([delta(u) ** 2 for u in drawn[:, b, t]]))
            if t < first:  # the student scores it, the teacher does not
                continue
            error = rewards - np.float64(inputs.targets[b, t])
            level = error.mean(axis=0)
            weight = objective.level_weight if objective.targets == "delta" else 1.0
            errors.append(np.mean((error - level) ** 2 + weight * level**2))
    np.testing.assert_allclose(got, np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(prior, np.mean(penalties), rtol=1e-4)


def test_evaluation_is_over_positions_candidates_and_outputs(tiny_lm, student):
    inputs = inputs_of(tiny_lm, DELTA4)
    lengths = np.asarray(inputs.lengths)
    tokens = [np.asarray(row)[:n] for row, n in zip(inputs.tokens, lengths, strict=True)]
    batch = make_batch([0, 1], tokens, np.zeros((3, 0), np.float32), width=6, batch_size=3)
    np.testing.assert_array_equal(batch.lengths, lengths)
    found = compare(*student, DELTA4, [batch], lambda batch: inputs, 1)
    places = [(b, t) for b, length in enumerate([6, 3, 0]) for t in range(1, length)]
    s = np.stack([slow_rewards(student, inputs, b, t)[0] for b, t in places])
    q = np.stack([np.asarray(inputs.targets[b, t], np.float64) for b, t in places])
    level_s, level_q = (x.mean(axis=1, keepdims=True) for x in (s, q))
    deltas = [((s - level_s)[..., a].ravel(), (q - level_q)[..., a].ravel()) for a in range(2)]
    pairs = [(s[..., a].ravel(), q[..., a].ravel()) for a in range(2)]
    delta_error = np.mean(((s - level_s) - (q - level_q)) ** 2)
    level_error = np.mean((level_s - level_q) ** 2)
    want = {
        "eval/distillation_error": np.mean((s - q) ** 2),
        "eval/distillation_r2": np.mean([1 - np.mean((x - y) ** 2) / np.var(y) for x, y in pairs]),
        "eval/distillation_pearson": np.mean([regression.pearson(x, y) for x, y in pairs]),
        "eval/delta_error": delta_error,
        "eval/level_error": level_error,
        "eval/delta_pearson": np.mean([regression.pearson(x, y) for x, y in deltas]),
        "eval/objective": delta_error + 0.1 * level_error,
    }
    assert found == {name: pytest.approx(value, rel=1e-4) for name, value in want.items()}


def test_observed_targets_are_the_teachers_token_rewards(tiny_lm, settings, teacher, reviews):
    """What a step compares with, against the teacher run on the same batch."""
    config = settings(data=DataConfig(constant_label=0.0))
    config = dataclasses.replace(config, data=fill(config.data))
    run = run_module.prepare(config, tiny_lm, reviews[0], np.zeros(96))
    trainer_batches = run_module.batches.ordered_batches(
        run.train_rows[:8], run.tokens, run.examples.labels, batch_size=4
    )
    model, params = load_reward_model(teacher).bind(tiny_lm)
    for batch in trainer_batches:
        inputs = run.inputs(batch)
        np.testing.assert_array_equal(inputs.candidates[..., 0], batch.tokens)
        hidden = {layer: jnp.asarray(h) for layer, h in inputs.hidden.items()}
        tokens, lengths = jnp.asarray(batch.tokens), jnp.asarray(batch.lengths)
        want = np.asarray(model.token_rewards(params, tokens, lengths, hidden))
        for b, length in enumerate(batch.lengths):
            got = inputs.targets[b, 1:length, 0]
            np.testing.assert_allclose(got, want[b, 1:length], rtol=1e-5, atol=1e-6)


def test_resumed_is_uninterrupted_bit_for_bit(tiny_lm, settings, reviews, tmp_path, monkeypatch):
    objective = dataclasses.replace(TOP4, prior_weight=0.1, num_random_tokens=2)
    data = {"lm": tiny_lm, "texts": reviews[0]}
    whole = distill(settings(objective, run_dir=str(tmp_path / "whole")), **data)
    config = settings(objective, run_dir=str(tmp_path / "cut"))
    real, calls = run_module.Run.inputs, []

    def inputs(self, batch):  # of training and evaluation
        calls.append(1)
        if len(calls) == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch)

    monkeypatch.setattr(run_module.Run, "inputs", inputs)
    with pytest.raises(SystemExit):
        distill(config, **data)
    monkeypatch.setattr(run_module.Run, "inputs", real)
    with Checkpoints(
        tmp_path / "cut" / "checkpoints", metric="eval/distillation_error"
    ) as checkpoints:
        assert 10 < checkpoints.steps[-1] < 20
    cut = distill(dataclasses.replace(config, resume=True), **data)
    assert leaves_equal(cut.reward_model.trainable, whole.reward_model.trainable)
    assert cut.metrics == whole.metrics
    # The teacher is compared by content: elsewhere it is the same, another is refused.
    moved = tmp_path / "moved"
    os.rename(config.teacher, moved)
    again = dataclasses.replace(config, resume=True, teacher=str(moved))
    assert leaves_equal(distill(again, **data).reward_model.trainable, cut.reward_model.trainable)
    save_random(moved, tiny_lm, RewardModelConfig(), scale=0.03)
    with pytest.raises(RewardJaxError, match="its LM, texts or teacher are not those"):
        distill(again, **data)


def test_the_best_checkpoint_is_the_one_nearest_to_the_teacher(tiny_lm, settings, reviews):
    config = settings(
        DELTA4,
        optim=OptimConfig(batch_size=16, steps=30, learning_rate=0.1, schedule="constant"),
        eval=EvalConfig(every=2),
        checkpoint=CheckpointConfig(export="best"),
    )
    result = distill(config, lm=tiny_lm, texts=reviews[0])
    errors = {
        row["step"]: row["eval/objective"]
        for row in result.history
        if row["step"] and "eval/objective" in row
    }
    best = min(errors, key=errors.__getitem__)
    assert best != 30
    assert result.metrics["eval/objective"] == errors[best]


def test_the_second_seed_asks_the_teacher_nothing(
    tiny_lm, settings, reviews, tmp_path, monkeypatch
):
    distill(settings(TOP4, run_dir=str(tmp_path / "one")), lm=tiny_lm, texts=reviews[0])
    monkeypatch.setattr(targets, "_score", lambda *a, **k: pytest.fail("asked again"))
    student = RewardModelConfig(layer=1)
    config = settings(TOP4, run_dir=str(tmp_path / "two"), seed=5, reward_model=student)
    assert distill(config, lm=tiny_lm, texts=reviews[0]).step == 20


@pytest.fixture
def files(tmp_path, tiny_lm_dir, teacher, monkeypatch):
    """Texts without labels, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": f"the film was {'not ' * (i % 3)}good"}) for i in range(12)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return ["--lm", str(tiny_lm_dir), "--data.path", "texts.jsonl", "--teacher", "teacher"]


def test_a_run_from_the_command_line(files, capsys, tmp_path):
    argv = ["train", "distill", *files, "--run-dir", "run", "--optim.steps", "3"]
    more = ["--objective.targets", "delta", "--objective.num-candidates", "3"]
    assert cli.main([*argv, *more]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "The LM's candidates for " in out
    assert "The teacher's rewards for " in out
    assert "\n3 steps; held-out texts: distillation error " in out
    assert "delta pearson" in out
    assert (tmp_path / "run" / "reward_model" / "model.safetensors").is_file()
    assert cli.main([*argv, *more, "--resume"]) == 0


def test_help(capsys):
    assert cli.main(["train", "distill", "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for flag in ("--teacher", "--objective.targets", "--objective.level-weight", "--data.path"):
        assert flag in out
    assert "observed token" in out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--teacher", ""], "teacher is empty; expected the folder of a trained reward model"),
        (["--teacher", "gone"], "gone is not a reward model directory"),
        (["--reward-model.outputs", "2"], "outputs is 2 and the teacher 'teacher' has 1"),
        (["--objective.num-candidates", "0"], "num_candidates is 0; expected at least 1"),
        (
            ["--objective.targets", "candidates", "--objective.num-candidates", "128"],
            "num_candidates is 128; expected at most 127, for the vocabulary has 128 tokens",
        ),
        (["--objective.targets", "candidate"], "invalid choice 'candidate'"),
        (["--data.labels", "label"], "column 'label' is missing"),
    ],
)
def test_bad_input_stops_before_weights_load(flags, expected, files, capsys, monkeypatch):
    monkeypatch.setattr(
        "rewardjax.lm.load.load_hf_params", lambda *a, **k: pytest.fail("weights were loaded")
    )
    assert cli.main(["train", "distill", *files, "--run-dir", "run", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert not os.path.exists("run")


def test_texts_alone_need_no_label_map(tiny_lm, settings, reviews):
    """The teacher's own data section serves the student, its words for labels included."""
    data = DataConfig(label_map=("Toxic=1", "Not Toxic=0"))
    config = settings(data=data, optim=OptimConfig(batch_size=16, steps=1))
    result = distill(config, lm=tiny_lm, texts=reviews[0])
    assert "eval/distillation_error" in result.metrics
    assert "eval/squared_error" not in result.metrics


def test_a_teacher_of_another_lm(tiny_lm, settings, reviews, tmp_path):
    params = init_params(tiny_lm.config, jax.random.key(9))
    other = dataclasses.replace(tiny_lm, params=params, source="other")
    stranger = save_random(tmp_path / "stranger", other, RewardModelConfig())
    with pytest.raises(RewardJaxError, match="belongs to the LM 'other' with fingerprint"):
        distill(settings(teacher=str(stranger)), lm=tiny_lm, texts=reviews[0])
    with pytest.raises(RewardJaxError, match="labels without texts"):
        distill(settings(), lm=tiny_lm, labels=reviews[1])


def test_agreement_of_any_two_models_on_the_same_candidates(
    tiny_lm, settings, teacher, reviews, tmp_path
):
    config = settings(TOP4, data=DataConfig(held_out=0.5))
    result = distill(config, lm=tiny_lm, texts=reviews[0])
    held_out = [reviews[0][i] for i in split(reviews[0], 0.5, 0)[1]]
    trained = load_reward_model(teacher)
    found = agreement(tiny_lm, result.reward_model, trained, held_out, TOP4)
    assert found == {name: pytest.approx(result.metrics[name], rel=1e-4) for name in found}
    assert "eval/delta_pearson" in found
    own = agreement(tiny_lm, trained, trained, held_out)
    assert own["eval/distillation_error"] < 1e-10
    two = save_random(tmp_path / "two", tiny_lm, RewardModelConfig(outputs=2))
    with pytest.raises(RewardJaxError, match="the student has 2 outputs and the teacher 1"):
        agreement(tiny_lm, load_reward_model(two), trained, held_out)


def test_losses_are_static_arguments():
    """Equal settings compile once."""
    assert TeacherLoss(TOP4, 1) == TeacherLoss(DistillObjectiveConfig("candidates", 4), 1)
    assert hash(TeacherLoss(TOP4, 1)) == hash(TeacherLoss(TOP4, 1))
    assert isinstance(TeacherLoss(TOP4, 1), losses.Loss)
