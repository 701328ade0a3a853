"""Where this library keeps what it can make or download again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache directory for this library: REWARDJAX_CACHE, or the platform's usual one."""
    if own := os.environ.get("REWARDJAX_CACHE"):
        return Path(own).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "rewardjax"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rewardjax"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "rewardjax" / "Cache"
    return Path.home() / ".cache" / "rewardjax"
