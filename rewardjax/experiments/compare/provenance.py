"""What a comparison says of its files: their names, not on whose disk they lie."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from rewardjax.experiments.compare.settings import CompareConfig
from rewardjax.provenance import without_paths


def public(config: CompareConfig, value: Any) -> Any:
    """`value` with OUT for the workspace and file names for the paths of other files."""
    names = {pair.partition("=")[2]: None for pair in config.files}
    names |= {source: None for source in (config.lm, config.perplexity_lm) if source}
    shown = {path: PurePath(path).name for path in names if path}
    return without_paths(value, shown | {config.out: "OUT", str(Path(config.out)): "OUT"})
