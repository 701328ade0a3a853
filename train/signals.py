"""Ctrl-C and SIGTERM as a request: the loop finishes its step, saves, and only then stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from rewardjax import hosts


class StopRequest:
    """`signum` is the signal that asked to stop, or None."""

    signum: int | None = None

    def raise_if_asked(self) -> None:
        """Raise what the signal stands for: KeyboardInterrupt (exit 130), or SystemExit(143)."""
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum is not None:
            raise SystemExit(128 + self.signum)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request while the block runs; a second one acts at once.

    Outside the main thread signals cannot be caught; the request then never comes. Of a job of
    several processes JAX catches them (`hosts.asked_to_stop`), for all must stop at one step.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread() or hosts.count() > 1:
        yield request
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.getsignal(signum) for signum in signals}

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        for each, handler in before.items():
            signal.signal(each, handler)

    for signum in signals:
        signal.signal(signum, ask)
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
