"""Where and with what a comparison was made, without saying on whose disk."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from rewardjax.experiments.compare.settings import CompareConfig


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


def public(config: CompareConfig, value: Any) -> Any:
    """`value` with OUT for the workspace and file names for the paths of other files.

    Strings inside mappings and lists are gone through too. Besides the paths that the config
    names, every absolute path in a string is cut to its last part.
    """
    names = {pair.partition("=")[2]: None for pair in config.files}
    names |= {source: None for source in (config.lm, config.perplexity_lm) if source}
    shown = {path: PurePath(path).name for path in names if path}
    shown |= {config.out: "OUT", str(Path(config.out)): "OUT"}
    # A path begins after a space, a quote, = or {, and ends where no further name goes on.
    words = "|".join(re.escape(path) for path in sorted(shown, key=len, reverse=True))
    known = re.compile(rf"(?<![^\s'\"=,(])({words})(?![\w.-])")
    absolute = re.compile(r"(?<![^\s'\"=,(])(?:~|\.\.)?/(?:[^\s'\"=/]+/)*([^\s'\"=/]+)")

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            value = known.sub(lambda match: shown[match[1]], value)
            return absolute.sub(lambda match: match[1], value)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    return clean(value)
