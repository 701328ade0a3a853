"""The settings that say where labelled texts are and how to read them, by name or one by one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from rewardjax.data.presets import PRESETS, Preset
from rewardjax.errors import RewardJaxError, nearest


@dataclass(frozen=True)
class DataConfig:
    """Labelled texts, and how to read them."""

    dataset: str | None = None
    """A known data set: civil_comments, jigsaw_unintended_bias, jigsaw_toxic, amazon_polarity,
    sst2, real_toxicity_prompts, davidson, surge_toxicity, vader_ratings. It says which columns to
    read, of data.path or else of the hub; what is set here wins."""
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
    header: bool | None = None
    """CSV and TSV: the first line names the columns (unset: it does). Without one they are named
    1, 2, 3 …"""
    text: str | None = None
    """Column of the text (unset: text); `a.b` looks inside nested JSON."""
    labels: tuple[str, ...] = ()
    """Columns of the labels, one for each output of the reward model (unset: label)."""
    label_map: tuple[str, ...] = ()
    """Labels that are words or codes, as VALUE=NUMBER: `Toxic=1 'Not Toxic=0'`."""
    constant_label: float | None = None
    """Every text has this label; no label column is read."""
    label_min: float | None = None
    """The label that becomes 0 (unset: 0)."""
    label_max: float | None = None
    """The label that becomes 1 (unset: 1)."""
    drop_empty: bool | None = None
    """Leave out rows whose text or label is empty or null (unset: they are bad rows)."""
    held_out: float = 0.1
    """Share of the texts kept for evaluation, drawn by the seed."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """stop: a bad row ends the run with file, line and reason; skip: bad rows are counted."""
    max_length: int | None = None
    """Cut texts to this many tokens. Unset: a text longer than the LM's context is a bad row."""
    max_examples: int | None = None
    """Use this many of the texts, drawn by the seed. Unset: all."""
    split_seed: int | None = None
    """Draws max_examples and the held-out texts. Unset: the run's seed. Runs that are compared
    over seeds, or a student with its teacher, should hold out the same texts."""


DEFAULTS: dict[str, Any] = {
    "header": True,
    "text": "text",
    "labels": ("label",),
    "label_map": (),
    "label_min": 0.0,
    "label_max": 1.0,
    "drop_empty": False,
}
"""Fields that a preset may fill, and what they are where neither it nor the user says."""


def fill(config: DataConfig) -> DataConfig:
    """The same settings with nothing of `DEFAULTS` unset: the user's, else the preset's, else it.

    Raises:
      RewardJaxError: no such preset.
    """
    values = dict(DEFAULTS)
    if config.dataset is not None:
        preset = _preset(config.dataset)
        values |= preset.columns | (preset.local if config.path is not None else {})
    if config.constant_label is not None:
        values["label_map"] = ()
    unset = {name: values[name] for name in DEFAULTS if getattr(config, name) in (None, ())}
    return dataclasses.replace(config, **unset)


def settle(config: DataConfig) -> DataConfig:
    """`fill`, and the preset's hub id where neither a file nor a hub id is given.

    Raises:
      RewardJaxError: no such preset, or one that only a local file has and none is named.
    """
    config = fill(config)
    if config.dataset is None or config.path is not None or config.hub is not None:
        return config
    preset = _preset(config.dataset)
    if preset.hub is None:
        raise RewardJaxError(
            f"data.dataset {config.dataset!r} cannot be read from the hub; set data.path to its "
            f"file: {preset.about}"
        )
    return dataclasses.replace(config, hub=preset.hub)


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise RewardJaxError(
            f"data.dataset is {name!r}; expected one of {', '.join(PRESETS)}"
            f"{nearest(name, PRESETS)}"
        )
    return PRESETS[name]


def label_numbers(config: DataConfig) -> dict[str, float]:
    """`data.label_map` as a mapping from the label as text to its number.

    Raises:
      RewardJaxError: an entry that is not VALUE=NUMBER, or a value named twice.
    """
    numbers: dict[str, float] = {}
    for entry in config.label_map:
        value, mark, number = entry.rpartition("=")
        try:
            if not mark or value in numbers:
                raise ValueError
            numbers[value] = float(number)
        except ValueError:
            raise RewardJaxError(
                f"data.label_map holds {entry!r}; expected VALUE=NUMBER, each value once, such as "
                "Toxic=1"
            ) from None
    return numbers


def check(config: DataConfig) -> None:
    """Refuse settings that cannot mean anything.

    Raises:
      RewardJaxError: naming the field.
    """
    config = fill(config)
    low, high = span(config)
    if not -math.inf < low < high < math.inf:
        raise RewardJaxError(
            f"data.label_min is {low} and data.label_max {high}; "
            "expected label_min < label_max, both finite"
        )
    if config.constant_label is not None:
        if config.label_map:
            raise RewardJaxError("data.label_map and data.constant_label exclude each other")
        if not low <= config.constant_label <= high:
            raise RewardJaxError(
                f"data.constant_label is {config.constant_label}; expected {low:g} to {high:g} "
                "(data.label_min, data.label_max)"
            )
    for value, number in label_numbers(config).items():
        if not low <= number <= high:
            raise RewardJaxError(
                f"data.label_map makes {value!r} {number:g}; expected {low:g} to {high:g} "
                "(data.label_min, data.label_max)"
            )
    if not 0 <= config.held_out < 1:
        raise RewardJaxError(f"data.held_out is {config.held_out}; expected 0 <= held_out < 1")
    for name, least in (("max_length", 1), ("max_examples", 1), ("split_seed", 0)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise RewardJaxError(f"data.{name} is {value}; expected at least {least}")


def span(config: DataConfig) -> tuple[float, float]:
    """(label_min, label_max) of filled settings."""
    assert config.label_min is not None
    assert config.label_max is not None
    return config.label_min, config.label_max


def without_labels(config: DataConfig) -> DataConfig:
    """Texts alone: a constant in place of labels, so that no column of theirs is read."""
    if config.constant_label is not None:
        return config
    constant = fill(config).label_min
    return dataclasses.replace(config, constant_label=constant, label_map=())
