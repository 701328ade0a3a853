"""The promise that every reader of files keeps, whatever is in the file."""

import contextlib
import faulthandler
import resource
import signal
import sys
import time
import tracemalloc
from pathlib import Path

import jaxtyping

from rewardjax.errors import RewardJaxError

SECONDS = 5
SPARE = 24 << 20
"""Bytes that a reader may take whatever the file's size: its own tables, a library's buffers."""
TIMES = 64
"""Bytes of Python objects for each byte of a file: strings of one letter have as many."""
LONGEST = 800
"""Characters of a message, a temporary path in it twice: nobody reads a file in an error."""


class Hang(BaseException):
    """Not an Exception: no reader may take it for an error of the file."""


def _hang(*_):
    raise Hang(f"still reading after {SECONDS} s")


def _resident():
    """The most memory that this process ever held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def _bounded():
    """No more than `SECONDS` pass, nor more than 2 GiB are asked for, whatever is read.

    Where the time goes by in C, no signal comes through: the process ends then.
    """
    handler = signal.signal(signal.SIGALRM, _hang)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError):  # only Linux has it, and says how much there is
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (2 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)


def check(read, path, *, names=None):
    """Call `read()` and hold it to the promise about the file `path`; the error, or None.

    It returns, or it raises RewardJaxError itself, in one line that names the file; at once; in
    memory that goes with the file's size; and nothing that the file brings is run.

    names: what the message may name in place of the file; (): it may say anything.
    """
    size = path.stat().st_size if path.is_file() else 0
    error, before = None, _resident()
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with _bounded():
            read()
    except RewardJaxError as raised:
        error = raised
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - start < SECONDS
    assert peak < SPARE + TIMES * size, f"{peak} bytes for a file of {size}"
    assert _resident() - before < 8 * SPARE + TIMES * size
    assert not (path.parent / "marker").exists(), "a pickle was loaded"
    if error is not None:
        message = str(error)
        assert type(error) is RewardJaxError
        assert "\n" not in message
        if names != ():
            assert any(name in message for name in names or [path.name]), message[:LONGEST]
            assert len(message) < LONGEST, message[: 2 * LONGEST]
    cause = error
    while cause := cause and (cause.__cause__ or cause.__context__):
        # Tests check types at run time and users do not: a reader must see wrong types itself.
        assert not isinstance(cause, jaxtyping.TypeCheckError), f"only tests refuse this: {cause}"
    return error


def survey(path, cases, read, **how):
    """`check` of every case (name, bytes) as the file `path`; how many were refused."""
    refused = 0
    for name, data in cases:
        path.write_bytes(data)
        try:
            refused += check(read, path, **how) is not None
        except BaseException as error:
            error.add_note(f"the case is {name!r}, in {path}")
            raise
    return refused
