"""What the YAMLs of `rewardjax compare` and `rewardjax analyze selection` have in common."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import tyro

from rewardjax.errors import RewardJaxError, nearest

T = TypeVar("T")
YamlOnly = Annotated[T, tyro.conf.Suppress, tyro.conf.Fixed]
"""A setting too rich for a flag."""

_PLACE = re.compile(r"\{([A-Za-z][\w-]*)\}")


@runtime_checkable
class Experiment(Protocol):
    """Settings of what is made step by step in a folder, and published."""

    @property
    def name(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def out(self) -> str: ...

    @property
    def publish(self) -> str | None: ...

    @property
    def hours(self) -> float | None: ...

    @property
    def estimate(self) -> bool: ...

    @property
    def inputs(self) -> set[str]:
        """Files that are read: they count by their content, wherever they lie."""
        ...


C = TypeVar("C", bound=Any)


def fill_in(config: C) -> C:
    """An experiment's config with its {NAME} replaced by the `files` given.

    Raises:
      RewardJaxError: a name without a file (all are named at once), or a file nobody asked for.
    """
    given = {}
    for pair in config.files:
        name, sign, path = pair.partition("=")
        if not sign or not path:
            raise RewardJaxError(f"--files {pair!r}; expected NAME=PATH")
        given[name] = path
    asked: set[str] = set()

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            asked.update(_PLACE.findall(value))
            return _PLACE.sub(lambda match: given.get(match[1], match[0]), value)
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(fill(item) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: fill(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value

    filled = dataclasses.replace(fill(dataclasses.replace(config, files=())), files=config.files)
    if missing := sorted(asked - given.keys()):
        raise RewardJaxError(
            f"this experiment needs the files {', '.join(missing)}; give --files "
            + " ".join(f"{name}=PATH" for name in missing)
        )
    if extra := sorted(given.keys() - asked):
        hint = nearest(extra[0], sorted(asked))
        raise RewardJaxError(f"--files {extra[0]}=… is not asked for by this experiment{hint}")
    return filled


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those `above` winning."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def nested(name: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as {a: {b: value}}."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
