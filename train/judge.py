"""Fit a judge of sentiment or toxicity on labelled texts: `rewardjax train judge`.

Texts are encoded once by a frozen sentence encoder; a logistic regression is fitted on the vectors
and kept with what it was fitted on and how well it tells held-out texts apart.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from rewardjax.config import parse
from rewardjax.data import sources
from rewardjax.data.examples import split
from rewardjax.data.sources import Labelled, SourceConfig
from rewardjax.errors import RewardJaxError, require
from rewardjax.metrics.encoder import load_encoder
from rewardjax.metrics.judge import Judge, JudgeKind, fit, quality, save_judge
from rewardjax.metrics.scorers import Scorer, load_scorers
from rewardjax.report.table import Cell, Table, interval, number, print_table

Sources = Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress]


@dataclass(frozen=True)
class JudgeConfig:
    """Fit a judge of texts. Sources and tests are named in the YAML file."""

    kind: JudgeKind = "sentiment"
    """sentiment: texts are scored 2p − 1, positive above 0; toxicity: p, toxic from .5."""
    out: str = "runs/judge"
    """The folder to write: judge.json and weights.safetensors."""
    name: str = ""
    """What tables call it. Unset: sentiment-judge or toxicity-judge."""
    encoder: str = "all-minilm-l6-v2"
    """The frozen encoder: this name, or the folder of any sentence-transformers model."""
    sources: Sources = field(default_factory=dict)
    """In YAML: name → the settings of `data` for a reward model, and file, texts, threshold,
    margin."""
    tests: Sources = field(default_factory=dict)
    """In YAML: texts to judge the judge by, never fitted on. Those without a path are left out."""
    files: tuple[str, ...] = ()
    """NAME=PATH for sources and tests whose paths the YAML file does not say."""
    beside: tuple[str, ...] = ()
    """Other scorers to put beside the judge on the same texts."""
    remark: str = ""
    """Said of the judge under every table, such as what it was not fitted on."""
    held_out: float = 0.1
    """Share of the texts kept to measure it, drawn by the seed."""
    choices: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    """Values of the inverse regularisation C, chosen by cross-validation within the rest."""
    folds: int = 5
    """Folds of the cross-validation."""
    balance: bool = True
    """Weigh the two classes alike, whatever their counts."""
    seed: int = 0
    """Decides which texts are held out."""
    overwrite: bool = False
    """Replace a judge in `out`."""


def check(config: JudgeConfig) -> None:
    """Refuse settings that cannot mean anything. Raises RewardJaxError naming the field."""
    if not config.sources:
        raise RewardJaxError(
            "sources is empty; expected at least one source of labelled texts in the YAML file, "
            "such as configs/judge_toxicity.yaml"
        )
    if not 0 < config.held_out < 1:
        raise RewardJaxError(f"held_out is {config.held_out}; expected 0 < held_out < 1")
    if not config.choices or not all(0 < c < math.inf for c in config.choices):
        raise RewardJaxError(f"choices is {list(config.choices)}; expected values above 0")
    if config.folds < 2 or config.seed < 0:
        raise RewardJaxError(
            f"folds is {config.folds} and seed {config.seed}; expected at least 2 and at least 0"
        )
    out = Path(config.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "judge.json").exists()):
        raise RewardJaxError(f"out {config.out!r} holds something else; choose another folder")
    if (out / "judge.json").exists() and not config.overwrite:
        raise RewardJaxError(
            f"out {config.out!r} holds a judge; choose another, or pass --overwrite to replace it"
        )


def train_judge(config: JudgeConfig) -> Judge:
    """Read the sources, fit, measure and save a judge.

    Returns:
      The judge as saved. Its `record` has "held_out" and "tests": for each scorer AUC with its
      95% bootstrap interval over texts, accuracy and n.

    Raises:
      RewardJaxError: bad settings or data, cheapest checks first.
    """
    check(config)
    given = sources.parse_sources(config.sources, config.files, "sources")
    tests = sources.parse_sources(config.tests, config.files, "tests")
    sources.check_files(config.files, given, tests)
    missing = [x.file or name for name, x in given.items() if not (x.path or x.hub or x.dataset)]
    if missing:
        wanted = " ".join(f"{name}=PATH" for name in dict.fromkeys(missing))
        raise RewardJaxError(f"sources without a file; give them with --files {wanted}")
    require("sklearn", "judges")
    beside = load_scorers(config.beside)
    parts = {name: _read("sources", name, source, config) for name, source in given.items()}
    measured = {
        name: _read("tests", name, test, config)
        for name, test in tests.items()
        if test.path or test.hub
    }
    every = sources.join(list(parts.values()))
    groups = sources.group(every.texts, every.ids)
    train_rows, held_rows = split([str(x) for x in groups], config.held_out, config.seed)
    encoder = load_encoder(config.encoder)
    vectors = encoder(every.texts, "encoding")
    weights, bias, record = fit(
        vectors[train_rows],
        every.labels[train_rows],
        groups[train_rows],
        choices=config.choices,
        folds=config.folds,
        balance=config.balance,
    )
    judge = Judge(
        name=config.name or f"{config.kind}-judge",
        kind=config.kind,
        encoder={
            "spec": config.encoder,
            "name": encoder.name,
            "version": encoder.version,
            "sha256": encoder.sha256,
        },
        weights=weights,
        bias=bias,
        fitted_on=[sources.describe(n, given[n], part) for n, part in parts.items()],
        remark=config.remark,
    )
    own = Scorer(
        judge.name,
        judge.version,
        judge.kind,
        lambda texts: judge.scores(judge.probability(encoder(texts, judge.name))),
    )
    held = Labelled(
        [every.texts[i] for i in held_rows],
        every.labels[held_rows],
        [every.ids[i] for i in held_rows],
    )
    fitted = {every.texts[i] for i in train_rows}
    record |= {
        "rewardjax": version("rewardjax"),
        "seed": config.seed,
        "balance": config.balance,
        "train_texts": len(train_rows),
        "held_out": _measure([own, *beside], held, fitted),
        "tests": {
            name: {
                **sources.describe(name, tests[name], part),
                "scorers": _measure([own, *beside], part, fitted),
            }
            for name, part in measured.items()
        },
    }
    judge = dataclasses.replace(judge, record=record)
    save_judge(judge, config.out)
    return judge


def _read(section: str, name: str, source: SourceConfig, config: JudgeConfig) -> Labelled:
    try:
        part = sources.read_source(source, config.seed)
    except RewardJaxError as error:
        raise RewardJaxError(f"{section}.{name}: {error}") from error
    if not len(part):
        raise RewardJaxError(f"{section}.{name}: no label is as far from the threshold as margin")
    return part


def _measure(scorers: list[Scorer], part: Labelled, fitted: set[str]) -> dict[str, Any]:
    """Scorer → AUC, its interval, accuracy, n; on the texts that were not fitted on."""
    rows = [i for i, text in enumerate(part.texts) if text not in fitted]
    texts, labels = [part.texts[i] for i in rows], part.labels[rows]
    results: dict[str, Any] = {}
    for scorer in scorers if rows else ():
        scores = scorer(texts)
        called = scores > 0 if scorer.kind == "sentiment" else scores >= 0.5
        area, accuracy = quality(scores, labels, called)
        numbers = {"auc": area.value, "low": area.low, "high": area.high}
        results[scorer.name] = {
            "version": scorer.version,
            **{key: x if math.isfinite(x) else None for key, x in numbers.items()},
            "accuracy": accuracy,
            "texts": len(rows),
            "positive": int(np.sum(labels)),
        }
    return results


def quality_table(judge: Judge) -> Table:
    """AUC and accuracy of the judge, and of the scorers beside it, on each set of texts."""
    sets = {"held out": judge.record["held_out"]}
    sets |= {name: test["scorers"] for name, test in judge.record["tests"].items()}
    rows = []
    for name, results in sets.items():
        for scorer, result in results.items():
            area = interval(result["auc"], result["low"], result["high"])
            texts = Cell(f"{result['texts']:,}", f"{result['positive']:,} positive")
            rows.append((Cell(name, scorer), area, Cell(number(result["accuracy"])), texts))
    columns = (Cell("texts", "scorer"), Cell("AUC"), Cell("accuracy"), Cell("n"))
    caption = f"{judge.name}: {judge.note}. {judge.version}. C = {judge.record['C']:g}, chosen by "
    return Table(columns, tuple(rows), caption=caption + "cross-validation. 95% intervals")


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        JudgeConfig,
        argv,
        prog="rewardjax train judge",
        description="Fit a sentence-encoder judge on labelled texts of your own.",
        yaml_positional=True,
    )
    judge = train_judge(config)
    print_table(quality_table(judge))
    print(f"wrote {config.out}")
    return 0
