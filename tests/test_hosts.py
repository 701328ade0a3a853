"""Two real processes that run one job together: the same result as one process."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardjax import cli
from rewardjax.errors import RewardJaxError
from rewardjax.hosts import HostsConfig, join
from rewardjax.rewards import RewardModelConfig
from tests.conftest import runner, send
from tests.trained import save_random


@pytest.fixture(scope="module")
def two(tiny_lm_dir):
    """Two processes of two CPU devices each, that take jobs."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    with runner(tiny_lm_dir, XLA_FLAGS=flags) as one, runner(tiny_lm_dir, XLA_FLAGS=flags) as other:
        yield one, other


@pytest.fixture
def together(two, tmp_path):
    """Starts a command in both, as one job; a function that waits for how each ended and what it
    said."""

    def start(argv):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        env = {"REWARDJAX_CACHE": str(tmp_path / "cache")}
        for index, process in enumerate(two):
            joined = ["--hosts.join", "--hosts.count", "2", "--hosts.index", str(index)]
            joined += ["--hosts.coordinator", f"127.0.0.1:{port}"]
            files = {name: str(tmp_path / f"{name}-{index}") for name in ("stdout", "pid")}
            send(process, [*argv, *joined], env=env, **files)

        def wait():
            statuses = [int(process.stdout.readline()) for process in two]
            texts = [(tmp_path / f"stdout-{index}").read_text() for index in (0, 1)]
            for path in [*tmp_path.glob("stdout-*"), *tmp_path.glob("pid-*")]:
                path.unlink()
            return statuses, [
                "\n".join(x for x in text.splitlines() if not x.startswith("[Gloo]"))
                for text in texts
            ]

        return wait

    return start


def until(condition):
    """Waits for two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def training(tmp_path, reviews, tiny_lm_dir, monkeypatch):
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache-alone"))
    rows = "".join(f"{t}\t{y}\n" for t, y in zip(*reviews, strict=True))
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + rows)
    argv = ["train", "reward-model", "--lm", str(tiny_lm_dir)]
    argv += ["--data.path", str(tmp_path / "train.tsv"), "--optim.steps", "6"]
    argv += ["--objective.prior-weight", "0.5", "--optim.batch-size", "16"]
    argv += ["--checkpoint.every", "3", "--eval.every", "3", "--optim.eps", "1e-6"]
    return lambda name, *more: [*argv, "--run-dir", str(tmp_path / name), *more]


def left(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    numbers = ("train/loss", "l2_grads", "eval/squared_error")
    found = [[row[name] for name in numbers if name in row] for row in rows]
    return load_file(run / "reward_model" / "model.safetensors"), found


def assert_same(got, want):
    assert [len(row) for row in got[1]] == [len(row) for row in want[1]]
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    assert got[0].keys() == want[0].keys()
    for name, value in want[0].items():
        np.testing.assert_allclose(got[0][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


SPLIT = ["--mesh.fsdp", "2", "--mesh.tensor", "2"]


def test_sigterm_to_one_process_stops_both_at_one_step(training, together, tmp_path):
    """Both go on from the checkpoint that they wrote, as if nothing had been.

    The first writes the hidden states that both compute, and alone speaks.
    """
    more = [*SPLIT, "--optim.steps", "60", "--checkpoint.every", "100", "--eval.every", "100"]
    argv = training("both", *more)
    wait, log = together(argv), tmp_path / "both" / "metrics.jsonl"
    until(lambda: log.is_file() and log.read_text().count("\n") > 10)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGTERM)
    assert wait()[0] == [143, 143]
    stopped = max(json.loads(line)["step"] for line in log.open())
    assert 10 < stopped < 60
    assert (tmp_path / "both" / "checkpoints" / str(stopped)).is_dir()
    statuses, said = together([*argv, "--resume"])()
    assert statuses == [0, 0]
    assert "60 steps" in said[0]
    assert "steps" not in said[1]
    assert cli.main(training("alone", *more)) == 0
    assert_same(left(tmp_path / "both"), left(tmp_path / "alone"))


PROMPTS = ["the film", "I", "a bad film, it is", "great", "it was not a good film, it was"]


@pytest.fixture
def decoding(tmp_path, tiny_lm, tiny_lm_dir):
    head = save_random(tmp_path / "head", tiny_lm, RewardModelConfig())
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS * 3)
    (tmp_path / "p.jsonl").write_text(rows)
    argv = ["decode", "guided", "--lm", str(tiny_lm_dir), "--prompts", str(tmp_path / "p.jsonl")]
    argv += ["--reward-model", str(head), "--beta", "5", "--max-new-tokens", "6"]
    argv += ["--num-samples", "2", "--batch-size", "4"]
    return lambda name, *more: [*argv, "--out", str(tmp_path / name), *more]


def rows_of(path):
    rows = [json.loads(line) for line in path.open()]
    numbers = ("logprobs", "base_logprobs", "kl", "rewards")
    return [{k: v for k, v in row.items() if k not in numbers} for row in rows], [
        [row[name] for name in numbers] for row in rows
    ]


def assert_same_rows(got, want):
    assert rows_of(got)[0] == rows_of(want)[0]
    for a, b in zip(rows_of(got)[1], rows_of(want)[1], strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_a_killed_decoding_goes_on(decoding, together, tmp_path):
    """What both have written stays; each goes on with its share, on a mesh of its own devices.

    Merged, the rows are those of one process, and nothing else is left.
    """
    assert cli.main(decoding("alone.jsonl")) == 0
    before = {path.name for path in tmp_path.iterdir()} | {"both.jsonl"}
    wait = together(decoding("both.jsonl"))
    partial = "both.jsonl.*-1-of-2.partial"
    until(lambda: sum(path.stat().st_size for path in tmp_path.glob(partial)))
    for index in (0, 1):
        os.kill(int((tmp_path / f"pid-{index}").read_text()), signal.SIGKILL)
    assert wait()[0] == [-signal.SIGKILL] * 2
    resumed = decoding("both.jsonl", "--resume", "--mesh.data", "2")
    assert together(resumed)()[0] == [0, 0]
    assert_same_rows(tmp_path / "both.jsonl", tmp_path / "alone.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (HostsConfig(count=2), "hosts.join is false; set it"),
        (HostsConfig(join=True), "did not find each other: .*; set hosts.coordinator to host:port"),
        (HostsConfig(True, "nowhere", 2, 5), "did not find each other"),
    ],
)
def test_processes_that_cannot_find_each_other(config, expected):
    with pytest.raises(RewardJaxError, match=expected):
        join(config)


@pytest.mark.parametrize("name", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_environment_that_makes_no_sense(name, monkeypatch):
    monkeypatch.setenv(name, "two")
    with pytest.raises(RewardJaxError, match=f"{name} is 'two'; expected a number"):
        join(HostsConfig(join=True))
