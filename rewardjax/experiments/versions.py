"""What a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("rewardjax", "jax", "flax", "optax", "transformers", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
