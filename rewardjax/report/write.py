"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rewardjax.errors import RewardJaxError


def check_writable(path: str | Path) -> Path:
    """`path`, if a file could be put there.

    Raises:
      RewardJaxError: its folder does not exist, or it is a folder itself.
    """
    folder = str(path).endswith(("/", os.sep))
    path = Path(path)
    if not path.parent.is_dir():
        raise RewardJaxError(
            f"cannot write {str(path)!r}: folder {str(path.parent)!r} does not exist; make it first"
        )
    if folder or path.is_dir():
        raise RewardJaxError(f"cannot write {str(path)!r}: it is a folder; expected a file name")
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text through a temporary file beside `path`, so no reader sees half of it.

    A special file (a pipe, /dev/stdout) is written to directly.

    Raises:
      RewardJaxError: as `check_writable`.
      OSError: the disk is full or the folder may not be written; nothing is left behind.
    """
    path = check_writable(path)
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
        else:
            _replace(path, text)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say what was written, or names our own
        raise
    return path


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide reports from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
