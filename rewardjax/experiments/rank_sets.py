"""Settings of `rewardjax analyze rank`, and the prefixes they name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel, context
from rewardjax.lm import OpenedLM
from rewardjax.metrics.prefixes import cut_prefixes
from rewardjax.text import encode_text

MOST_SETS = 8


@dataclasses.dataclass(frozen=True)
class RankConfig:
    """Settings of `rewardjax analyze rank`."""

    reward_model: str
    """folder of a trained reward model"""
    prefixes: tuple[str, ...]
    """files of texts, FILE or NAME=FILE: .txt (a text per line), .jsonl, .csv, .tsv (each also as
    .gz) or .parquet; each is a set of its own, such as training=a.tsv held-out=b.tsv"""
    out: str = "runs/rank"
    """folder for rank.json and rank.html"""
    lm: str = "smollm2-135m"
    """the frozen LM that the reward model belongs to"""
    lm_dtype: Literal["float32", "bfloat16"] = "float32"
    """of the LM"""
    text_field: str = "text"
    """column of the text; a.b looks inside nested JSON"""
    header: bool = True
    """CSV and TSV: the first line names the columns; without one they are named 1, 2, 3 …"""
    num_prefixes: int = 512
    """prefixes drawn from each file (N)"""
    max_tokens: int = 64
    """texts are cut to this many tokens before a prefix is drawn"""
    columns: str = "auto"
    """auto: the whole vocabulary, or max(8 N, 4096) random tokens for a model that runs on each
    candidate (RAD; N at most 512); all; or a number of random tokens"""
    check_prefixes: int = 64
    """where columns are sampled: the first so many prefixes of the first set with the whole
    vocabulary too; 0: no"""
    output: int = 0
    """which output of the reward model"""
    dtype: Literal["float32", "float64"] = "float64"
    """in which the singular values are computed; rewards are float32"""
    batch_size: int = 8
    """prefixes at once: memory and speed only"""
    chunk: int = 256
    """candidates at once: memory and speed only"""
    seed: int = 0
    """draws the prefixes and the columns"""
    keep_rows: bool = False
    """leave the matrices (float32) in OUT/rows"""
    resume: bool = False
    """go on with an unfinished --out"""
    overwrite: bool = False
    """replace the results in --out"""


def named_files(given: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE or FILE → file by name; a name is the file's own without endings.

    Raises:
        RewardJaxError: none, more than eight, or a name that stands twice.
    """
    if not 1 <= len(given) <= MOST_SETS:
        raise RewardJaxError(f"--prefixes got {len(given)} files; expected 1 to {MOST_SETS}")
    files: dict[str, str] = {}
    for word in given:
        name, mark, path = word.partition("=")
        if not mark or "/" in name or Path(word).exists():
            path = word
            name = Path(word).name.removesuffix(".gz").rsplit(".", 1)[0]
        if not name or not path or name in files:
            raise RewardJaxError(
                f"--prefixes {word!r}: the name {name!r} is empty or stands twice; name the sets:"
                " --prefixes training=FILE held-out=FILE"
            )
        files[name] = path
    return files


def cut_sets(
    config: RankConfig,
    lm: OpenedLM,
    trained: TrainedRewardModel,
    texts: dict[str, list[str]],
) -> dict[str, list[tuple[int, ...]]]:
    """Name of a set → its prefixes.

    Raises:
        RewardJaxError: settings out of range, or too few texts.
    """
    if config.num_prefixes < 1:
        raise RewardJaxError(f"num_prefixes is {config.num_prefixes}; expected at least 1")
    if not 0 <= config.seed < 2**32:
        raise RewardJaxError(f"seed is {config.seed}; expected an integer in 0 .. 2^32 - 1")
    room = context(lm, trained)
    if not 2 <= config.max_tokens <= room:
        raise RewardJaxError(
            f"max_tokens is {config.max_tokens}; expected 2 to {room}, what both models can read"
        )
    return {
        name: cut_prefixes(
            [encode_text(lm, text, name)[: config.max_tokens] for text in some],
            config.num_prefixes,
            config.seed,
            name=f"the texts of {name!r}",
        )
        for name, some in texts.items()
    }
