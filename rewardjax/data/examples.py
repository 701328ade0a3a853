"""Labelled texts in memory: rows parsed and checked, subsets and splits by seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from rewardjax.data.lines import half_surrogate, listed
from rewardjax.data.settings import DataConfig, check, fill, label_numbers, span
from rewardjax.errors import RewardJaxError, short


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
        raise BadRow(f"column {name!r} is missing; the row has {listed(row)}")
    return value


def _number(value: Any, name: str, numbers: dict[str, float]) -> float:
    if numbers:
        key = str(value).lower() if isinstance(value, bool) else str(value)
        if key in numbers:
            return numbers[key]
        expected = ", ".join(map(repr, numbers))
        raise BadRow(f"label {name!r} is {short(value)}; expected one of {expected} (label_map)")
    if isinstance(value, str | int | float | np.number):
        try:
            return float(value)
        except (ValueError, OverflowError):  # an integer of hundreds of digits
            pass
    raise BadRow(f"label {name!r} is {short(value)}; expected a number")


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def parse_row(
    row: dict[str, Any], config: DataConfig, numbers: dict[str, float] | None = None
) -> tuple[str, tuple[float, ...]] | None:
    """The text and the labels, scaled to [0, 1], of one row; None for a row to leave out.

    Args:
      config: filled settings.
      numbers: `label_numbers(config)`, where it is at hand.

    Raises:
      BadRow: with the reason.
    """
    numbers = label_numbers(config) if numbers is None else numbers
    low, high = span(config)
    text = _column(row, str(config.text))
    constant = config.constant_label
    names = config.labels
    values = [constant if constant is not None else _column(row, name) for name in names]
    if config.drop_empty and any(map(_is_empty, (text, *values))):
        return None
    if not isinstance(text, str):
        raise BadRow(f"text {config.text!r} is {short(text)}; expected text")
    if not text.strip():
        raise BadRow(f"text {config.text!r} is empty")
    if half_surrogate(text):
        raise BadRow(f"text {config.text!r} holds half a surrogate pair: not valid Unicode")
    labels = []
    for name, found in zip(names, values, strict=True):
        value = _number(found, name, numbers)
        if not low <= value <= high:  # false for NaN as well
            what = "not a number" if math.isnan(value) else f"{value:g}"
            raise BadRow(
                f"label {name!r} is {what}; expected {low:g} to {high:g} "
                "(data.label_min, data.label_max)"
            )
        labels.append((value - low) / (high - low))
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
    config = fill(config)
    check(config)
    numbers = label_numbers(config)
    texts: list[str] = []
    labels: list[tuple[float, ...]] = []
    ids: list[str] = []
    skipped: list[str] = []
    empty = 0
    for where, read in rows:
        try:
            parsed = parse_row(read(), config, numbers)
        except BadRow as reason:
            if config.on_bad_row == "stop":
                raise RewardJaxError(
                    f"{where}: {reason}; mend the row or set data.on_bad_row to skip"
                ) from None
            skipped.append(f"{where}: {reason}")
            continue
        if parsed is None:
            empty += 1
            continue
        texts.append(parsed[0])
        labels.append(parsed[1])
        ids.append(where)
    if not texts:
        left = f" but {empty} with an empty text or label (data.drop_empty)" if empty else ""
        others = "others" if empty else "rows"
        why = f"; all {len(skipped)} {others} are bad, first: {skipped[0]}" if skipped else ""
        raise RewardJaxError(f"{source} holds no rows{left}{why}")
    array = np.asarray(labels, np.float32).reshape(len(texts), len(config.labels))
    return Examples(texts, array, ids, tuple(skipped))


def from_memory(texts: Sequence[Any], labels: Any, config: DataConfig) -> Examples:
    """Examples from N texts and labels ([N] or [N, A]) that a program already holds.

    Raises:
      RewardJaxError: lengths that differ, or a bad row, named `texts[i]`.
    """
    # Texts and labels are at hand: of a preset only the number of labels and their range count.
    config = fill(dataclasses.replace(config, text="text"))
    names = config.labels
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise RewardJaxError(f"labels are no rectangle of numbers: {error}") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != len(texts) or array.shape[1] != len(names):
        raise RewardJaxError(
            f"labels have the shape {np.shape(labels)}; expected [{len(texts)}] or "
            f"[{len(texts)}, {len(names)}] for {len(texts)} texts and "
            f"data.labels={list(names)}"
        )

    def row(i: int) -> Callable[[], dict[str, Any]]:
        values = dict(zip(names, array[i].tolist(), strict=True))
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
