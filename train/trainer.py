"""One training run from its first step to its saved reward model, whatever it learns from.

A run directory holds config.yaml (all settings), run.json (versions, device, data), metrics.jsonl,
checkpoints/ and, at the end, reward_model/. A run that was stopped continues bit for bit as if it
had not been.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rewardjax import hosts, progress
from rewardjax.checkpoint import Checkpoints, newest
from rewardjax.data.batches import Batch, ordered_batches, training_batches
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel, save_reward_model
from rewardjax.lm import LM
from rewardjax.lock import hold
from rewardjax.rewards import RewardParams
from rewardjax.sharding import use_mesh

from . import memory
from .compute import packed, training_form
from .evaluation import evaluate, predict
from .logs import MetricsLog, plain
from .losses import TeacherLoss
from .nado_evaluation import judge_beliefs
from .nado_loss import NadoLoss
from .result import Result
from .run import check_directory, prepare, write_config
from .settings import OBJECTIVE_METRIC, TextsRun, error_metric
from .signals import stop_request
from .step import StepMetrics, Update, new_state, optimizer, train_step
from .teacher_evaluation import compare
from .watch import LossWatch, NonFinite, dead_outputs


class Trainer:
    """The objects with identity of one run: data iterator, checkpoints, log.

    This one trains reward models. Of a run it needs what `Run` has; how a batch is stepped over and
    evaluated, and what is noted of the place where a run stands, are methods of their own, which
    other trainers replace.

    Args:
      by_length: a batch holds texts of one width (never where texts are packed).
    """

    def __init__(self, run: Any, *, by_length: bool = True) -> None:
        config, optim = run.config, run.config.optim
        data = (run.tokens, run.examples.labels)
        self.run = run
        self.batches, self.epoch = training_batches(
            run.train_rows,
            *data,
            batch_size=optim.batch_size,
            seed=config.seed,
            by_length=by_length and not config.compute.packing,
            starts=run.starts,
        )
        self.eval_batches = []
        if len(run.eval_rows):
            shape = {"batch_size": optim.batch_size, "starts": run.starts}
            self.eval_batches = ordered_batches(run.eval_rows, *data, **shape)
        self.steps = optim.steps or max(1, round(optim.epochs * self.epoch))
        self.eval_every = config.eval.every or self.epoch
        self.save_every = config.checkpoint.every or self.eval_every
        tx = optimizer(optim, self.steps)
        self.state: Any = new_state(run.params.trainable, tx, config.seed)
        self.metrics: dict[str, Any] = {}
        self.seconds = 0.0
        self.non_finite, self.spikes = NonFinite(optim), LossWatch()
        self._clock, self._pace = time.perf_counter(), (0.0, 0.0)

    def train(self) -> Result:
        run = self.run
        trainable, rows, made = self.fit()
        return Result(
            run.directory,
            self.export(trainable),
            self.metrics,
            rows,
            made,
            self.seconds,
            size(run.params.trainable),
            run.examples.skipped,
        )

    def export(self, trainable: Any) -> TrainedRewardModel:
        """Save a reward model as RUN_DIR/reward_model."""
        run = self.run
        return save_reward_model(
            run.directory / "reward_model",
            run.config.reward_model,
            trainable,
            run.lm,
            link=run.link,
            transformer=run.model.transformer,
            backbone_fingerprint=run.backbone_fingerprint,
        )

    def fit(self) -> tuple[Any, list[dict[str, Any]], int]:
        """Make the updates that are left; what trained, the rows of the log, and all updates."""
        run, checkpoint = self.run, self.run.config.checkpoint
        directory = run.directory / "checkpoints"
        options = {"every": self.save_every, "keep": checkpoint.keep, "metric": self._error_name}
        step = self._continue(directory)
        with Checkpoints(directory, **options) as checkpoints:
            log = MetricsLog(run.directory, after=step if step else -1, writes=hosts.is_first())
            try:
                self._loop(step, checkpoints, log)
            finally:
                log.close()
            if checkpoint.export == "best" and checkpoints.best is not None:
                checkpoints.wait()
                best = checkpoints.restore(self.state, checkpoints.best)
                self.state, self.metrics = best.state, best.note["metrics"]
        # A finished run may be resumed with fewer steps.
        return self.state.trainable, log.rows, max(step, self.steps)

    @property
    def _error_name(self) -> str:
        """The metric that says which checkpoint is best."""
        loss = self.run.loss
        if isinstance(loss, NadoLoss):
            return OBJECTIVE_METRIC
        return error_metric(loss.config.targets if isinstance(loss, TeacherLoss) else None)

    def _continue(self, directory: Path) -> int:
        """The step that the run stands at: 0, or that of the newest checkpoint."""
        found = newest(directory, self.state)
        if found is None:
            return 0
        step, self.state, note = found
        if note.get("identity") != self.run.identity:
            raise RewardJaxError(
                f"cannot continue {str(self.run.directory)!r}: its LM, texts or teacher are "
                "not those it was trained on so far; use them, or choose another --run-dir"
            )
        self._take_up(note)
        return step

    def _take_up(self, note: dict[str, Any]) -> None:
        """Stand where a checkpoint's note says."""
        self.batches.set_state(note["iterator"])
        self.metrics, self.seconds = note["metrics"], note.get("seconds", 0.0)
        self.non_finite.count = note.get("non_finite", 0)

    def _note(self) -> dict[str, Any]:
        """Where the run stands, apart from the state."""
        return {
            "iterator": self.batches.get_state(),
            "identity": self.run.identity,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "non_finite": self.non_finite.count,
        }

    def _loop(self, step: int, checkpoints: Checkpoints, log: MetricsLog) -> None:
        pending: tuple[int, StepMetrics, Batch] | None = None
        if step == 0:
            log.write(0, self._sizes() | self.evaluate())
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
                if hosts.count() > 1 and hosts.asked_to_stop(step):
                    stop.signum = signal.SIGTERM
                last = step == self.steps or stop.signum is not None
                saves = step % self.save_every == 0
                # What is saved is evaluated too, so that the best is the best of all that is kept.
                evaluates = step % self.eval_every == 0 or saves or step == self.steps
                if last or evaluates:
                    self._log(*pending, log, advance)
                    pending = None
                    values = self.evaluate() if evaluates else {}
                    if values or step == self.steps:
                        log.write(step, values | {"train/seconds": self.seconds})
                    self._save(step, checkpoints, values, force=last)
                    self._clock = time.perf_counter()
                if stop.signum is not None:
                    checkpoints.wait()
                    stop.raise_if_asked()

    def _step(self, batch: Batch) -> StepMetrics:
        inputs, how = self.work(batch)
        self.state, metrics = train_step(
            self.state, self.run.params.frozen, inputs, **how._asdict()
        )
        return metrics

    def work(self, batch: Batch) -> tuple[Any, Update]:
        """What an update on a batch takes beside the state and the frozen tree."""
        config, run, rows = self.run.config, self.run, None
        if config.compute.packing:
            batch, rows = packed(batch, config.compute)
        model = training_form(run.model, config.compute, rows)
        how = Update(model, run.loss, config.optim, self.steps, config.compute.accumulate)
        return run.inputs(batch), how

    def _log(
        self, step: int, metrics: StepMetrics, batch: Batch, log: MetricsLog, advance: Any
    ) -> None:
        values = {name: float(value) for name, value in metrics._asdict().items()}
        if not values.pop("finite"):
            ids = [self.run.examples.ids[i] for i in batch.ids if i >= 0]
            log.write(step, {"train/non_finite_texts": ids})
            self.non_finite.happened(step, values["loss"], values["l2_grads"], ids)
        elif warning := self.spikes.see(step, values["loss"]):
            progress.note(warning)
        now = time.perf_counter()
        spent, tokens = (0.9 * old for old in self._pace)  # a mean over the last ten steps or so
        self._pace = (spent + now - self._clock, tokens + int(batch.lengths.sum()))
        self.seconds += now - self._clock
        self._clock, speed = now, self._pace[1] / self._pace[0]
        advance(1, **{"loss": values["loss"], "tokens/s": speed})
        if step % self.run.config.eval.log_every == 0:
            term = f"train/{self.run.loss.regulariser}"
            row = {"train/loss": values["loss"], term: values["prior"]}
            row |= {name: values[name] for name in ("l2_grads", "learning_rate")}
            log.write(step, row | {"tokens_per_second": speed, "train/seconds": self.seconds})

    def evaluate(self) -> dict[str, Any]:
        """Metrics of the held-out texts now; kept as `metrics`."""
        if not self.eval_batches:
            return {}
        run, values = self.run, {}
        params = RewardParams(self.state.trainable, run.params.frozen)
        if isinstance(run.loss, TeacherLoss):
            loss = run.loss
            values |= compare(
                run.model, params, loss.config, self.eval_batches, run.inputs, loss.first_scored
            )
        if isinstance(run.loss, NadoLoss):
            values |= judge_beliefs(run.loss, run.model, params, self.eval_batches, run.inputs)
        if names := run.label_names:
            sigmoid = run.link == "sigmoid"
            found = predict(run.model, params, self.eval_batches, run.hidden, sigmoid=sigmoid)
            values |= evaluate(found, names)
            if int(self.state.step):  # before the first update a head is zero
                for warning in dead_outputs(found, names):
                    progress.note(warning)
        self.metrics = plain(values)
        return self.metrics

    def _save(
        self, step: int, checkpoints: Checkpoints, values: dict[str, Any], *, force: bool
    ) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        checkpoints.save(step, self.state, note=self._note(), metrics=numbers, force=force)

    def _sizes(self) -> dict[str, Any]:
        taught = self.run.targets
        sizes: dict[str, Any] = {"model/trainable_parameters": size(self.run.params.trainable)}
        if taught is not None:  # what the teacher cost, in this run or in the one that asked it
            sizes["data/target_seconds"] = taught.seconds
        if self.run.sampled is not None:
            sizes |= self.run.sampled.numbers
        return sizes | data_sizes(self.run)


def size(tree: Any) -> int:
    """Number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def data_sizes(run: Any) -> dict[str, int]:
    """What the log says of a run's texts before its first step."""
    return {
        "data/train_texts": len(run.train_rows),
        "data/train_tokens": int(np.sum([len(run.tokens[i]) for i in run.train_rows])),
        "data/eval_texts": len(run.eval_rows),
        "data/skipped": len(run.examples.skipped),
    }


def execute(config: TextsRun, lm: LM | None, texts: Any, labels: Any) -> Result:
    """Prepare a run of checked settings, and train it alone in its folder, on its mesh."""
    hosts.wait("settings checked")
    with use_mesh(config.mesh):
        run = prepare(config, lm, texts, labels)
        memory.announce(run)
        made_of = {"lm_fingerprint": run.lm.fingerprint, "data_fingerprint": run.identity}
        with hold(run.directory, "run_dir") if hosts.is_first() else contextlib.nullcontext():
            if hosts.is_first():
                check_directory(config)  # again: another run may have come first
                write_config(run.directory, config, made_of)
            return Trainer(run).train()
