"""Two real processes that run one job together: the same result as one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardjax import cli
from rewardjax.errors import RewardJaxError
from rewardjax.hosts import HostsConfig, join
from rewardjax.rewards import RewardModelConfig
from tests.trained import save_random


def start(argv, devices, tmp_path, index=None, port=None, **env):
    """A process of the command line with so many CPU devices; of two, where it has an index."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "REWARDJAX_CACHE": str(tmp_path / "cache"), **env}
    if index is not None:
        argv = [*argv, "--hosts.join", "--hosts.count", "2", "--hosts.index", str(index)]
        argv += ["--hosts.coordinator", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "rewardjax.cli", *argv]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, **streams)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def together(argv, tmp_path, devices=2):
    port = free_port()
    return [start(argv, devices, tmp_path, index, port) for index in (0, 1)]


def finish(processes):
    found = [process.communicate(timeout=90) for process in processes]
    for process, (out, err) in zip(processes, found, strict=True):
        assert process.returncode == 0, out + err
    lines = [out.splitlines() for out, _ in found]
    return ["\n".join(x for x in said if not x.startswith("[Gloo]")) for said in lines]


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


def test_sigterm_to_one_process_stops_both_at_one_step(training, tmp_path):
    """Both go on from the checkpoint that they wrote, as if nothing had been.

    The first writes the hidden states that both compute, and alone speaks.
    """
    more = [*SPLIT, "--optim.steps", "60", "--checkpoint.every", "100", "--eval.every", "100"]
    argv = training("both", *more)
    processes = together(argv, tmp_path)
    log, deadline = tmp_path / "both" / "metrics.jsonl", time.monotonic() + 60
    while not (log.is_file() and log.read_text().count("\n") > 10):
        assert processes[0].poll() is None, processes[0].communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
    stopped = max(json.loads(line)["step"] for line in log.open())
    assert 10 < stopped < 60
    assert (tmp_path / "both" / "checkpoints" / str(stopped)).is_dir()
    said = finish(together([*argv, "--resume"], tmp_path))
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


def test_a_killed_decoding_goes_on(decoding, tmp_path):
    """What both have written stays; each goes on with its share, on a mesh of its own devices.

    Merged, the rows are those of one process, and nothing else is left.
    """
    assert cli.main(decoding("alone.jsonl")) == 0
    before = {path.name for path in tmp_path.iterdir()} | {"both.jsonl"}
    processes = together(decoding("both.jsonl"), tmp_path)
    deadline = time.monotonic() + 60
    while not sum(p.stat().st_size for p in tmp_path.glob("both.jsonl.*-1-of-2.partial")):
        assert time.monotonic() < deadline
        assert processes[1].poll() is None, processes[1].communicate()
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.communicate()
    finish(together(decoding("both.jsonl", "--resume", "--mesh.data", "2"), tmp_path))
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
