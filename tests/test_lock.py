"""The lock of a folder: one process at a time, and free when that process is gone."""

import signal
import subprocess
import sys

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.lock import held, hold

PROGRAM = """
import sys, time
from pathlib import Path
from rewardjax.lock import hold
with hold(Path(sys.argv[1]), "run_dir"):
    print("in", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_kept_out_until_the_first_dies(tmp_path):
    folder = tmp_path / "run"
    assert not held(folder)
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        assert held(folder)
        with (
            pytest.raises(RewardJaxError, match=r"run_dir '.*run' is in use by another process"),
            hold(folder, "run_dir"),
        ):
            pass
        other.send_signal(signal.SIGKILL)
    assert not held(folder)
    with hold(folder, "run_dir"):
        pass
