"""Untrusted programs: what ordinary ones print, how they end, and where none are run."""

import concurrent.futures
import platform
import subprocess
import sys
import time

import pytest

from rewardjax import sandbox
from rewardjax.errors import RewardJaxError
from rewardjax.sandbox import Limits, reads_contained, run_python
from tests.sandboxed import LINUX, SHORT

pytestmark = LINUX


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("import math, re, string, bisect, copy, array\nprint(math.gcd(12, 18))", "6\n"),
        ("from collections import Counter, deque\nprint(Counter('aab')['a'])", "2\n"),
        ("import itertools, functools, operator\nprint(sum(itertools.chain([1], [2])))", "3\n"),
        ("import heapq\nh = [3, 1, 2]\nheapq.heapify(h)\nprint(heapq.heappop(h))", "1\n"),
        ("import json\nprint(json.dumps({'a': [1]}))", '{"a": [1]}\n'),
        ("import datetime\nprint(datetime.date(2024, 2, 28).isoweekday())", "3\n"),
        ("import random\nrandom.seed(0)\nprint(0 <= random.random() < 1)", "True\n"),
        ("import decimal, fractions, statistics\nprint(statistics.mean([1, 3]))", "2\n"),
        ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nprint(f(500) > 0)", "True\n"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\nprint(P())",
            "P(x=1)\n",
        ),
        ("if __name__ == '__main__':\n    print('ünïcode')", "ünïcode\n"),
        ("import time\ntime.sleep(0.01)\nprint(time.time() > 0)", "True\n"),
        ("print(open('/dev/null').read() == '')\r\nprint(1)", "True\n1\n"),
        ("try:\n    bytearray(10**12)\nexcept MemoryError:\n    print('caught')", "caught\n"),
        ("import sys, os\nprint(sys.argv, list(os.environ), end='')", "[''] ['PYTHONHASHSEED'"),
    ],
)
def test_ordinary_programs(code, printed):
    outcome = run_python(code)
    assert (outcome.status, outcome.stderr) == ("ok", "")
    assert outcome.stdout.startswith(printed)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("assert 1 + 1 == 3, 'sum'", "error", "AssertionError: sum"),
        ("def f(:", "error", "SyntaxError"),
        ("'\0'", "error", "null bytes"),
        ("'\ud800'", "error", "surrogates"),
        ("def f(): f()\nf()", "error", "RecursionError"),
        ("input()", "error", "EOFError"),
        ("import numpy", "error", "ModuleNotFoundError"),
        # Leaving before the end is no way to pass the tests that stand there.
        ("import sys\nsys.exit(0)\nassert False", "error", "SystemExit"),
        ("import os\nos._exit(0)", "error", ""),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("x = bytearray(1 << 30)", "memory", ""),
        ("x = []\nwhile True:\n    x.append(bytes(1 << 20))", "memory", ""),
        ("while True:\n    print('x' * 1000)", "output", ""),
        ("import os\nwhile True:\n    os.write(2, b'x' * 1000)", "output", "xxx"),
        ("import ctypes\nctypes.string_at(0)", "killed", ""),
        ("import os\nos.closerange(1, 65536)\nwhile True: pass", "killed", ""),
    ],
)
def test_endings(code, status, said):
    outcome = run_python(code)
    assert outcome.status == status
    assert said in outcome.stderr
    assert len(outcome.stdout) <= Limits().output_bytes
    assert len(outcome.stderr) <= 2000
    assert "sandbox_child" not in outcome.stderr


IGNORE = "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, lambda *a: None)\n"
IGNORE += "    except (OSError, ValueError): pass\n"


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        ("while True: pass", Limits(seconds=30, cpu_seconds=1)),  # processor time ends it
        ("while True: pass", Limits(seconds=0.3, cpu_seconds=60)),  # the clock does
        (IGNORE + "while True: pass", SHORT),
        ("import time\ntime.sleep(60)", Limits(seconds=0.3)),
        ("9**9**9", SHORT),  # one step of the interpreter
    ],
)
def test_endless(code, limits):
    start = time.monotonic()
    assert run_python(code, limits=limits).status == "timeout"
    assert time.monotonic() - start < 15


def test_several_at_a_time():
    codes = [f"print({i})" if i % 2 else f"assert {i} < 0" for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outcomes = [*pool.map(run_python, codes)]
    assert [o.status for o in outcomes] == ["error", "ok"] * 6
    assert [o.stdout for o in outcomes] == [f"{i}\n" if i % 2 else "" for i in range(12)]


def test_order_of_sets_is_the_same_every_time():
    outcomes = {run_python("print({'a', 'b', 'c', 'd', 'e'}, hash('x'))") for _ in range(4)}
    assert len(outcomes) == 1


@pytest.mark.parametrize(
    ("platform_name", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64")]
)
def test_other_systems(monkeypatch, platform_name, machine):
    monkeypatch.setattr(sys, "platform", platform_name)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("ran it"))
    sandbox._filter.cache_clear()
    with pytest.raises(RewardJaxError, match=r"untrusted code cannot be contained on .*; expected"):
        run_python("print(1)")


def test_not_run_where_the_filter_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "_filter", lambda: bytes(8))  # no valid program
    with pytest.raises(RewardJaxError, match=r"was not run \(\[Errno 22\] prctl: Invalid argument"):
        run_python(f"open({str(tmp_path / 'new')!r}, 'w')")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not reads_contained(), reason="this kernel has no Landlock")
def test_not_run_where_imports_would_fail(monkeypatch):
    monkeypatch.setattr(sandbox, "_readable", lambda: ("/dev/null",))
    with pytest.raises(RewardJaxError, match=r"was not run \(\[Errno 13\] Permission denied"):
        run_python("print(1)")


@pytest.mark.parametrize("name", ["seconds", "cpu_seconds", "memory_bytes", "output_bytes"])
def test_limits_are_checked(name):
    with pytest.raises(RewardJaxError, match=f"sandbox limit {name} is 0; expected"):
        Limits(**{name: 0})
