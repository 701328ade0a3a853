"""The trainer of an LM under a KL term, alone or in the same steps as the next reward model's."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rewardjax import hosts
from rewardjax.data.batches import Batch, ordered_batches, training_batches
from rewardjax.errors import RewardJaxError
from rewardjax.hosts import fetch
from rewardjax.metrics.likelihood import detection
from rewardjax.report.write import write_text
from rewardjax.rewards import RewardParams
from rewardjax.sharding import place_batch

from .attribute_data import TextSet
from .attribute_loss import LMInputs, row_sums
from .attribute_run import AttributeRun
from .logs import MetricsLog, plain
from .settings import OBJECTIVE_METRIC
from .step import StepMetrics, TrainState, Update, joint_step, train_step
from .trainer import Trainer, data_sizes, size

RESAMPLES = 2000
"""of the interval of detection, at every evaluation"""
_row_sums = jax.jit(row_sums, static_argnames=("policy", "with_kl"))


class JointState(NamedTuple):
    """Two states that are updated in the same program."""

    lm: TrainState
    reward: TrainState

    @property
    def trainable(self) -> Any:
        return self.lm.trainable

    @property
    def step(self) -> Any:
        return self.lm.step


class AttributeTrainer(Trainer):
    """Fine-tunes the LM of a round.

    Args:
      partner: trains the next round's reward model on samples, one update in each of ours; as many
        steps as ours.
    """

    def __init__(self, run: AttributeRun, partner: Trainer | None = None) -> None:
        super().__init__(run)
        self.partner = partner
        if partner is not None:
            partner.steps = self.steps
            self.state = JointState(self.state, partner.state)
        steered, optim = run.config.steered, run.config.optim
        self.sample_batches = None
        self.sample_eval: list[Batch] = []
        if run.samples is not None:
            data = (run.samples.tokens, run.samples.examples.labels)
            shape = {"batch_size": optim.batch_size, "starts": run.samples.starts}
            if steered:
                self.sample_batches, _ = training_batches(
                    run.samples.train_rows, *data, seed=run.config.seed,
                    by_length=False,  # else each pair of widths compiles
                    **shape,
                )  # fmt: skip
            held = run.samples.eval_rows[: len(run.eval_rows)]  # as many samples as texts
            if len(held):
                self.sample_eval = ordered_batches(held, *data, **shape)
        self._theirs: deque[tuple[StepMetrics, Batch]] = deque()
        compute, self._frozen = run.config.compute, run.params.frozen
        policy = run.policy.training_form(compute)
        if not steered:  # λ = 0 is plain fine-tuning: its program knows of no reward model
            policy = dataclasses.replace(policy, guide=None)
            self._frozen = {k: v for k, v in self._frozen.items() if k == "lm"}
        self._how = Update(policy, run.loss, optim, self.steps, compute.accumulate)

    @property
    def _error_name(self) -> str:
        return OBJECTIVE_METRIC

    def _step(self, batch: Batch) -> StepMetrics:
        inputs, how = self.work(batch)
        if self.partner is None:
            self.state, metrics = train_step(self.state, self._frozen, inputs, **how._asdict())
            return metrics
        partner = self.partner
        other = next(partner.batches)
        their_inputs, their_how = partner.work(other)
        (lm, metrics), (reward, theirs) = joint_step(
            tuple(self.state),
            (self._frozen, partner.run.params.frozen),
            (inputs, their_inputs),
            (how, their_how),
        )
        self.state = JointState(lm, reward)
        self._theirs.append((theirs, other))
        return metrics

    def work(self, batch: Batch) -> tuple[LMInputs, Update]:
        """What an update on a batch takes beside the state and the frozen tree."""
        config, run = self.run.config, self.run
        own_prefixes = config.steered and run.samples is None
        inputs = self._inputs(run.corpus, batch, with_kl=own_prefixes)
        if self.sample_batches is not None:
            assert run.samples is not None
            drawn = self._inputs(run.samples, next(self.sample_batches), with_kl=True)
            inputs = inputs._replace(samples=drawn)
        return inputs, self._how

    def _inputs(self, texts: TextSet, batch: Batch, *, with_kl: bool) -> LMInputs:
        found = texts.inputs(batch.own(), with_kl=with_kl)
        return place_batch(found, len(batch.lengths))

    def evaluate(self) -> dict[str, Any]:
        """Held-out NLL, detection by likelihood, and the KL; kept as `metrics`."""
        run = self.run
        state = self.state.lm if self.partner is not None else self.state
        params = RewardParams(state.trainable, run.params.frozen)
        guided = run.policy.guide is not None
        sums = self._sums(run.corpus, self.eval_batches, params, guided and run.samples is None)
        values: dict[str, Any] = {}
        if sums is not None:
            accepted = run.corpus.accepted
            accepted = None if accepted is None else accepted[run.eval_rows]
            self._keep(sums, accepted)
            values |= _likelihoods(sums, accepted)
        if guided and run.samples is not None:
            sums = self._sums(run.samples, self.sample_eval, params, True)
        if sums is not None and guided:
            total = sums[:, 3].sum()
            values |= {"eval/kl": float(sums[:, 1].sum() / total)}
            values |= {"eval/closed_form": float(sums[:, 2].sum() / total)}
        if "eval/nll" in values:
            weight = run.config.objective.kl_weight
            kl = values.get("eval/kl", 0.0) if weight else 0.0
            values[OBJECTIVE_METRIC] = values["eval/nll"] + weight * kl
        if self.partner is not None:
            self.partner.state = self.state.reward
            theirs = self.partner.evaluate()
            values |= {f"reward_model/{name}": value for name, value in theirs.items()}
        self.metrics = plain(values)
        return self.metrics

    def _keep(self, sums: np.ndarray, accepted: np.ndarray | None) -> None:
        """ROUND/held_out.json: NLL and tokens of each held-out text, and whether it is accepted,
        for paired comparisons. Of the last step, whichever is exported."""
        if hosts.is_first():
            found = {"nll": sums[:, 0].tolist(), "tokens": sums[:, 3].astype(int).tolist()}
            if accepted is not None:
                found["accepted"] = accepted.tolist()
            write_text(self.run.directory / "held_out.json", json.dumps(found) + "\n")

    def _sums(
        self, texts: TextSet, batches: Sequence[Batch], params: RewardParams, with_kl: bool
    ) -> np.ndarray | None:
        """[texts of the batches, 4]: NLL, KL, closed form, tokens; in the texts' order."""
        rows: dict[int, list[float]] = {}
        for batch in batches:
            inputs = self._inputs(texts, batch, with_kl=with_kl)
            found = _row_sums(policy=self.run.policy, params=params, inputs=inputs, with_kl=with_kl)
            values = [fetch(x) for x in found]
            for b, i in enumerate(batch.ids.tolist()):
                if i >= 0:
                    count = int(batch.lengths[b] - batch.prompt_lengths[b])
                    rows[i] = [*(float(x[b]) for x in values), float(count)]
        found = [rows[i] for i in texts.eval_rows if i in rows]
        return np.array(found, np.float64) if found else None

    def _log(
        self, step: int, metrics: StepMetrics, batch: Batch, log: MetricsLog, advance: Any
    ) -> None:
        if self._theirs:
            assert self.partner is not None
            theirs, other = self._theirs.popleft()
            if not bool(theirs.finite):
                ids = [self.partner.run.examples.ids[i] for i in other.ids if i >= 0]
                norm = float(theirs.l2_grads)
                self.partner.non_finite.happened(step, float(theirs.loss), norm, ids)
            if step % self.run.config.eval.log_every == 0:
                log.write(step, {"reward_model/train/loss": float(theirs.loss)})
        super()._log(step, metrics, batch, log, advance)

    def _note(self) -> dict[str, Any]:
        note = super()._note()
        if self.sample_batches is not None:
            note["samples"] = self.sample_batches.get_state()
        if self.partner is not None:
            note["partner"] = self.partner._note()
        return note

    def _take_up(self, note: dict[str, Any]) -> None:
        super()._take_up(note)
        if self.sample_batches is not None:
            self.sample_batches.set_state(note["samples"])
        if self.partner is None:
            return
        if note["partner"]["identity"] != self.partner.run.identity:
            raise RewardJaxError(
                f"cannot continue {str(self.run.directory)!r}: the samples that its reward model"
                " learns from are not those of so far; restore them, or choose another --run-dir"
            )
        self.partner._take_up(note["partner"])

    def _sizes(self) -> dict[str, Any]:
        sizes = {"model/trainable_parameters": size(self.run.params.trainable)}
        if self.run.samples is not None:
            sizes["data/samples"] = len(self.run.samples.tokens)
        if self.partner is not None:
            theirs = self.partner._sizes()
            sizes |= {f"reward_model/{name}": value for name, value in theirs.items()}
        return sizes | data_sizes(self.run)


def _likelihoods(sums: np.ndarray, accepted: np.ndarray | None) -> dict[str, Any]:
    """NLL and perplexity per token, also of accepted texts alone; detection of the others."""

    def of(rows: np.ndarray, name: str) -> dict[str, Any]:
        nll = rows[:, 0].sum() / rows[:, 3].sum()
        return {f"eval/nll{name}": float(nll), f"eval/perplexity{name}": float(np.exp(nll))}

    values = of(sums, "")
    if accepted is None or accepted.all() or not accepted.any():
        return values
    found = detection(sums[:, 0] / sums[:, 3], ~accepted, resamples=RESAMPLES)
    interval = dataclasses.asdict(found)
    return values | of(sums[accepted], "_accepted") | {
        "eval/detection_auc": found.value, "eval/detection": interval
    }  # fmt: skip
