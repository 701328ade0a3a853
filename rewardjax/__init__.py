"""rewardjax: steer frozen language models while they decode, with reward models trained in JAX.

Importing this package imports nothing heavy; JAX loads when a function is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardjax.api import generate, stream
    from rewardjax.decoding.settings import SamplingConfig
    from rewardjax.errors import RewardJaxError
    from rewardjax.export import load_reward_model
    from rewardjax.lm import load_lm
    from rewardjax.scoring import perplexity, reward, reward_rows
    from rewardjax.selection import Selection, select
    from rewardjax.text import Generation

__version__ = "0.1.0"

_HOME = {
    "Generation": "rewardjax.text",
    "RewardJaxError": "rewardjax.errors",
    "SamplingConfig": "rewardjax.decoding.settings",
    "Selection": "rewardjax.selection",
    "generate": "rewardjax.api",
    "load_lm": "rewardjax.lm",
    "load_reward_model": "rewardjax.export",
    "perplexity": "rewardjax.scoring",
    "reward": "rewardjax.scoring",
    "reward_rows": "rewardjax.scoring",
    "select": "rewardjax.selection",
    "stream": "rewardjax.api",
}

__all__ = [
    "Generation",
    "RewardJaxError",
    "SamplingConfig",
    "Selection",
    "generate",
    "load_lm",
    "load_reward_model",
    "perplexity",
    "reward",
    "reward_rows",
    "select",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rewardjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
