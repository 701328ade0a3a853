"""NADO's loss against its formula, at certainties, and in chunks of the vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from rewardjax.train.sampled import check_labels
from tests.decoding import prefixes as tab
from tests.objectives.nado_batches import KEYS, RNG, N, among, inputs, loss_of, r_of
from tests.rewards.calls import equations


def slow_terms(r, batch, prefixes, table):
    """Both terms of every text by the formulas, in float64."""
    found = np.zeros((2, N))
    for i, text in enumerate(tab.TEXTS):
        first = int(batch.prompt_lengths[i]) - 1  # of the tokens behind the prompt
        own = [r[tab.number(text[:t]), token] for t, token in enumerate(text)]
        c = float(batch.labels[i, 0])
        each = [-(c * np.log(x) + (1 - c) * np.log(1 - x)) for x in own]
        found[0, i] = each[-1] if prefixes == "last" else sum(each[first:])
        for t in range(first + 1, len(text)):
            at = tab.number(text[:t])
            a, b = (table[at] * r[at]).sum(), own[t - 1]
            found[1, i] += a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    return found


@pytest.mark.parametrize(
    ("kind", "prefixes", "k"), [("nado", "all", 2), ("nado", "last", 4), ("nado_norm", "all", 4)]
)
def test_the_loss_is_its_formula(kind, prefixes, k):
    """Its value and its gradient, with an expectation over k candidates; prompts of any length."""
    model, table = tab.model(kind), among(k)[0].astype(np.float64)
    head = model.init_head(jax.random.key(0), tab.STATES)
    keys = iter(jax.random.split(jax.random.key(1), 9))
    head = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), head)
    params, batch = RewardParams({"head": head}, ()), inputs(RNG.uniform(0, 2, N), RNG.random(N), k)
    starts = [len(text) if i % 3 == 0 else 1 for i, text in enumerate(tab.TEXTS)]
    batch = batch._replace(prompt_lengths=jnp.array(starts))
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
