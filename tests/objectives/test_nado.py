"""NADO on a language model where R, q* and every divergence are known exactly."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardjax.data.generations import Row
from rewardjax.decoding.guidance import log_probabilities
from rewardjax.objectives import (
    bernoulli_kl,
    forward_consistency,
    log_expectation,
    prefix_bce,
)
from rewardjax.rewards import RewardParams
from rewardjax.train import nado_loss
from rewardjax.train.losses import Inputs
from rewardjax.train.nado_loss import NadoLoss
from rewardjax.train.nado_settings import NadoObjectiveConfig
from rewardjax.train.sampled import check_labels, log_weights, normalised
from rewardjax.train.token_rows import TokenRows
from tests.decoding import prefixes as tab
from tests.rewards.calls import equations

N, T = len(tab.TEXTS), tab.LONGEST + 1
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), N)  # of which this loss draws nothing
LM_HEAD = {"lm": {"lm_head": {"kernel": jnp.log(jnp.asarray(tab.TABLE))}}}
"""logits of a prefix's unit vector are its row of the table"""


BEST = np.argsort(-tab.TABLE, axis=1).astype(np.int32)
"""tokens after each prefix, most probable first"""


def among(k):
    """p among the k most probable tokens of each prefix, renormalised: its table and its texts."""
    top = np.zeros_like(tab.TABLE)
    best = BEST[:, :k]
    np.put_along_axis(top, best, np.take_along_axis(tab.TABLE, best, 1), 1)
    table = top / top.sum(axis=1, keepdims=True)
    return table, np.array([tab.probability(text, table) for text in tab.TEXTS])


def inputs(weights, labels=tab.C, k=tab.V):
    """Every text once, behind a prompt of one token; states are the prefixes' numbers."""
    tokens, lengths = np.zeros((N, T), np.int32), np.zeros(N, np.int32)
    numbers = np.zeros((N, T), int)
    for i, text in enumerate(tab.TEXTS):
        lengths[i] = 1 + len(text)
        tokens[i, 1 : lengths[i]] = text
        numbers[i, : lengths[i] - 1] = [tab.number(text[:t]) for t in range(len(text))]
    # what the LM thinks of position t: it has read the tokens before
    before = np.pad(numbers[:, :-1], ((0, 0), (1, 0)))
    made = Inputs(
        tokens,
        lengths,
        np.asarray(labels, np.float32)[:, None],
        {3: np.eye(tab.STATES, dtype=np.float32)[numbers]},
        candidates=BEST[before, :k],
        logprobs=np.log(np.take_along_axis(tab.TABLE, BEST, 1))[before, :k],
        prompt_lengths=np.ones(N, np.int32),
        weights=np.asarray(weights, np.float32),
    )
    return jax.tree.map(jnp.asarray, made)


def loss_of(model, weight=0.3, prefixes="all", candidates=tab.V):
    config = NadoObjectiveConfig(prefixes, weight)
    return NadoLoss(config, model.probability_link, candidates)


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


def r_of(model, params):
    rows = model.state_rows(params, jnp.eye(tab.STATES))[..., 0]
    return np.exp(np.asarray(log_probabilities(rows, model.probability_link)[0]))


EXACT = tab.beliefs(tab.C)


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


def exact_params(values=EXACT):
    """R as logits of ±60 at most: certain to 1e-26."""
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(values) - np.log1p(-values), -60, 60)
    head = {"vocabulary": jnp.asarray(logits.T[None], jnp.float32), "bias": jnp.zeros((1, tab.V))}
    return RewardParams({"head": head}, ())


def exact_norm():
    """The same in the other parametrization: the level is the best token's R."""
    with np.errstate(divide="ignore"):
        shape = np.clip(np.log(EXACT), -60, 0)
        best = np.exp(shape.max(axis=1))
        level = np.clip(np.log(best) - np.log1p(-best), -60, 60)
    head = {
        "vocabulary": jnp.asarray(shape.T[None], jnp.float32),
        "bias": jnp.zeros((1, tab.V)),
        "level": {"kernel": jnp.asarray(level[None], jnp.float32), "bias": jnp.zeros(1)},
    }
    return RewardParams({"head": head}, ())


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


@jax.jit
def consistency(params):
    """Our second term of every text."""
    model, batch = tab.model(), inputs(np.ones(N))
    loss = loss_of(model)
    return loss.of_texts(loss.beliefs(model, params, batch), batch)[1]


def slow_terms(r, batch, prefixes, table):
    """Both terms of every text by the formulas, in float64."""
    found = np.zeros((2, N))
    for i, text in enumerate(tab.TEXTS):
        own = [r[tab.number(text[:t]), token] for t, token in enumerate(text)]
        c = float(batch.labels[i, 0])
        each = [-(c * np.log(x) + (1 - c) * np.log(1 - x)) for x in own]
        found[0, i] = each[-1] if prefixes == "last" else sum(each)
        for t in range(1, len(text)):
            at = tab.number(text[:t])
            a, b = (table[at] * r[at]).sum(), own[t - 1]
            found[1, i] += a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    return found


@pytest.mark.parametrize(
    ("kind", "prefixes", "k"), [("nado", "all", 2), ("nado", "last", 4), ("nado_norm", "all", 4)]
)
def test_the_loss_is_its_formula(kind, prefixes, k):
    """Its value and its gradient, with an expectation over k candidates."""
    model, table = tab.model(kind), among(k)[0].astype(np.float64)
    head = model.init_head(jax.random.key(0), tab.STATES)
    keys = iter(jax.random.split(jax.random.key(1), 9))
    head = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), head)
    params, batch = RewardParams({"head": head}, ()), inputs(RNG.uniform(0, 2, N), RNG.random(N), k)
    slow = slow_terms(r_of(model, params).astype(np.float64), batch, prefixes, table)
    loss = loss_of(model, prefixes=prefixes, candidates=k)
    got = loss.of_texts(loss.beliefs(model, params, batch), batch)
    np.testing.assert_allclose(got, slow, rtol=2e-4, atol=1e-5)
    # The gradient is the formula's own, through both sides of the divergence.
    along = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params.trainable)

    def moved(step):
        return params._replace(trainable=jax.tree.map(lambda x, d: x + step * d, head_of, along))

    head_of = params.trainable
    means, slopes = jax.jit(
        lambda: jax.jvp(lambda s: jnp.stack(loss(model, moved(s), batch, KEYS)), (0.0,), (1.0,))
    )()
    np.testing.assert_allclose(means, (slow * batch.weights).mean(axis=1), rtol=2e-4)
    ends = [
        (
            slow_terms(r_of(model, moved(s)).astype(np.float64), batch, prefixes, table)
            * batch.weights
        )
        for s in (-1e-3, 1e-3)
    ]
    np.testing.assert_allclose(slopes, (ends[1] - ends[0]).mean(axis=1) / 2e-3, rtol=5e-3)


def test_certainties_give_no_nan_in_value_or_gradient():
    """R of exactly 0 and 1, right and wrong about C, against the limits of the formulas."""
    inf = jnp.inf
    logits = jnp.array([[-inf, -inf, inf, inf, 0.0]])
    where = (jnp.array([5]), jnp.array([0]))

    @functools.partial(jax.jit, static_argnames="link")
    @jax.value_and_grad
    def bce(z, label, link):
        log_r, log_not_r = log_probabilities(z, link)
        return prefix_bce(log_r, log_not_r, label, jnp.array([z.shape[1]]), jnp.array([0])).sum()

    for link, sure in (("log_sigmoid", logits), ("raw", jax.nn.log_sigmoid(logits))):
        for label, right in ((0.0, [0, 1, 4]), (1.0, [2, 3, 4])):
            z = sure[:, jnp.array(right)]
            value, slope = bce(z, jnp.array([label]), link)  # right costs nothing, the half ln 2
            assert float(value) == pytest.approx(np.log(2), rel=1e-5)
            assert np.isfinite(slope).all()
            np.testing.assert_array_equal(slope[0, :2] * (label == 0), 0.0)
        for label in (0.0, 0.5, 1.0):
            value, slope = bce(sure, jnp.array([label]), link)
            assert float(value) > 50
            assert not np.isnan(slope).any()

    logs = jnp.array([-inf, 0.0, np.log(0.5)])
    nots = jnp.array([0.0, -inf, np.log(0.5)])
    summed = lambda *logs: bernoulli_kl(*logs).sum()  # noqa: E731
    same, slope = jax.jit(jax.value_and_grad(summed, (0, 1, 2, 3)))(logs, nots, logs, nots)
    assert float(same) == 0.0
    assert not np.isnan(np.stack(slope)).any()
    assert float(bernoulli_kl(logs[1:2], nots[1:2], logs[:1], nots[:1])[0]) == np.inf
    half = bernoulli_kl(logs[:1], nots[:1], logs[2:], nots[2:])  # 0 against 1/2: ln 2
    np.testing.assert_allclose(half, np.log(2), rtol=1e-6)

    # An expectation over nothing but zeros, and over some.
    p = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]))
    finite = lambda x: jnp.where((e := log_expectation(p, x)) > -inf, e, 0.0).sum()  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(finite))(
        jnp.array([[-inf, -inf, 0.0], [0.0, -inf, np.log(0.5)]])
    )
    assert float(value) == pytest.approx(np.log(0.5), rel=1e-6)
    assert np.isfinite(slope).all()
    dead = jnp.full((1, 4), -inf)
    none = forward_consistency(dead, jnp.zeros((1, 4)), dead, jnp.zeros((1, 4)), *where)
    np.testing.assert_array_equal(none, 0.0)


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


def test_labels_that_teach_nothing():
    from rewardjax.errors import RewardJaxError

    train = np.arange(3)
    for value, words in ((0, "no sample"), (1, "every sample"), (0.25, "gives every sample 0.25")):
        labels = np.array([value] * 3 + [0.5], np.float32)
        with pytest.raises(RewardJaxError, match=f"{words}.*rate {value:g} of 3 samples"):
            check_labels(labels, train)
    check_labels(np.array([0, 1, 0], np.float32), train)


def test_chunks_are_the_whole_and_never_all_positions_times_the_vocabulary(tiny_lm, monkeypatch):
    """On a real LM's states: value and gradient, and the largest array of the program."""
    from rewardjax.rewards import RewardModelConfig
    from tests.rewards.calls import LENGTHS, TOKENS, states
    from tests.trained import random_params

    model, params, _ = random_params(tiny_lm, RewardModelConfig("nado", layer=2))
    params = params._replace(frozen={"lm": {"lm_head": tiny_lm.params["lm_head"]}})
    hidden = states(tiny_lm, TOKENS, LENGTHS, (2, 3))
    labels = jnp.array([[0.0], [1.0], [1.0], [0.0]])
    batch = Inputs(
        TOKENS, LENGTHS, labels, hidden, prompt_lengths=jnp.array([1, 1, 2, 1]),
        weights=jnp.array([1.0, 0.5, 2.0, 1.0]),
    )  # fmt: skip
    loss = loss_of(model, candidates=0)

    def objective(trainable):
        bce, consistency = loss(
            model, params._replace(trainable=trainable), batch, KEYS[: len(batch.lengths)]
        )
        return bce + consistency

    whole = jax.jit(jax.value_and_grad(objective))(params.trainable)
    # The oracle: the LM's own logits over every position at once, candidates in the open.
    logits = tiny_lm.logits(np.asarray(TOKENS), np.asarray(LENGTHS))
    before = jnp.pad(logits[:, :-1], ((0, 0), (1, 0), (0, 0)))
    v = model.lm.vocab_size
    open_ = batch._replace(
        candidates=jnp.broadcast_to(jnp.arange(v), (*TOKENS.shape, v)),
        logprobs=jax.nn.log_softmax(before),
    )
    naive = jax.jit(loss_of(model, candidates=v), static_argnums=0)(model, params, open_, KEYS[:4])
    np.testing.assert_allclose(whole[0], sum(naive), rtol=1e-4)
    monkeypatch.setattr(nado_loss, "SCORES", 5 * v)  # 36 positions in chunks of 5
    chunked = jax.jit(jax.value_and_grad(lambda x: objective(x)))(params.trainable)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, chunked
    )
    jaxpr = jax.make_jaxpr(jax.grad(objective))(params.trainable).jaxpr
    sizes = [x.aval.size for eqn in equations(jaxpr) for x in eqn.outvars]
    assert max(sizes) < TOKENS.size * v
    assert max(sizes) <= max(params.trainable["head"]["vocabulary"].size, 5 * v * 32)
