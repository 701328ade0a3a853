"""Several files as one set of labelled texts with two classes: what a judge is fitted on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from rewardjax import config as settings_file
from rewardjax.data.examples import subset
from rewardjax.data.files import read_examples
from rewardjax.data.settings import DataConfig, fill, span
from rewardjax.errors import RewardJaxError, nearest


@dataclass(frozen=True)
class SourceConfig(DataConfig):
    """One source of labelled texts, and how its labels become two classes."""

    file: str | None = None
    """The name by which --files gives its path (unset: the source's own name)."""
    texts: tuple[str, ...] = ()
    """Columns of text in place of `text`: each cell of them is a text of its own."""
    threshold: float | None = None
    """A label of at least this is positive (unset: halfway from label_min to label_max)."""
    margin: float = 0.0
    """Leave out labels that are closer to the threshold than this."""


@dataclass(frozen=True)
class Labelled:
    """N texts of two classes, and where they come from."""

    texts: list[str]
    labels: Bool[np.ndarray, " N"]
    ids: list[str]
    """`file:line`: texts of one line belong together"""
    skipped: int = 0
    """bad rows left out"""

    def __len__(self) -> int:
        return len(self.texts)


def parse_sources(
    values: Mapping[str, Mapping[str, Any]], files: Sequence[str], where: str
) -> dict[str, SourceConfig]:
    """Sources as a config names them, with the paths of `files` (NAME=PATH) filled in.

    Args:
      where: the section's name, for messages.

    Raises:
      RewardJaxError: an unknown key, or a value of the wrong type.
    """
    paths = parse_files(files)
    sources = {}
    for name, settings in values.items():
        place = f"{where}.{name}"
        for key in ("held_out", "max_length"):
            if key in settings:
                raise RewardJaxError(f"{place}: {key} has no meaning for one source; leave it out")
        source = settings_file.from_dict(SourceConfig, dict(settings), source=place)
        path = paths.get(source.file or name)
        if path is not None:
            source = dataclasses.replace(source, path=path)
        sources[name] = source
    return sources


def parse_files(files: Sequence[str]) -> dict[str, str]:
    """NAME=PATH… as a mapping.

    Raises:
      RewardJaxError: another form, or a name given twice.
    """
    paths: dict[str, str] = {}
    for entry in files:
        name, mark, path = entry.partition("=")
        if not mark or not name or not path or name in paths:
            raise RewardJaxError(f"--files holds {entry!r}; expected NAME=PATH, each name once")
        paths[name] = path
    return paths


def check_files(files: Sequence[str], *sections: Mapping[str, SourceConfig]) -> None:
    """Refuse a path whose name no source has. Raises RewardJaxError naming the nearest."""
    names = {source.file or name for part in sections for name, source in part.items()}
    for name in parse_files(files):
        if name not in names:
            raise RewardJaxError(
                f"--files names {name!r}; expected some of {', '.join(sorted(names)) or 'none'}"
                f"{nearest(name, names)}"
            )


def read_source(source: SourceConfig, seed: int) -> Labelled:
    """The texts of one source.

    Raises:
      RewardJaxError: as `read_examples`; more than one label; a threshold out of range.
    """
    columns = source.texts or ((source.text,) if source.text else ())
    configs = [dataclasses.replace(source, text=name) for name in columns] or [source]
    texts: list[str] = []
    ids: list[str] = []
    skipped: set[str] = set()
    values: list[np.ndarray] = []
    for config in configs:
        found = subset(read_examples(config), config.max_examples, seed)
        texts += found.texts
        ids += found.ids
        skipped |= {reason.split(": ", 1)[0] for reason in found.skipped}
        values.append(found.labels)
    settings = fill(source)
    if len(settings.labels) != 1:
        raise RewardJaxError(
            f"a judge's source has {len(settings.labels)} label columns; expected one (labels)"
        )
    low, high = span(settings)
    threshold = (low + high) / 2 if source.threshold is None else source.threshold
    if not low <= threshold <= high or not 0 <= source.margin < high - low:
        raise RewardJaxError(
            f"a judge's source has threshold {threshold:g} and margin {source.margin:g}; expected "
            f"a threshold of {low:g} to {high:g} and a margin of 0 to less than {high - low:g}"
        )
    label = np.concatenate(values)[:, 0].astype(np.float64) * (high - low) + low
    # Labels are float32: 1e-6 keeps those that are at a bound as written.
    keep = np.flatnonzero(np.abs(label - threshold) >= source.margin - 1e-6)
    return Labelled(
        [texts[i] for i in keep],
        label[keep] >= threshold - 1e-6,
        [ids[i] for i in keep],
        len(skipped),
    )


def join(parts: Sequence[Labelled]) -> Labelled:
    """All texts of several sources."""
    return Labelled(
        [text for part in parts for text in part.texts],
        np.concatenate([part.labels for part in parts]),
        [place for part in parts for place in part.ids],
    )


def group(texts: Sequence[str], ids: Sequence[str]) -> Int[np.ndarray, " N"]:
    """A number per text; texts that are equal, or of one line, or linked so, share theirs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys: dict[tuple[str, str], int] = {}
    for pair in [*(("text", text) for text in texts), *(("id", place) for place in ids)]:
        keys.setdefault(pair, len(keys))
    one = [keys["text", text] for text in texts]
    other = [keys["id", place] for place in ids]
    links = coo_array((np.ones(len(one)), (one, other)), shape=(len(keys), len(keys)))
    _, component = connected_components(links, directed=False)
    return component[one].astype(np.int64)


def describe(name: str, source: SourceConfig, part: Labelled) -> dict[str, Any]:
    """What a reader needs to find the same texts: never a path, which is the writer's own."""
    if source.path is not None:
        with Path(source.path).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        origin = Path(source.path).name
    else:
        digest = hashlib.sha256(repr((part.texts, part.labels.tolist())).encode()).hexdigest()
        origin = source.hub or source.dataset
    return {
        "name": name,
        "file": origin,
        "sha256": digest,
        "texts": len(part),
        "positive": int(part.labels.sum()),
        **({"skipped": part.skipped} if part.skipped else {}),
    }
