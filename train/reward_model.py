"""Train a reward model on labelled texts: `rewardjax train reward-model`, or `train` in Python.

A run directory holds config.yaml (all settings), metrics.jsonl, checkpoints/ and, at the end,
reward_model/. A run that was stopped continues bit for bit as if it had not been.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardjax import config as settings_file
from rewardjax import progress
from rewardjax.checkpoint import Checkpoints
from rewardjax.data.batches import Batch, ordered_batches, training_batches
from rewardjax.data.settings import fill
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel, save_reward_model
from rewardjax.lm import LM
from rewardjax.rewards import RewardParams

from . import settings
from .evaluation import evaluate, predict
from .logs import MetricsLog, plain
from .run import Run, check_directory, prepare
from .settings import TrainConfig
from .signals import stop_request
from .step import StepMetrics, new_state, optimizer, train_step

LINKS = {"mse": "clip", "bce": "sigmoid"}
"""Objective → how decoding turns raw rewards into [0, 1]."""


@dataclass(frozen=True)
class Result:
    """What a finished run leaves behind."""

    run_dir: Path
    reward_model: TrainedRewardModel
    """as saved in run_dir/reward_model; `bind(lm)` makes it usable"""
    metrics: dict[str, Any]
    """the evaluation of what was exported: `eval/squared_error` …; empty without held-out texts,
    None where a metric is undefined"""
    history: list[dict[str, Any]]
    """the rows of metrics.jsonl"""
    step: int
    """number of updates made"""
    skipped: tuple[str, ...]
    """texts left out, each with file, line and reason"""


def train(
    config: TrainConfig, *, lm: LM | None = None, texts: Any = None, labels: Any = None
) -> Result:
    """Train a reward model and save it.

    Args:
      config: all settings; `config.run_dir` must be new, or hold the run to `resume`.
      lm: a loaded LM to use instead of loading `config.lm`.
      texts, labels: N texts and labels [N] or [N, A] in memory, instead of `config.data.path`;
        labels are scaled by `config.data.label_min` and `label_max` as those of a file.

    Raises:
      RewardJaxError: bad settings or data; a non-finite loss (the parameters stay those before).
      KeyboardInterrupt, SystemExit(143): Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    settings.check(config)
    # config.yaml says what was read, even where a later version knows the data set otherwise.
    config = dataclasses.replace(config, data=fill(config.data))
    if (texts is None) != (labels is None):
        raise RewardJaxError("train needs texts and labels together, or neither of them")
    if lm is not None:
        config = dataclasses.replace(config, lm=lm.source)
    check_directory(config)
    run = prepare(config, lm, texts, labels)
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / "config.yaml").write_text(settings_file.to_yaml(config), encoding="utf-8")
    return _Trainer(run).train()


class _Trainer:
    """The objects with identity of one run: data iterator, checkpoints, log."""

    def __init__(self, run: Run) -> None:
        config, optim = run.config, run.config.optim
        data = (run.tokens, run.examples.labels)
        self.run = run
        self.batches, self.epoch = training_batches(
            run.train_rows, *data, batch_size=optim.batch_size, seed=config.seed
        )
        self.eval_batches = []
        if len(run.eval_rows):
            self.eval_batches = ordered_batches(run.eval_rows, *data, batch_size=optim.batch_size)
        self.steps = optim.steps or max(1, round(optim.epochs * self.epoch))
        self.eval_every = config.eval.every or self.epoch
        self.save_every = config.checkpoint.every or self.eval_every
        self.state = new_state(run.params.trainable, optimizer(optim, self.steps), config.seed)
        self.metrics: dict[str, Any] = {}
        self._clock, self._pace = time.perf_counter(), (0.0, 0.0)

    def train(self) -> Result:
        run, checkpoint = self.run, self.run.config.checkpoint
        directory = run.directory / "checkpoints"
        with Checkpoints(directory, every=self.save_every, keep=checkpoint.keep) as checkpoints:
            step = self._restore(checkpoints) if checkpoints.steps else 0
            log = MetricsLog(run.directory, after=step if step else -1)
            try:
                self._loop(step, checkpoints, log)
            finally:
                log.close()
            trainable = self.state.trainable
            if checkpoint.export == "best" and checkpoints.best is not None:
                checkpoints.wait()
                _, best, note = checkpoints.restore(self.state, checkpoints.best)
                trainable, self.metrics = best.trainable, note["metrics"]
        reward_model = save_reward_model(
            run.directory / "reward_model",
            run.config.reward_model,
            trainable,
            run.lm,
            link=LINKS[run.config.objective.name],
            transformer=run.model.transformer,
            backbone_fingerprint=run.backbone_fingerprint,
        )
        skipped = run.examples.skipped
        made = max(step, self.steps)  # a finished run may be resumed with fewer
        return Result(run.directory, reward_model, self.metrics, log.rows, made, skipped)

    def _restore(self, checkpoints: Checkpoints) -> int:
        step, self.state, note = checkpoints.restore(self.state)
        if note.get("identity") != self.run.identity:
            raise RewardJaxError(
                f"cannot continue {str(self.run.directory)!r}: its LM or its texts are not those "
                "it was trained on so far; use them, or choose another --run-dir"
            )
        self.batches.set_state(note["iterator"])
        self.metrics = note["metrics"]
        return step

    def _loop(self, step: int, checkpoints: Checkpoints, log: MetricsLog) -> None:
        pending: tuple[int, StepMetrics, Batch] | None = None
        if step == 0:
            log.write(0, self._sizes() | self._evaluate())
        with (
            stop_request() as stop,
            progress.bar("training", self.steps, done=step) as advance,
        ):
            self._clock = time.perf_counter()
            while step < self.steps:
                batch = next(self.batches)
                metrics = self._step(batch)
                step += 1
                # Step n is dispatched: now wait for the numbers of step n - 1.
                if pending:
                    self._log(*pending, log, advance)
                pending = (step, metrics, batch)
                last = step == self.steps or stop.signum is not None
                saves = step % self.save_every == 0
                # What is saved is evaluated too, so that the best is the best of all that is kept.
                evaluates = step % self.eval_every == 0 or saves or step == self.steps
                if last or evaluates:
                    self._log(*pending, log, advance)
                    pending = None
                    values = self._evaluate() if evaluates else {}
                    if values:
                        log.write(step, values)
                    self._save(step, checkpoints, values, force=last)
                if stop.signum is not None:
                    checkpoints.wait()
                    stop.raise_if_asked()

    def _step(self, batch: Batch) -> StepMetrics:
        config, run = self.run.config, self.run
        self.state, metrics = train_step(
            self.state,
            run.params.frozen,
            batch.tokens,
            batch.lengths,
            batch.labels,
            run.hidden(batch),
            model=run.model,
            objective=config.objective,
            optim=config.optim,
            steps=self.steps,
        )
        return metrics

    def _log(
        self, step: int, metrics: StepMetrics, batch: Batch, log: MetricsLog, advance: Any
    ) -> None:
        values = {name: float(value) for name, value in metrics._asdict().items()}
        if not values.pop("healthy"):
            ids = [self.run.examples.ids[i] for i in batch.ids if i >= 0]
            raise RewardJaxError(
                f"the loss or its gradient is not finite at step {step} (loss {values['loss']:g}, "
                f"gradient norm {values['l2_grads']:g}); the update was not applied; texts: "
                f"{', '.join(ids)}; lower optim.learning_rate, or look at these texts"
            )
        now = time.perf_counter()
        spent, tokens = (0.9 * old for old in self._pace)  # a mean over the last ten steps or so
        self._pace = (spent + now - self._clock, tokens + int(batch.lengths.sum()))
        self._clock, speed = now, self._pace[1] / self._pace[0]
        advance(1, **{"loss": values["loss"], "tokens/s": speed})
        if step % self.run.config.eval.log_every == 0:
            row = {"train/loss": values["loss"], "train/prior": values["prior"]}
            row |= {name: values[name] for name in ("l2_grads", "learning_rate")}
            log.write(step, row | {"tokens_per_second": speed})

    def _evaluate(self) -> dict[str, Any]:
        if not self.eval_batches:
            return {}
        run = self.run
        params = RewardParams(self.state.trainable, run.params.frozen)
        sigmoid = run.config.objective.name == "bce"
        found = predict(run.model, params, self.eval_batches, run.hidden, sigmoid=sigmoid)
        self.metrics = plain(evaluate(found, run.config.data.labels))
        return self.metrics

    def _save(
        self, step: int, checkpoints: Checkpoints, values: dict[str, Any], *, force: bool
    ) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        note = {
            "iterator": self.batches.get_state(),
            "identity": self.run.identity,
            "metrics": self.metrics,
        }
        checkpoints.save(step, self.state, note=note, metrics=numbers, force=force)

    def _sizes(self) -> dict[str, Any]:
        rows = self.run.train_rows
        return {
            "data/train_texts": len(rows),
            "data/train_tokens": int(np.sum([len(self.run.tokens[i]) for i in rows])),
            "data/eval_texts": len(self.run.eval_rows),
            "data/skipped": len(self.run.examples.skipped),
        }


def main(argv: list[str]) -> int:
    """`rewardjax train reward-model CONFIG [--a.b.c value …]`."""
    config = settings_file.parse(
        TrainConfig,
        argv,
        prog="rewardjax train reward-model",
        description="Train a reward model on labelled texts.",
        yaml_positional=True,
    )
    result = train(config)
    if result.skipped:
        print(f"left out {len(result.skipped)} texts, the first: {result.skipped[0]}")
    names = ("squared_error", "pearson", "spearman", "auc")
    shown = [(name, result.metrics.get(f"eval/{name}")) for name in names]
    parts = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown if value is not None]
    print(f"{result.step} steps; held-out texts: {', '.join(parts) or 'none'}")
    print(f"wrote {result.run_dir / 'reward_model'}")
    return 0
