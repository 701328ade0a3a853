"""The JSON files of a model's directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardjax.errors import RewardJaxError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      RewardJaxError: no such file, not UTF-8 text, not JSON, nested too deeply, or no object.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise RewardJaxError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise RewardJaxError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
