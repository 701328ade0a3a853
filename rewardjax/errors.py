"""Errors that a user can mend: one line each, saying what was got, what is expected, what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class RewardJaxError(Exception):
    """Bad input or a bad environment. The message is always one line (white space is collapsed)."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class MissingExtra(RewardJaxError):
    """A feature needs a package of one of the optional extras."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the optional extra `extra` installs.

    Raises:
      MissingExtra: if it cannot be imported, naming the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"this needs the Python module {module!r} ({error}); "
            f"install it with: pip install 'rewardjax[{extra}]'"
        ) from error


def short(value: object) -> str:
    """`repr(value)`, cut to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def nearest(word: str, options: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the option closest to `word`, or `""` when none is close."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
