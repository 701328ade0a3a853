"""Texts without labels, from any of the forms that are read."""

from __future__ import annotations

from pathlib import Path

from rewardjax.data.examples import split, subset
from rewardjax.data.files import read_examples
from rewardjax.data.prompts import read_prompts
from rewardjax.data.settings import DataConfig


def read_texts(path: str, field: str = "text", *, header: bool = True) -> list[str]:
    """The texts of a file; a .txt has one in each line.

    Args:
      field: column of the text; a.b looks inside nested JSON.
      header: CSV and TSV: the first line names the columns; without one they are 1, 2, 3 …

    Raises:
      RewardJaxError: as the data readers.
    """
    if Path(path.lower().removesuffix(".gz")).suffix == ".txt":
        return [row.text for row in read_prompts(path)]
    data = DataConfig(
        path=path,
        text=field,
        constant_label=0.0,  # no label column is read
        header=header,
        drop_empty=True,
    )
    return read_examples(data).texts


def trained_texts(data: DataConfig, seed: int) -> list[str]:
    """The texts that `train reward-model` learns from with these settings: not those it holds out.

    Raises:
      RewardJaxError: as the data readers.
    """
    seed = seed if data.split_seed is None else data.split_seed
    found = subset(read_examples(data), data.max_examples, seed)
    return [found.texts[i] for i in split(found.texts, data.held_out, seed)[0]]


def apart(texts: list[str], others: list[str]) -> list[str]:
    """Those of the texts that stand inside none of the others, word for word."""
    whole = "\n".join(others)
    return [text for text in texts if text not in whole]
