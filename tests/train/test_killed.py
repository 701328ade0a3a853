"""`rewardjax train reward-model` killed, asked to stop, or out of disk: nothing is lost or changed.

Whatever happens on the way, the run that is continued ends as the uninterrupted one does, bit for
bit: the reward model, and the metrics but for their times.
"""

import json
import os
import random
import signal

import pytest

from tests.soak import proved, times

STEPS, EVERY = 24, 4
KILLS = times(3, 50)
TIMES = ("tokens_per_second", "train/seconds")


@pytest.fixture(scope="module")
def argv(tmp_path_factory, reviews, tiny_lm_dir):
    """Of a short run."""
    path = tmp_path_factory.mktemp("killed") / "train.tsv"
    rows = "".join(f"{t}\t{y}\n" for t, y in zip(*reviews, strict=True))
    path.write_text("text\tlabel\n" + rows)
    argv = ["train", "reward-model", "--lm", str(tiny_lm_dir), "--resume"]
    argv += ["--data.path", str(path), "--optim.steps", str(STEPS)]
    argv += ["--reward-model.backbone", "own", "--reward-model.num-layers", "1"]
    argv += ["--objective.prior-weight", "0.5", "--optim.batch-size", "16"]
    return [*argv, "--checkpoint.every", str(EVERY), "--eval.every", str(2 * EVERY)]


@pytest.fixture
def job(argv, tmp_path):
    """The arguments of that run in a folder of a name."""
    return lambda name: [*argv, "--run-dir", str(tmp_path / name)]


@pytest.fixture(scope="module")
def whole(forked, argv, tmp_path_factory):
    """What the uninterrupted run leaves."""
    run = tmp_path_factory.mktemp("whole")
    assert forked([*argv, "--run-dir", str(run)]) == 0
    return left(run)


def left(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    return (run / "reward_model" / "model.safetensors").read_bytes(), rows


def test_killed_at_any_moment_and_within_saves(forked, job, whole, tmp_path, record_property):
    """At a row of the metrics, or up to 50 ms into a save, ever further on or not at all."""
    draw, killed = random.Random(0), 0
    while killed < KILLS:
        for path in (tmp_path / "cut").glob("*"):  # a full count takes several runs
            if path.name == "reward_model":
                (tmp_path / "cut").rename(tmp_path / f"cut-{killed}")
                assert left(tmp_path / f"cut-{killed}") == whole
                break
        moment = {"row": draw.randint(1, 9)} if killed % 2 else None
        moment = moment or {"save": [draw.randint(1, 2), draw.uniform(0, 0.05)]}
        status = forked(job("cut"), **moment)
        assert status in (0, -signal.SIGKILL), moment
        killed += status != 0
    assert forked(job("cut")) == 0
    assert left(tmp_path / "cut") == whole
    proved(
        record_property, "training killed with SIGKILL and resumed: the same, bit for bit", killed
    )


def test_asked_to_stop_once_or_twice(forked, job, whole, tmp_path, record_property):
    """The first SIGTERM saves where the run stands; a second one ends it at once."""
    stops = times(3, 50)
    draw, once, twice = random.Random(0), [[signal.SIGTERM, 0]], [[signal.SIGTERM, 0.002]] * 2
    for i in range(stops):
        run = tmp_path / f"cut-{i // 3}"  # three times in a run, ever further on
        signals = twice if i % 2 else once
        status = forked(job(run.name), row=draw.randint(2, 4), signals=signals)
        assert status == 143 or (signals is twice and status == -signal.SIGTERM)
        if i % 3 == 2 or i == stops - 1:
            assert forked(job(run.name)) == 0
            assert left(run) == whole
    promise = "training stopped with SIGTERM, once or twice, and resumed: the same, bit for bit"
    proved(record_property, promise, stops)


def only_line(path):
    (line,) = path.read_text().splitlines()
    assert line.startswith("rewardjax: error: ")
    return line


def test_a_disk_that_takes_nothing_keeps_the_last_checkpoint(forked, job, whole, tmp_path):
    """Full: a limit on the size of files takes the disk's place, half of a checkpoint's fits.
    Read-only: the folder of the checkpoints, then the run's as well."""
    errors, checkpoints = tmp_path / "errors", tmp_path / "cut" / "checkpoints"

    def kept():
        return {path.name for path in checkpoints.iterdir() if path.name.isdecimal()}

    assert forked(job("cut"), row=STEPS // 2) == -signal.SIGKILL
    before = kept()
    assert before
    largest = max(path.stat().st_size for path in checkpoints.rglob("*"))
    assert forked(job("cut"), file_size=largest // 2, stderr=str(errors)) == 2
    assert "cannot write checkpoints to" in only_line(errors)
    assert kept() == before
    for folder in (checkpoints, tmp_path / "cut"):
        os.chmod(folder, 0o555)
        assert forked(job("cut"), unprivileged=True, stderr=str(errors)) == 2
        assert "ermission denied" in only_line(errors)
        os.chmod(folder, 0o755)
        assert kept() == before
    assert forked(job("cut")) == 0
    assert left(tmp_path / "cut") == whole
