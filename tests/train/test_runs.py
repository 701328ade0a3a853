"""`rewardjax runs`: what the folders of runs say."""

import json

import pytest

from rewardjax.cli import main
from rewardjax.errors import RewardJaxError
from rewardjax.lock import hold
from rewardjax.train.reward_model import train
from rewardjax.train.runs import find, read


@pytest.fixture
def finished(settings, tiny_lm, reviews):
    return train(settings(), lm=tiny_lm, texts=reviews[0], labels=reviews[1])


def test_a_finished_run(finished, tmp_path, capsys):
    run = read(finished.run_dir)
    assert (run.state, run.parametrization, run.backbone) == ("finished", "arm", "base")
    assert run.step == 30
    scores = {
        row["step"]: row["eval/squared_error"]
        for row in finished.history
        if "eval/squared_error" in row
    }
    assert run.best == min(scores.values()) == scores[run.best_step]
    assert run.seconds == pytest.approx(finished.seconds)
    assert main(["runs", str(tmp_path)]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["best"] == run.best


def test_running_and_stopped(finished, tmp_path):
    (finished.run_dir / "reward_model" / "config.json").unlink()
    with (finished.run_dir / "metrics.jsonl").open("a") as log:
        log.write('{"step": 31, "train/lo')  # cut short by a kill
    assert read(finished.run_dir).state == "stopped"
    with hold(finished.run_dir, "run_dir"):
        assert [run.state for run in find(tmp_path)] == ["running"]
    assert read(finished.run_dir).step == 30


def test_a_run_directory_in_use_is_refused(settings, tiny_lm, reviews, tmp_path):
    config = settings()
    with (
        hold(tmp_path / "run", "run_dir"),
        pytest.raises(RewardJaxError, match="in use by another process"),
    ):
        train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])  # its lock file is no run


def test_no_runs_and_no_folder(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "no training runs" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "missing")]) == 2
    assert "is no folder" in capsys.readouterr().err
