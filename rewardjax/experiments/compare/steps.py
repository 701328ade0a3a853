"""The later steps of a comparison: decode, evaluate, choose β. Each is made once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardjax.config import from_dict
from rewardjax.data.generations import read_rows
from rewardjax.experiments.compare.programs import program_of
from rewardjax.experiments.compare.published import Published
from rewardjax.experiments.compare.settings import (
    ArmConfig,
    CompareConfig,
    ModelConfig,
    strengths,
)
from rewardjax.experiments.compare.trainings import Trainings
from rewardjax.experiments.workspace import Workspace
from rewardjax.lm import LM, load_lm
from rewardjax.metrics.evaluation import evaluate
from rewardjax.metrics.scorers import Scorer, load_scorers
from rewardjax.oracle import OracleConfig, as_scorer
from rewardjax.progress import bar
from rewardjax.report.write import write_text

PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class Cell:
    """Texts of one arm under one reward model at one strength."""

    arm: ArmConfig
    model: ModelConfig | None
    """None: unguided"""
    seed: int
    beta: float
    full: bool = False
    """of the full protocol"""


class Steps(Trainings):
    """Everything that is made in one workspace. Judges and LMs are loaded when first needed."""

    def __init__(self, config: CompareConfig, work: Workspace) -> None:
        super().__init__(config, work)
        self.published = Published(config, work.id, work.inputs)
        self._scorers: list[Scorer] | None = None
        self._judge_lm: LM | None = None

    # Decoding

    def texts(self, cell: Cell) -> Path:
        """JSONL of a cell's texts."""
        return self.work.place("texts", _name(cell), self._behind(cell), ".jsonl")

    def decode(self, cell: Cell) -> None:
        """Decode a cell's texts."""
        out = self.texts(cell)
        if cell.model is not None and not out.exists():
            self.train(cell.model, cell.seed)
        argv = [word for flag, values in self._decoding(cell) for word in (f"--{flag}", *values)]
        argv += ["--out", str(out), "--resume"]
        self.work.command(out, ("decode", "guided"), argv)

    def _decoding(self, cell: Cell) -> list[tuple[str, list[str]]]:
        config, protocol, arm = self.config, self.config.protocol, cell.arm
        samples = protocol.full_samples if cell.full else protocol.samples
        count = protocol.full_prompts if cell.full else protocol.prompts
        makes_lm = cell.model is not None and program_of(cell.model).makes_lm
        lm = str(self.trained(cell.model, cell.seed)) if cell.model and makes_lm else config.lm
        flags = [
            ("lm", [lm]),
            ("dtype", [config.dtype]),
            ("prompts", [arm.prompts]),
            ("prompt-field", [arm.prompt_field]),
            *([("where", list(arm.where))] if arm.where else []),
            ("shuffle-seed", [str(protocol.prompt_seed)]),
            # The full protocol's prompts are others than those β was chosen on.
            ("offset", [str(protocol.prompts if cell.full else 0)]),
            ("limit", [str(count)]),
            ("top-k", [str(config.top_k)]),
            ("num-samples", [str(samples)]),
            ("max-new-tokens", [str(protocol.max_new_tokens)]),
            ("batch-size", [str(protocol.batch_size)]),
        ]
        if cell.model is not None and not makes_lm:
            flags += [
                ("reward-model", [str(self.trained(cell.model, cell.seed))]),
                ("beta", [f"{cell.beta:g}"]),
                *([("link", [cell.model.link])] if cell.model.link else []),
                *([("invert", [])] if _inverts(cell.model, arm) else []),
            ]
        return flags

    def _behind(self, cell: Cell) -> list[tuple[str, list[str]]]:
        """What a cell's texts depend on: no text depends on how many are decoded at once."""
        return [flag for flag in self._decoding(cell) if flag[0] != "batch-size"]

    # Evaluation

    def numbers(self, cell: Cell) -> Path:
        """JSON of a cell's metrics, with the values of each prompt."""
        config = self.config
        behind = [
            self._behind(cell),
            list(config.scorers),
            config.perplexity_lm,
            config.protocol.perplexity_samples,
            *([config.oracles] if config.oracles else []),
        ]
        return self.work.place("numbers", _name(cell), behind, ".json")

    def evaluate(self, cell: Cell) -> None:
        """Measure a cell's texts."""
        out, texts, config = self.numbers(cell), self.texts(cell), self.config

        def make() -> None:
            rows = read_rows(texts)
            if self._scorers is None:
                self._scorers = judges(config)
            if self._judge_lm is None and config.perplexity_lm is not None:
                self._judge_lm = load_lm(config.perplexity_lm)
            with bar("perplexity", len(rows)) as advance:
                metrics = evaluate(
                    rows,
                    self._scorers,
                    lm=self._judge_lm,
                    perplexity_name=PERPLEXITY,
                    perplexity_samples=config.protocol.perplexity_samples,
                    progress=advance,
                )
            record = {}
            for key, metric in metrics.items():
                values, weights = metric.per_prompt or (np.zeros(0), None)
                record[key] = metric.to_dict() | {
                    "values": [round(float(x), 6) if np.isfinite(x) else None for x in values],
                    "weights": None if weights is None else weights.tolist(),
                }
            found = {
                "prompts": len({row.prompt_index for row in rows}),
                "texts": len(rows),
                "tokens": sum(len(row.token_ids or ()) for row in rows),
                "metrics": record,
            }
            write_text(out, json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")

        words = ["rewardjax evaluate", str(texts), "--scorers", *config.scorers]
        if config.perplexity_lm is not None:
            words += ["--perplexity-lm", config.perplexity_lm]
            if config.protocol.perplexity_samples is not None:
                words += ["--perplexity-samples", str(config.protocol.perplexity_samples)]
        self.work.once(out, " ".join(words), make)

    def measured(self, cell: Cell) -> dict[str, Any] | None:
        """A cell's numbers, or None as long as neither this workspace nor another made them."""
        path = self.numbers(cell)
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        name = cell.model.name if cell.model else None
        return self.published.cell(cell.arm.name, name, cell.seed, cell.beta, cell.full)

    def cell(self, cell: Cell) -> None:
        """Decode and measure, unless another workspace has."""
        if self.numbers(cell).is_file() or self.measured(cell) is None:
            self.decode(cell)
            self.evaluate(cell)

    # What follows from numbers

    def chosen_beta(self, arm: ArmConfig, model: ModelConfig) -> float | None:
        """The β of the grid with the best attribute among those that keep the texts fluent.

        Fluent: at most `arm.most_perplexity` times the unguided perplexity, on the curve's prompts
        and first seed. The weakest β when none is; None while the curve is unfinished.
        """
        seed = self.config.seeds[0]
        plain = self.measured(Cell(arm, None, seed, 0.0))
        betas = strengths(self.config, arm, model)
        curve = {beta: self.measured(Cell(arm, model, seed, beta)) for beta in betas}
        if plain is None or any(numbers is None for numbers in curve.values()):
            return None
        limit = arm.most_perplexity * _value(plain, PERPLEXITY, missing=np.inf)
        sign = 1 if arm.higher_is_better else -1
        best = min(betas)
        score = -np.inf
        for beta, numbers in sorted(curve.items()):
            assert numbers is not None
            value = sign * _value(numbers, arm.metric, missing=-sign * np.inf)
            # Texts of which none has a perplexity below the limit of 1e5 are not fluent.
            lost = np.inf if PERPLEXITY in numbers["metrics"] else 0.0
            if _value(numbers, PERPLEXITY, missing=lost) <= limit and value > score:
                best, score = beta, value
        return best


def judges(config: CompareConfig) -> list[Scorer]:
    """What the texts are judged by: scorers, and oracles as scorers.

    Raises:
      RewardJaxError: as `load_scorer` and `open_oracle`.
    """
    oracles = [
        as_scorer(name, from_dict(OracleConfig, fields, source=f"oracle {name!r}"))
        for name, fields in config.oracles.items()
    ]
    return [*load_scorers(config.scorers), *oracles]


def _value(numbers: dict[str, Any], key: str, *, missing: float) -> float:
    """A metric's value, or `missing` where it was not measured or nothing was left to measure."""
    value = numbers["metrics"].get(key, {}).get("value")
    return missing if value is None else value


def _inverts(model: ModelConfig, arm: ArmConfig) -> bool:
    return arm.invert if model.invert is None else model.invert


def _name(cell: Cell) -> str:
    what = f"guided-s{cell.seed}-b{cell.beta:g}" if cell.model else "unguided"
    return f"{cell.arm.name}-{what}" + ("-full" if cell.full else "")
