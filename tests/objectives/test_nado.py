"""NADO on a language model where R, q* and every divergence are known exactly."""

import functools
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from rewardjax.data.generations import Row
from rewardjax.rewards import RewardParams
from rewardjax.train.sampled import log_weights, normalised
from rewardjax.train.token_rows import TokenRows
from tests.decoding import prefixes as tab
from tests.objectives.nado_batches import (
    BEST,
    EXACT,
    KEYS,
    LM_HEAD,
    RNG,
    N,
    among,
    consistency,
    exact_norm,
    exact_params,
    inputs,
    loss_of,
    r_of,
)


@functools.partial(jax.jit, static_argnames=("model", "loss", "steps"))
def descend(trainable, batch, *, model, loss, steps):
    """Adam on the whole population at once."""
    tx = optax.adam(optax.cosine_decay_schedule(0.5, steps))

    def objective(trainable):
        bce, consistency = loss(
            model, RewardParams(trainable, LM_HEAD), batch, KEYS[: len(batch.lengths)]
        )
        return bce + loss.prior_weight * consistency

    def step(carry, _):
        trainable, state = carry
        updates, state = tx.update(jax.grad(objective)(trainable), state)
        return (optax.apply_updates(trainable, updates), state), None

    return jax.lax.scan(step, (trainable, tx.init(trainable)), None, length=steps)[0][0]


def trained(weights, parametrization="nado", steps=400, **settings):
    """The model's R [STATES, V] after descending on texts of these weights."""
    model = tab.model(parametrization)
    start = model.init_head(jax.random.key(0), tab.STATES)
    batch = inputs(weights * N / weights.sum(), k=settings.get("candidates") or tab.V)
    loss = loss_of(model, **settings)
    head = descend({"head": start}, batch, model=model, loss=loss, steps=steps)
    return model, RewardParams(head, ())


def test_the_conditioned_lm_factorises():
    """q*(y) = p(y) C(y) / P(C) is the product of p R / R(before), and KL(q* ‖ p) = -log P(C)."""
    rate = tab.P @ tab.C
    q = tab.P * tab.C / rate
    for text, expected in zip(tab.TEXTS, q, strict=True):
        found, before = 1.0, rate
        for t, token in enumerate(text):
            at = tab.number(text[:t])
            if before == 0:
                found = 0.0
                break
            found *= tab.TABLE[at, token] * EXACT[at, token] / before
            before = EXACT[at, token]
        assert found == pytest.approx(expected, abs=1e-7)
    divergence = sum(a * np.log(a / b) for a, b in zip(q, tab.P, strict=True) if a)
    assert divergence == pytest.approx(-np.log(rate), rel=1e-6)
    # R is a martingale under p: what the second term asks.
    next_ = (tab.TABLE * EXACT).sum(axis=1)
    for prefix in tab.PREFIXES[1:]:
        if not tab.complete(prefix):
            assert next_[tab.number(prefix)] == pytest.approx(
                EXACT[tab.number(prefix[:-1]), prefix[-1]], abs=1e-6
            )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("nado", {}),
        ("nado_norm", {"steps": 1500}),
        ("nado", {"prefixes": "last", "weight": 1.0, "steps": 1500}),
        ("nado", {"weight": 0.0}),
        ("nado", {"candidates": 0}),
    ],
)
def test_training_reaches_the_exact_r_on_every_prefix(kind, settings):
    found = r_of(*trained(tab.P, kind, **settings))
    np.testing.assert_allclose(found[tab.REACHED], EXACT[tab.REACHED], atol=0.02)


def test_consistency_is_that_of_the_candidates():
    """Texts drawn among the 2 most probable tokens: R is that of p among them, and the prefixes,
    which learn by consistency alone, get there only if the expectation is too."""
    table, p = among(2)
    found = r_of(*trained(p, prefixes="last", weight=1.0, steps=1500, candidates=2))
    exact, whole = tab.beliefs(tab.C, p + 1e-12), tab.beliefs(tab.C)
    for prefix in tab.PREFIXES[1:]:
        if tab.probability(prefix, table) > 0:
            at = tab.number(prefix[:-1]), prefix[-1]
            assert found[at] == pytest.approx(exact[at], abs=0.02)
    drawn = table[0] > 0
    assert np.abs(exact - whole)[0, drawn].max() > 0.05  # it is another R than the whole LM's


@pytest.mark.parametrize("kind", ["nado", "nado_norm"])
def test_decoding_by_the_exact_r_is_the_lm_conditioned(kind):
    """Each text that the engine draws has, by the engine's own record, its probability under q*."""
    params = exact_params() if kind == "nado" else exact_norm()
    rows = tab.decode(300, tab.model(kind), params)
    q = dict(zip(tab.TEXTS, tab.P * tab.C / (tab.P @ tab.C), strict=True))
    seen = {tuple(row.token_ids): np.exp(row.logprobs.sum()) for row in rows}
    assert all(tab.WANTED in text for text in seen)
    for text, probability in seen.items():
        assert probability == pytest.approx(q[text], rel=1e-4)
    assert sum(q[text] for text in seen) > 0.95


@pytest.mark.parametrize("kind", ["nado", "nado_norm"])
def test_an_untrained_head_decodes_the_lm_token_for_token(kind):
    model = tab.model(kind)
    params = RewardParams({"head": model.init_head(jax.random.key(0), tab.STATES)}, ())
    plain, guided = tab.decode(64), tab.decode(64, model, params)
    for one, other in zip(plain, guided, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-6)
        np.testing.assert_array_equal(np.exp(other.rewards) if kind == "nado_norm" else 0.5, 0.5)


def test_the_bound_of_a_forward_consistent_model():
    """KL(q* ‖ q_φ) <= 2 ln δ where R_φ / R lies in [1/δ, δ] and R_φ = 0 where R = 0."""
    worst = 0.0
    for _ in range(10):
        values = tab.C * RNG.uniform(0.1, 1.0, N)  # beliefs in them are consistent, and not R
        r = tab.beliefs(values)
        ratio = r[EXACT > 0] / EXACT[EXACT > 0]
        delta = max(ratio.max(), 1 / ratio.min())
        q = tab.P * tab.C / (tab.P @ tab.C)
        divergence = 0.0
        for text, weight in zip(tab.TEXTS, q, strict=True):
            q_phi = 1.0
            for t, token in enumerate(text if weight else ()):
                step = tab.TABLE[tab.number(text[:t])] * r[tab.number(text[:t])]
                q_phi *= step[token] / step.sum()
            divergence += weight * np.log(weight / q_phi) if weight else 0.0
        assert divergence <= 2 * np.log(delta) + 1e-9
        worst = max(worst, divergence / np.log(delta))
        np.testing.assert_allclose(consistency(exact_params(r)), 0.0, atol=1e-5)  # ours agrees
    assert worst > 0.01
    skewed = np.where(r > 0, r**2, 0)
    assert float(consistency(exact_params(skewed)).max()) > 0.01


def test_tempered_samples_weigh_as_the_lm_itself_would():
    """Drawn at temperature 2 among the 3 most probable tokens: weights are p_3 / q exactly, and R
    of the weighted samples is that of p_3; without weights it is another."""
    rows = tab.decode(6000, top_k=3, temperature=2.0)
    p_table, p3 = among(3)
    q_table = np.sqrt(p_table) / np.sqrt(p_table).sum(axis=1, keepdims=True)
    made = [
        Row("", "", i, 0, row.token_ids, logprobs=row.logprobs.tolist(),
            base_logprobs=row.base_logprobs.tolist())
        for i, row in enumerate(rows)
    ]  # fmt: skip
    texts = [tuple(row.token_ids) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([1 + len(text) for text in texts])])
    flat = np.zeros((offsets[-1], 3), np.float32)
    for first, text in zip(offsets, texts, strict=False):
        for t in range(len(text)):
            at = tab.number(text[:t])
            flat[first + 1 + t] = np.log(tab.TABLE[at, BEST[at, :3]])
    kept = TokenRows({"logprobs": flat}, offsets, Path(), True, 0.0)
    found = log_weights(made, np.ones(len(rows), np.int32), kept)
    exact = [np.log(tab.probability(t, p_table) / tab.probability(t, q_table)) for t in texts]
    np.testing.assert_allclose(found, exact, atol=1e-5)
    assert np.std(found) > 0.3

    everything = np.arange(len(rows))
    weights, effective = normalised(found, everything)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    assert 0.2 * len(rows) < effective < 0.95 * len(rows)
    counts = {"weighted": np.zeros(N), "plain": np.zeros(N)}
    for text, weight in zip(texts, weights, strict=True):
        counts["weighted"][tab.TEXTS.index(text)] += weight
        counts["plain"][tab.TEXTS.index(text)] += 1.0
    first = [tab.belief(tab.C, (token,), p3 + 1e-12) for token in range(tab.V)]
    drawn = p_table[0] > 0
    errors = {}
    for name, count in counts.items():
        r = r_of(*trained(count, weight=0.0))[0]
        errors[name] = np.abs(r - first)[drawn].max()
    assert errors["weighted"] < 0.04
    assert errors["plain"] > 2 * errors["weighted"]
