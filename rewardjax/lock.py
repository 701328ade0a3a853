"""One process at a time in a folder. The system frees the lock when its process dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from rewardjax.errors import RewardJaxError

LOCK = ".lock"


@contextlib.contextmanager
def hold(folder: Path, name: str) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if it is missing.

    Args:
      name: the setting that names the folder, for the error.

    Raises:
      RewardJaxError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RewardJaxError(
            f"{name} {str(folder)!r} is in use by another process; wait for it, or choose another"
        ) from None
    try:
        yield
    finally:
        lock.release()


def held(folder: Path) -> bool:
    """Whether a process is in a folder now."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with filelock.FileLock(folder / LOCK, blocking=False):
            return False
    except (filelock.Timeout, PermissionError):
        return True
