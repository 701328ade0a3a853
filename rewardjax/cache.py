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


def keep_compiled() -> None:
    """Lets JAX keep what it compiles, so that a later process starts in half the time.

    JAX's own settings win: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. JAX asks for the folder when it first
    compiles, so this comes before.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
