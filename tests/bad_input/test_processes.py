"""Bad input to real processes: exit 2, one line, also on a terminal."""

import dataclasses
import os
import pty
import subprocess
import sys

import jax
import pytest

from rewardjax.lm import init_params
from rewardjax.rewards import RewardModelConfig
from tests.bad_input.commands import STEER, TEXT, command
from tests.bad_input.files import HUGE, gguf
from tests.trained import save_random


@pytest.fixture(scope="module")
def processes(tiny_lm, tiny_lm_dir, tmp_path_factory):
    """Real processes, all started at once: name → Popen (its standard error may be a terminal)."""
    here = tmp_path_factory.mktemp("processes")
    params = init_params(tiny_lm.config, jax.random.key(9))
    save_random(here / "rm", dataclasses.replace(tiny_lm, params=params), RewardModelConfig())
    (here / "long.jsonl").write_text(TEXT * 9 + TEXT.replace("film", "x" * 300))
    (here / "m.gguf").write_bytes(gguf(tensors=HUGE))
    environment = os.environ | {"XLA_FLAGS": ""}
    started, screen = {}, pty.openpty()
    for name, words, arguments in (
        ("long text", "train", ["--data.path", "long.jsonl"]),
        ("terminal", "guided", [*STEER, "rm"]),
    ):
        started[name] = subprocess.Popen(
            [sys.executable, "-m", "rewardjax.cli", *command(words, arguments, tiny_lm_dir)],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=screen[1] if name == "terminal" else subprocess.PIPE,
        )
    os.close(screen[1])
    yield started, screen[0]
    os.close(screen[0])
    for process in started.values():
        process.kill()
        process.wait()


def test_a_process_prints_one_line(processes):
    process = processes[0]["long text"]
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, b"")
    assert err.count(b"\n") == 1
    assert err.startswith(b"rewardjax: error: ")
    assert b"long.jsonl:10: text of" in err


def test_a_terminal_shows_one_line(processes):
    started, screen = processes
    out, _ = started["terminal"].communicate(timeout=120)
    assert (started["terminal"].returncode, out) == (2, b"")
    shown = os.read(screen, 1 << 16).decode()
    assert shown.count("\n") == 1
    assert shown.startswith("rewardjax: error: this reward model belongs to the LM 'tiny' with")
