"""Labelled texts: the settings that say where they are, and what training gets from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int

from rewardjax.data.lines import half_surrogate
from rewardjax.errors import RewardJaxError, short


@dataclass(frozen=True)
class DataConfig:
    """Labelled texts, and how to read them."""

    path: str | None = None
    """A local file: .jsonl, .csv, .tsv (each also as .gz) or .parquet."""
    hub: str | None = None
    """Instead of path: a dataset's id on the Hugging Face hub, `owner/name`."""
    hub_config: str | None = None
    """The hub dataset's configuration, where it has several."""
    hub_split: str = "train"
    """The hub dataset's split."""
    hub_revision: str | None = None
    """The hub dataset's commit, tag or branch."""
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet"] = "auto"
    """The file's format; auto goes by its name."""
    header: bool = True
    """CSV and TSV: the first line names the columns. Without one they are named 1, 2, 3 …"""
    text: str = "text"
    """Column of the text; `a.b` looks inside nested JSON."""
    labels: tuple[str, ...] = ("label",)
    """Columns of the labels, one for each output of the reward model."""
    label_min: float = 0.0
    """The label that becomes 0."""
    label_max: float = 1.0
    """The label that becomes 1."""
    held_out: float = 0.1
    """Share of the texts kept for evaluation, drawn by the seed."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """stop: a bad row ends the run with file, line and reason; skip: bad rows are counted."""
    max_length: int | None = None
    """Cut texts to this many tokens. Unset: a text longer than the LM's context is a bad row."""
    max_examples: int | None = None
    """Use this many of the texts, drawn by the seed. Unset: all."""


def check(config: DataConfig) -> None:
    """Refuse settings that cannot mean anything.

    Raises:
      RewardJaxError: naming the field.
    """
    if not config.labels:
        raise RewardJaxError("data.labels is empty; name at least one column")
    if not -math.inf < config.label_min < config.label_max < math.inf:
        raise RewardJaxError(
            f"data.label_min is {config.label_min} and data.label_max {config.label_max}; "
            "expected label_min < label_max, both finite"
        )
    if not 0 <= config.held_out < 1:
        raise RewardJaxError(f"data.held_out is {config.held_out}; expected 0 <= held_out < 1")
    for name in ("max_length", "max_examples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise RewardJaxError(f"data.{name} is {value}; expected at least 1")


class BadRow(Exception):
    """One row is unusable; the message is the reason, without file and line."""


@dataclass(frozen=True)
class Examples:
    """Labelled texts in memory. `ids` say where each came from: `file:line`."""

    texts: list[str]
    labels: Float32[np.ndarray, "N A"]
    """each in [0, 1]"""
    ids: list[str]
    skipped: tuple[str, ...] = ()
    """bad rows left out: `file:line: reason`"""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Int[np.ndarray, "M"]) -> Examples:
        """The given rows, in the given order."""
        texts, ids = [self.texts[i] for i in rows], [self.ids[i] for i in rows]
        return dataclasses.replace(self, texts=texts, labels=self.labels[rows], ids=ids)


_MISSING = object()


def _column(row: dict[str, Any], name: str) -> Any:
    """`row[name]`; otherwise dots descend into nested mappings."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
    if value is _MISSING:
        columns = ", ".join(map(repr, row)) or "none"
        raise BadRow(f"column {name!r} is missing; the row has {columns}")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, str | int | float | np.number):
        try:
            return float(value)
        except (ValueError, OverflowError):  # an integer of hundreds of digits
            pass
    raise BadRow(f"label {name!r} is {short(value)}; expected a number")


def parse_row(row: dict[str, Any], config: DataConfig) -> tuple[str, tuple[float, ...]]:
    """The text and the labels, scaled to [0, 1], of one row.

    Raises:
      BadRow: with the reason.
    """
    text = _column(row, config.text)
    if not isinstance(text, str):
        raise BadRow(f"text {config.text!r} is {short(text)}; expected text")
    if not text.strip():
        raise BadRow(f"text {config.text!r} is empty")
    if half_surrogate(text):
        raise BadRow(f"text {config.text!r} holds half a surrogate pair: not valid Unicode")
    labels = []
    for name in config.labels:
        value = _number(_column(row, name), name)
        if not config.label_min <= value <= config.label_max:  # false for NaN as well
            what = "not a number" if math.isnan(value) else f"{value:g}"
            raise BadRow(
                f"label {name!r} is {what}; expected {config.label_min:g} to {config.label_max:g} "
                "(data.label_min, data.label_max)"
            )
        labels.append((value - config.label_min) / (config.label_max - config.label_min))
    return text, tuple(labels)


def collect(
    rows: Iterable[tuple[str, Callable[[], dict[str, Any]]]], config: DataConfig, source: str
) -> Examples:
    """Examples from rows.

    Args:
      rows: pairs of `file:line` and a function that gives the row or raises BadRow.
      source: what the rows come from, for messages.

    Raises:
      RewardJaxError: at the first bad row (unless `on_bad_row: skip`), or when none is left.
    """
    check(config)
    texts: list[str] = []
    labels: list[tuple[float, ...]] = []
    ids: list[str] = []
    skipped: list[str] = []
    for where, read in rows:
        try:
            text, values = parse_row(read(), config)
        except BadRow as reason:
            if config.on_bad_row == "stop":
                raise RewardJaxError(
                    f"{where}: {reason}; mend the row or set data.on_bad_row to skip"
                ) from None
            skipped.append(f"{where}: {reason}")
            continue
        texts.append(text)
        labels.append(values)
        ids.append(where)
    if not texts:
        why = f"; all {len(skipped)} rows are bad, first: {skipped[0]}" if skipped else ""
        raise RewardJaxError(f"{source} holds no rows{why}")
    array = np.asarray(labels, np.float32).reshape(len(texts), len(config.labels))
    return Examples(texts, array, ids, tuple(skipped))


def from_memory(texts: Sequence[Any], labels: Any, config: DataConfig) -> Examples:
    """Examples from N texts and labels ([N] or [N, A]) that a program already holds.

    Raises:
      RewardJaxError: lengths that differ, or a bad row, named `texts[i]`.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise RewardJaxError(f"labels are no rectangle of numbers: {error}") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != len(texts) or array.shape[1] != len(config.labels):
        raise RewardJaxError(
            f"labels have the shape {np.shape(labels)}; expected [{len(texts)}] or "
            f"[{len(texts)}, {len(config.labels)}] for {len(texts)} texts and "
            f"data.labels={list(config.labels)}"
        )
    config = dataclasses.replace(config, text="text")

    def row(i: int) -> Callable[[], dict[str, Any]]:
        values = dict(zip(config.labels, array[i].tolist(), strict=True))
        return lambda: {**values, "text": texts[i]}

    return collect(((f"texts[{i}]", row(i)) for i in range(len(texts))), config, "texts")


def subset(examples: Examples, count: int | None, seed: int) -> Examples:
    """`count` of the examples drawn by the seed, in their order; all of them for None."""
    if count is None or count >= len(examples):
        return examples
    drawn = np.random.default_rng(seed).permutation(len(examples))[:count]
    return examples.take(np.sort(drawn))


def split(
    texts: Sequence[str], held_out: float, seed: int
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "M"]]:
    """Rows to train on and rows held out, by seed; equal texts never fall on both sides.

    Args:
      held_out: share of the distinct texts to hold out (at least one where positive).

    Raises:
      RewardJaxError: when no text would be left to train on.
    """
    distinct = list(dict.fromkeys(texts))
    count = max(1, round(held_out * len(distinct))) if held_out > 0 else 0
    if count >= len(distinct):
        raise RewardJaxError(
            f"{len(distinct)} distinct texts leave none to train on with data.held_out "
            f"{held_out:g}; give more texts or a smaller share"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[i] for i in order[:count]}
    held = np.array([text in chosen for text in texts], bool)
    return np.flatnonzero(~held), np.flatnonzero(held)
