"""Folders of the cache: what costs a model's passes over many texts is made once, whole or not.

Several processes that run one job compute it together; the first of them writes it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rewardjax import hosts, progress
from rewardjax.data.hidden import machine_flops
from rewardjax.errors import RewardJaxError

Opened = TypeVar("Opened")
ABANDONED = 7 * 86400
"""Seconds after which what a killed process left is taken away."""


def open_or_make(
    directory: Path,
    open_: Callable[[], Opened | None],
    make: Callable[[Path | None], None],
) -> tuple[Opened, bool]:
    """What a folder holds, and whether it was made now.

    Args:
      open_: gives what is complete, or None.
      make: writes all of it into a folder that is empty; None in a process that only helps to
        compute it.

    Raises:
      RewardJaxError: another process made it and it is not seen here.
    """
    found = open_()
    if hosts.all_agree(found is not None):
        assert found is not None
        return found, False
    root = directory.parent
    partial = Path(tempfile.mkdtemp(prefix="unfinished-", dir=root)) if hosts.is_first() else None
    try:
        make(partial)
        if partial is not None:
            if directory.is_dir():  # damaged, or written by another job meanwhile
                shutil.rmtree(directory)
            partial.rename(directory)
    except BaseException as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(root)  # a full disk does not say itself what was written to
        raise
    hosts.wait(directory.name)
    found = open_()
    if found is None:
        raise RewardJaxError(
            f"{str(directory)!r} was written by another process and is not here: all processes of"
            " a job need one cache folder; set REWARDJAX_CACHE to a disk that they share"
        )
    return found, True


def announce(root: Path, size: int, flops: float, what: str, advice: str) -> None:
    """Show size and time beforehand; refuse what the disk cannot hold.

    Args:
      size: bytes.
      what: and of how much, such as "Hidden states of 1,000 tokens".
      advice: how to need less.

    Raises:
      RewardJaxError: too little space.
    """
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob("unfinished-*"):
        if time.time() - old.stat().st_mtime > ABANDONED:
            shutil.rmtree(old, ignore_errors=True)
    free = shutil.disk_usage(root).free
    if size > free:
        raise RewardJaxError(
            f"{what} need {size / 2**30:.1f} GiB and {str(root)!r} has {free / 2**30:.1f} GiB"
            f" free; free some space, set REWARDJAX_CACHE to another disk, or {advice}"
        )
    # Attention, norms and padding take the rest of the time.
    seconds = flops / (0.7 * machine_flops())
    progress.note(f"{what}: {size / 2**20:.0f} MiB in {root}, about {seconds:.0f} s (once)")
