"""Programs that try things, inside the sandbox and outside."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rewardjax.sandbox import Limits, run_python

LINUX = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="untrusted code runs on Linux, x86_64 and aarch64, only",
)
SHORT = Limits(seconds=1.0, cpu_seconds=1)
X86 = platform.machine() == "x86_64"

# Every line of `attempts` is tried and printed with the number of its error, or 0.
TRY = """
import json, os, socket
done = {}
for line in attempts:
    try:
        exec(line)
        done[line] = 0
    except OSError as error:
        done[line] = error.errno
print(json.dumps(done))
"""


def lines(attempts):
    return [line.strip() for line in attempts.strip().splitlines()]


def trial(attempts, **given):
    values = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    return f"attempts = {lines(attempts)}\n{values}{TRY}"


def inside(code, **how):
    outcome = run_python(code, **how)
    assert outcome.status == "ok", outcome
    return json.loads(outcome.stdout)


def outside(code):
    """The control: the same program in a Python that nothing contains."""
    return json.loads(subprocess.check_output([sys.executable, "-c", code], timeout=30))


def tree(folder):
    """Everything about a folder that a program could have changed."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        about = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path)] = (about.st_mode, about.st_uid, about.st_mtime_ns, content)
    return found


def living(session):
    """Processes of a session: what a program left behind would still be in its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session:
            found.append(stat.parent.name)
    return found
