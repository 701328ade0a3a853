"""`rewardjax analyze agreement`: how near one reward model is to another one on the same tokens.

A distillation's own evaluation is on what that run was trained with (the observed token, or k
candidates), so two runs' errors may be errors of different things. This compares any two, students
on candidates, on observed tokens or of labels alone, with one teacher on the same.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rewardjax.config import parse, to_plain
from rewardjax.data import batches, examples, features
from rewardjax.data.batches import Batch
from rewardjax.data.settings import DataConfig
from rewardjax.data.texts import read_texts
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel, architecture, load_reward_model
from rewardjax.export import context as longest_text
from rewardjax.lm import LM, open_lm
from rewardjax.provenance import versions
from rewardjax.report.table import Cell, Table, number, print_table
from rewardjax.report.write import write_text

from . import targets
from .losses import Inputs
from .settings import DistillObjectiveConfig
from .teacher_evaluation import compare


@dataclass(frozen=True)
class AgreementConfig:
    """Settings of `rewardjax analyze agreement`."""

    reward_model: str
    """folder of a trained reward model, the student"""
    teacher: str
    """folder of another one of the same LM, such as a RAD"""
    texts: str
    """file of texts: .txt (a text per line), .jsonl, .csv, .tsv (each also as .gz) or .parquet"""
    out: str | None = None
    """JSON file of the results; unset: they are printed only"""
    lm: str = "smollm2-135m"
    """the frozen LM that both belong to"""
    lm_dtype: Literal["float32", "bfloat16"] = "float32"
    """of the LM"""
    text_field: str = "text"
    """column of the text; a.b looks inside nested JSON"""
    num_texts: int = 500
    """texts drawn from the file"""
    num_candidates: int = 8
    """the LM's most probable tokens at each position, beside the observed one"""
    batch_size: int = 16
    """texts at once: memory and speed only"""
    seed: int = 0
    """draws the texts"""
    overwrite: bool = False
    """replace --out"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        AgreementConfig,
        argv,
        prog="rewardjax analyze agreement",
        description="How near a reward model is to another one, token by token.",
    )
    out = Path(config.out) if config.out else None
    if out is not None and out.exists() and not config.overwrite:
        raise RewardJaxError(f"--out {config.out!r} exists; pass --overwrite to replace it")
    began = time.monotonic()
    found = run(config)
    print_table(table(found))
    if out is not None:
        result = {
            "command": " ".join(["rewardjax analyze agreement", *map(shlex.quote, argv)]),
            "versions": versions(),
            "settings": to_plain(config),
            "texts": config.num_texts,
            "seconds": round(time.monotonic() - began, 1),
            **{name: _finite(metrics) for name, metrics in found.items()},
        }
        write_text(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
        print(f"written to {out}")
    return 0


def run(config: AgreementConfig) -> dict[str, dict[str, float]]:
    """`observed` and `candidates` → the metrics of `agreement`.

    Raises:
      RewardJaxError: too few texts, or reward models that cannot be compared.
    """
    for name in ("num_texts", "num_candidates"):
        if getattr(config, name) < 1:
            raise RewardJaxError(f"{name} is {getattr(config, name)}; expected at least 1")
    if not 0 <= config.seed < 2**32:
        raise RewardJaxError(f"seed is {config.seed}; expected an integer in 0 .. 2^32 - 1")
    texts = read_texts(config.texts, config.text_field)
    if len(texts) < config.num_texts:
        raise RewardJaxError(
            f"{config.texts!r} has {len(texts)} texts; expected at least num_texts ="
            f" {config.num_texts}"
        )
    drawn = np.random.default_rng(config.seed).permutation(len(texts))[: config.num_texts]
    student, teacher = map(load_reward_model, (config.reward_model, config.teacher))
    opened = open_lm(config.lm, dtype=config.lm_dtype)
    for trained in (student, teacher):
        architecture(trained.config, opened)  # refuses before the weights are read
    objectives = {
        "observed": DistillObjectiveConfig("observed"),
        "candidates": DistillObjectiveConfig("candidates", config.num_candidates),
    }
    targets.check_candidates(objectives["candidates"], opened.config)
    lm = opened.load()
    return {
        name: agreement(
            lm,
            student,
            teacher,
            [texts[i] for i in sorted(drawn)],
            objective,
            batch_size=config.batch_size,
        )
        for name, objective in objectives.items()
    }


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN, the correlation with a constant."""
    return {name: x if math.isfinite(x) else None for name, x in metrics.items()}


def table(found: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Errors and correlations on each kind of tokens."""
    columns = {
        "distillation_error": ("squared error", "of rewards"),
        "distillation_r2": ("R²", ""),
        "distillation_pearson": ("Pearson", ""),
        "delta_pearson": ("Pearson", "minus each position's mean"),
    }
    rows = [
        (Cell(name), *(Cell(number(metrics.get(f"eval/{key}"), 4)) for key in columns))
        for name, metrics in found.items()
    ]
    heads = (Cell("tokens"), *(Cell(*head) for head in columns.values()))
    return Table(heads, tuple(rows))


def agreement(
    lm: LM,
    student: TrainedRewardModel,
    teacher: TrainedRewardModel,
    texts: Sequence[str],
    objective: DistillObjectiveConfig | None = None,
    *,
    dtype: str = "float32",
    batch_size: int = 16,
) -> dict[str, float]:
    """`eval/distillation_error` and the rest of `teacher_evaluation.compare`, on these texts.

    Args:
      objective: which tokens are compared; by default 8 candidates of the LM and the observed one.
      dtype: how hidden states of the LM are kept on disk.

    Raises:
      RewardJaxError: models of another LM or with other outputs; a text that is empty or too long.
    """
    objective = objective or DistillObjectiveConfig("candidates")
    if student.config.outputs != teacher.config.outputs:
        raise RewardJaxError(
            f"the student has {student.config.outputs} outputs and the teacher "
            f"{teacher.config.outputs}; expected the same number"
        )
    (model, params), bound = student.bind(lm), teacher.bind(lm)
    first = max(model.first_scored, bound[0].first_scored)
    found = examples.from_memory(texts, np.zeros(len(texts)), DataConfig(constant_label=0.0))
    found, tokens = batches.tokenize(
        found,
        lm.tokenizer,
        context=min(longest_text(lm, student), longest_text(lm, teacher)),
        shortest=first + 1,
    )
    states = None
    if model.layers:
        states = features.load_or_compute(lm, tokens, model.layers, dtype=dtype)
    taught = targets.load_or_compute(
        lm, teacher, bound, objective, tokens, dtype=dtype, states=states
    )

    def inputs_of(batch: Batch) -> Inputs:
        hidden = states.batch(batch.ids, batch.tokens.shape[1]) if states else {}
        return Inputs(batch.tokens, batch.lengths, batch.labels, hidden, *taught.batch(batch))

    rows = batches.ordered_batches(
        np.arange(len(tokens)), tokens, found.labels, batch_size=batch_size
    )
    return compare(model, params, objective, rows, inputs_of, first)
