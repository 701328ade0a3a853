"""Held-out metrics of a NADO, against an LM of which everything is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.data.batches import Batch
from rewardjax.train.nado_evaluation import calibration_error, judge_beliefs
from tests.decoding import prefixes as tab
from tests.objectives.nado_batches import EXACT, N, exact_params, inputs, loss_of, r_of


def test_calibration():
    p, y = np.repeat([0.25, 0.75], 40), np.zeros(80)
    y[:10], y[40:70] = 1, 1  # a quarter and three quarters come out
    once = np.ones(80)
    assert calibration_error(p, y, once) == pytest.approx(0)
    y[10:20] = 1
    assert calibration_error(p, y, once) == pytest.approx(0.125)  # a quarter off in one of two bins
    sure, half = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert calibration_error(sure, half, once[:2]) == pytest.approx(0.5)


def test_held_out_metrics_are_those_of_the_lms_own_texts():
    """Every text once, weighted as often as the LM writes it: the exact R is calibrated."""
    p = np.array([tab.probability(text) for text in tab.TEXTS], np.float32)
    batch, params = inputs(p), exact_params(np.clip(EXACT, 1e-6, 1 - 1e-6))
    model, ids = tab.model(), np.arange(N, dtype=np.int32)
    host = jax.tree.map(np.asarray, batch)
    own = Batch(host.tokens, host.lengths, host.prompt_lengths, host.labels, ids, ids)

    def metrics(weights):
        made = batch._replace(weights=jnp.asarray(weights, jnp.float32))
        return judge_beliefs(loss_of(model), model, params, [own], lambda _: made)

    found, plain = metrics(p), metrics(np.ones(N))
    assert found["eval/calibration_error"] < 1e-5 < 0.05 < plain["eval/calibration_error"]
    r, bce, tokens = r_of(model, params).astype(np.float64), 0.0, 0.0
    for text, c, weight in zip(tab.TEXTS, tab.C, p, strict=True):
        for t, token in enumerate(text):
            belief = r[tab.number(text[:t]), token]
            bce -= weight * np.log(belief if c else 1 - belief)
        tokens += weight * len(text)
    assert found["eval/bce"] == pytest.approx(bce / tokens, rel=1e-4)
    assert found["eval/consistency"] == pytest.approx(0, abs=1e-5)
    assert found["eval/satisfied"] == plain["eval/satisfied"] == pytest.approx(np.mean(tab.C))
