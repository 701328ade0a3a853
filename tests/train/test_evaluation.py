import json

import numpy as np
import pytest

from rewardjax.metrics import regression
from rewardjax.train.evaluation import evaluate
from rewardjax.train.logs import MetricsLog


def predictions(outputs=1):
    rng = np.random.default_rng(0)
    made = []
    for i, length in enumerate([2, 3, 5, 9, 9, 4]):
        rewards = rng.random((length, outputs)).astype(np.float32)
        rewards[0] = np.nan
        made.append((i, rewards, rng.integers(0, 2, outputs).astype(np.float32)))
    made[0][2][:], made[1][2][:] = 0, 1
    return made


def test_last_token_and_curve():
    made = predictions()
    result = evaluate(made, ("label",))
    last = np.array([rewards[-1, 0] for _, rewards, _ in made])
    labels = np.array([label[0] for _, _, label in made])
    assert result["eval/squared_error"] == pytest.approx(np.mean((last - labels) ** 2))
    assert result["eval/pearson"] == pytest.approx(regression.pearson(last, labels))
    assert result["eval/spearman"] == pytest.approx(regression.spearman(last, labels))
    assert result["eval/auc"] == pytest.approx(regression.auc(last, labels))
    curve = result["eval/curve"]
    assert curve["prefix"] == [2, 4, 8]  # the first token of a text has no score
    assert curve["texts"] == [6, 4, 2]
    fourth = [(rewards[3, 0] - label[0]) ** 2 for _, rewards, label in made if len(rewards) >= 4]
    assert curve["squared_error"][1] == pytest.approx(np.mean(fourth))


def test_several_outputs_are_also_shown_one_by_one():
    result = evaluate(predictions(2), ("toxic", "rude"))
    for metric in ("squared_error", "pearson", "auc"):
        each = [result[f"eval/{metric}/{name}"] for name in ("toxic", "rude")]
        assert result[f"eval/{metric}"] == pytest.approx(np.mean(each))


def test_no_auc_for_ratings():
    made = [(i, rewards, np.float32([0.3 * i / 6])) for i, rewards, _ in predictions()]
    assert "eval/auc" not in evaluate(made, ("label",))


def test_log_forgets_rows_after_the_checkpoint_and_a_cut_last_row(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(1, 5):
        log.write(step, {"train/loss": float("nan") if step == 2 else 1.0 / step})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "tra')
    log = MetricsLog(tmp_path, after=3)
    log.write(4, {"train/loss": 7.0})
    log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[1]["train/loss"] is None
    assert rows[3]["train/loss"] == 7.0
    assert log.rows == rows
