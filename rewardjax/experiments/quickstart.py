"""`rewardjax quickstart`: train a reward head on human ratings, steer with it, show the effect.

It chains the same commands a user would type (they are printed and stand on the page), and keeps
every file they write. A second run takes over what is there and was made with the same settings.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import resource
import shlex
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rewardjax.cli import program
from rewardjax.config import parse, to_plain
from rewardjax.data.generations import Row, read_rows
from rewardjax.data.vader import load_vader_ratings
from rewardjax.errors import RewardJaxError, require
from rewardjax.experiments.prompts import PROMPTS
from rewardjax.export import architecture
from rewardjax.lm import LM, load_lm, open_lm
from rewardjax.metrics.evaluation import Metric, count_text, evaluate
from rewardjax.metrics.scorers import load_scorers
from rewardjax.progress import bar
from rewardjax.report.metrics import metrics_table
from rewardjax.report.table import print_table
from rewardjax.report.write import write_text
from rewardjax.rewards import RewardModelConfig

SCORERS = ("vader", "textblob", "alt-profanity-check")
HEADLINE = "vader.positive_rate"
PERPLEXITY = "self-perplexity"
MARKER = "quickstart.json"
"""Its settings; says that a folder is a quickstart's, so that old results in it may make way."""


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Settings of `rewardjax quickstart`; the defaults take a few minutes on two cores."""

    out: str = "runs/quickstart"
    """folder for everything it writes"""
    lm: str = "smollm2-135m"
    """the frozen LM"""
    layer: int = 20
    """the LM's layer whose hidden states the reward head reads"""
    texts: int = 3000
    """rated texts, drawn by the seed; a tenth of them is held out"""
    steps: int = 200
    """training steps"""
    beta: float = 40.0
    """guidance strength, up and down; the plot also has half of it"""
    num_prompts: int = len(PROMPTS)
    """prompts, of our own"""
    num_samples: int = 5
    """continuations per prompt and strength"""
    max_new_tokens: int = 20
    """tokens per continuation"""
    seed: int = 0
    """of everything"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the page is made of."""

    config: QuickstartConfig
    folder: Path
    lm: LM
    commands: list[str]
    rows: dict[float, list[Row]]
    """signed beta -> generated rows"""
    metrics: dict[float, dict[str, Metric]]
    history: list[dict[str, Any]]
    """rows of the training's metrics.jsonl"""
    seconds: dict[str, float]
    """wall-clock time of each stage, in the run that did it"""
    versions: dict[str, str]
    passed: bool


def main(argv: list[str]) -> int:
    """Run the command. Returns 0 when the effect shows beyond its intervals, 1 otherwise."""
    config = parse(
        QuickstartConfig,
        argv,
        prog="rewardjax quickstart",
        description="Train a reward head on human ratings, steer a frozen LM with it, report.",
    )
    _check(config)
    for module in ("vaderSentiment", "textblob", "profanity_check"):
        require(module, "eval")
    outcome = run(config)
    from rewardjax.experiments.quickstart_page import print_samples, write

    shown = {label(beta): outcome.metrics[beta] for beta in (config.beta, 0.0, -config.beta)}
    counts = {label(beta): count_text(rows) for beta, rows in outcome.rows.items()}
    print_samples(outcome)
    print_table(metrics_table(shown, counts=counts))
    page = write(outcome)
    _write_results(outcome)
    passed = "shows" if outcome.passed else "does NOT show"
    print(f"The effect {passed} beyond the 95% intervals of the positive rate (VADER).")
    stages = ", ".join(f"{stage} {spent:.0f} s" for stage, spent in outcome.seconds.items())
    print(f"{stages}; peak memory {_peak_memory_gib():.1f} GiB")
    print(f"report: {page}")
    return 0 if outcome.passed else 1


def run(config: QuickstartConfig) -> Outcome:
    """Train, decode at five strengths, evaluate. Files go to `config.out`."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    before = _claim(folder, config)
    seconds: dict[str, float] = {}
    commands: list[str] = []

    def timed(stage: str, began: float) -> None:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - began

    def command(stage: str, words: tuple[str, ...], argv: list[str], *, done: bool) -> None:
        commands.append(" ".join(["rewardjax", *words, *map(shlex.quote, argv)]))
        _say(f"$ {commands[-1]}" + (" (done before)" if done else ""))
        began = time.monotonic()
        if done:
            seconds.setdefault(stage, before.get(stage, 0.0))
        else:
            program(*words)(argv)
            timed(stage, began)

    began = time.monotonic()
    _write_ratings(folder / "ratings.jsonl", config)
    write_text(folder / "prompts.txt", "\n".join(PROMPTS[: config.num_prompts]) + "\n")
    timed("ratings", began)

    reward_model = folder / "train" / "reward_model"
    command(
        "training",
        ("train", "reward-model"),
        _training_arguments(folder, config),
        done=reward_model.is_dir(),
    )
    betas = [-config.beta, -config.beta / 2, 0.0, config.beta / 2, config.beta]
    rows = {}
    for beta in betas:
        out = folder / f"beta_{beta:+g}.jsonl"
        argv = _decoding_arguments(folder, config, beta, out)
        command("decoding", ("decode", "guided"), argv, done=out.is_file())
        rows[beta] = read_rows(out)

    began = time.monotonic()
    lm = load_lm(config.lm)
    metrics = _evaluate(lm, rows)
    timed("evaluation", began)
    history = [json.loads(x) for x in (folder / "train" / "metrics.jsonl").read_text().splitlines()]
    up, plain, down = (metrics[b][HEADLINE].interval for b in (config.beta, 0.0, -config.beta))
    passed = up.above(plain) and plain.above(down)
    return Outcome(
        config, folder, lm, commands, rows, metrics, history, seconds, _versions(), passed
    )


def label(beta: float) -> str:
    """How a signed strength is called in tables and on the page."""
    if beta == 0:
        return "unguided"
    return f"guided {'up' if beta > 0 else 'down'}, β = {abs(beta):g}"


def _check(config: QuickstartConfig) -> None:
    least = {"texts": 20, "steps": 1, "num_prompts": 1, "num_samples": 1, "max_new_tokens": 1}
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            got = getattr(config, name)
            raise RewardJaxError(f"{name} is {got}; expected at least {smallest}")
    if not 0 <= config.seed < 2**32:
        raise RewardJaxError(f"seed is {config.seed}; expected an integer in 0 .. 2^32 - 1")
    if config.num_prompts > len(PROMPTS):
        raise RewardJaxError(f"num_prompts is {config.num_prompts}; there are {len(PROMPTS)}")
    if not 0 < config.beta <= 1e6:
        raise RewardJaxError(f"beta is {config.beta}; expected a number above 0, up to 1e6")
    architecture(RewardModelConfig(layer=config.layer), open_lm(config.lm))


def _claim(folder: Path, config: QuickstartConfig) -> dict[str, float]:
    """Takes the folder for these settings; results of other settings or versions make way.

    Returns the seconds that each stage of an earlier run with these settings took.
    """
    settings = {**to_plain(config), "rewardjax": version("rewardjax")}
    del settings["out"]
    path = folder / MARKER
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) == settings:
            results = folder / "results.json"
            return json.loads(results.read_text())["seconds"] if results.is_file() else {}
    elif any(folder.iterdir()):
        raise RewardJaxError(
            f"--out {str(folder)!r} is not empty and no quickstart's; name another folder"
        )
    shutil.rmtree(folder / "train", ignore_errors=True)
    for old in (*folder.glob("beta_*.jsonl*"), folder / "results.json"):
        old.unlink(missing_ok=True)
    write_text(path, json.dumps(settings, indent=2) + "\n")
    return {}


def _write_ratings(path: Path, config: QuickstartConfig) -> None:
    ratings = load_vader_ratings()
    chosen = np.random.default_rng(config.seed).permutation(len(ratings.texts))[: config.texts]
    lines = (
        {"id": ratings.ids[i], "text": ratings.texts[i], "rating": float(ratings.ratings[i])}
        for i in sorted(chosen)
    )
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _training_arguments(folder: Path, config: QuickstartConfig) -> list[str]:
    given: dict[str, Any] = {
        "run-dir": folder / "train",
        "lm": config.lm,
        "seed": config.seed,
        "data.path": folder / "ratings.jsonl",
        "data.labels": "rating",
        "data.max-length": 48,
        "reward-model.layer": config.layer,
        "features.dtype": "bfloat16",
        "objective.prior-weight": 3.0,
        "optim.batch-size": 64,
        "optim.learning-rate": 3e-4,
        "optim.steps": config.steps,
        "optim.weight-decay": 0.1,
    }
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*flags, "--resume"] if (folder / "train" / "config.yaml").is_file() else flags


def _decoding_arguments(
    folder: Path, config: QuickstartConfig, beta: float, out: Path
) -> list[str]:
    given: dict[str, Any] = {
        "lm": config.lm,
        "reward-model": folder / "train" / "reward_model",
        "prompts": folder / "prompts.txt",
        "beta": abs(beta),
        "num-samples": config.num_samples,
        "max-new-tokens": config.max_new_tokens,
        "seed": config.seed,
        "out": out,
    }
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*flags, *(["--invert"] if beta < 0 else []), "--resume"]


def _evaluate(lm: LM, rows: dict[float, list[Row]]) -> dict[float, dict[str, Metric]]:
    scorers = load_scorers(SCORERS)
    with bar("evaluation", sum(map(len, rows.values()))) as advance:
        return {
            beta: evaluate(part, scorers, lm=lm, perplexity_name=PERPLEXITY, progress=advance)
            for beta, part in rows.items()
        }


def _write_results(outcome: Outcome) -> None:
    record = {
        "settings": to_plain(outcome.config),
        "versions": outcome.versions,
        "commands": outcome.commands,
        "seconds": outcome.seconds,
        "peak_memory_gib": _peak_memory_gib(),
        "effect_beyond_intervals": outcome.passed,
        "results": [
            {
                "beta": beta,
                "label": label(beta),
                "continuations": len(outcome.rows[beta]),
                "metrics": {key: metric.to_dict() for key, metric in metrics.items()},
            }
            for beta, metrics in outcome.metrics.items()
        ],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(outcome.folder / "results.json", text)


def _versions() -> dict[str, str]:
    packages = ("rewardjax", "jax", "flax", "optax", "transformers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _peak_memory_gib() -> float:
    """Largest resident size of this process so far (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def _say(text: str) -> None:
    Console(highlight=False, markup=False, soft_wrap=True).print(text, style="dim")
