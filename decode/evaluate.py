"""`rewardjax evaluate FILE.jsonl…`: the papers' metrics over generated rows, with intervals."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from typing import Annotated, Literal

import numpy as np
import tyro

from rewardjax.config import parse, to_plain
from rewardjax.data.generations import read_rows
from rewardjax.errors import RewardJaxError
from rewardjax.metrics.bootstrap import bootstrap_mean
from rewardjax.metrics.evaluation import check_lengths, count_text, evaluate
from rewardjax.metrics.scorers import DEFAULT_SCORERS, load_scorers
from rewardjax.progress import bar
from rewardjax.report.metrics import metrics_table
from rewardjax.report.table import print_table
from rewardjax.report.write import check_writable, write_text


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `rewardjax evaluate`. Files come before the flags."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")] = ()
    """JSONL files of generated rows (plain or .gz); `-` is standard input."""
    scorers: tuple[str, ...] = DEFAULT_SCORERS
    """Judges: built-in names, `module:function`, or `KIND=module:function` where KIND is
    sentiment (prompt + continuation; positive above 0), toxicity (continuation; toxic from .5)
    or score (continuation; averaged)."""
    perplexity_lm: str | None = None
    """Language model for perplexity: an alias, a folder, a .gguf file or a hub id. None: no
    perplexity. Choose one that did not write the texts."""
    perplexity_samples: int | None = None
    """Continuations per prompt, drawn by the seed, that it reads; None: all of them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of that model."""
    out: str | None = None
    """JSON file for the numbers; `-` prints JSON to standard output in place of the table."""
    level: float = 0.95
    """Coverage of the intervals."""
    resamples: int = 2000
    """Bootstrap resamples."""
    seed: int = 0
    """Of the bootstrap."""
    batch_tokens: int = 2048
    """Padded tokens per forward pass of the perplexity model."""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        EvaluateConfig,
        argv,
        prog="rewardjax evaluate",
        description="Score generated texts: attributes, perplexity, diversity, reward, KL.",
    )
    if not config.files:
        raise RewardJaxError("no file to evaluate; expected: rewardjax evaluate FILE.jsonl …")
    if len(set(config.files)) < len(config.files):
        raise RewardJaxError("a file is named twice; name each file once")
    if config.batch_tokens < 1:
        raise RewardJaxError(f"--batch-tokens is {config.batch_tokens}; expected at least 1")
    if config.perplexity_samples is not None and config.perplexity_samples < 1:
        raise RewardJaxError(
            f"--perplexity-samples is {config.perplexity_samples}; expected at least 1"
        )
    if config.out not in (None, "-"):
        check_writable(config.out)
    # Checks the three.
    bootstrap_mean(np.zeros(1), level=config.level, resamples=config.resamples, seed=config.seed)
    rows = {name: read_rows(name) for name in config.files}
    scorers = load_scorers(config.scorers)
    lm = None
    if config.perplexity_lm is not None:
        from rewardjax.lm import open_lm

        opened = open_lm(config.perplexity_lm, dtype=config.dtype)
        for name, part in rows.items():
            check_lengths(part, opened, name)
        lm = opened.load()
    total = sum(len(part) for part in rows.values()) if lm is not None else 0
    results = {}
    with bar("perplexity", total) as advance:
        for name, part in rows.items():
            results[name] = evaluate(
                part,
                scorers,
                lm=lm,
                perplexity_samples=config.perplexity_samples,
                level=config.level,
                resamples=config.resamples,
                seed=config.seed,
                batch_tokens=config.batch_tokens,
                progress=advance,
            )
    counts = {name: count_text(part) for name, part in rows.items()}
    record = {
        "rewardjax": version("rewardjax"),
        "settings": to_plain(config),
        "files": [
            {
                "file": name,
                "prompts": len({row.prompt_index for row in rows[name]}),
                "continuations": len(rows[name]),
                "metrics": {key: metric.to_dict() for key, metric in metrics.items()},
            }
            for name, metrics in results.items()
        ],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if config.out == "-":
        print(text, end="")
        return 0
    if config.out is not None:
        write_text(config.out, text)
    print_table(metrics_table(results, counts=counts, level=config.level))
    return 0
