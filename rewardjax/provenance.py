"""Where and with what a result or a run was made, without saying on whose disk."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("rewardjax", "jax", "flax", "optax", "transformers", "numpy", "scipy")
_BEFORE = r"(?<![^\s'\"=,(])"
"""A path begins after a space, a quote, = or {, and ends where no further name goes on."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def machine() -> dict[str, Any]:
    """What it ran on, in words that fit a page."""
    import jax

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    devices = sorted({device.device_kind for device in jax.devices()})
    return {"cpu": model, "cores": os.cpu_count(), "devices": devices, "system": platform.system()}


def commit() -> str | None:
    """Of the code that runs now; None outside a repository."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def without_paths(value: Any, shown: Mapping[str, str]) -> Any:
    """`value` with paths as `shown` has them, every other absolute path cut to its last part.

    Strings inside mappings and lists are gone through too.
    """
    words = "|".join(re.escape(path) for path in sorted(shown, key=len, reverse=True))
    known = re.compile(rf"{_BEFORE}({words})(?![\w.-])") if shown else None
    absolute = re.compile(rf"{_BEFORE}(?:~|\.\.)?/(?:[^\s'\"=/]+/)*([^\s'\"=/]+)")

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            if known is not None:
                value = known.sub(lambda match: shown[match[1]], value)
            return absolute.sub(lambda match: match[1], value)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    return clean(value)
