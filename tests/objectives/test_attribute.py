"""Attribute-controlled fine-tuning against slow formulas and on tabular LMs, where all is exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardjax.objectives.attribute import exponential_weights, in_chunks, kl, target, token_nll

N, V = 6, 11
RNG = np.random.default_rng(0)
OLD = jnp.asarray(RNG.normal(size=(N, V)) * 2, jnp.float32)
NEW = jnp.asarray(RNG.normal(size=(N, V)) * 2, jnp.float32)
R = jnp.asarray(RNG.uniform(0.01, 1, size=(N, V)), jnp.float32)


def slow_q(logits, rewards):
    p = np.exp(np.asarray(logits, np.float64))
    q = p / p.sum(-1, keepdims=True) * np.asarray(rewards, np.float64)
    return q / q.sum(-1, keepdims=True)


def slow_kl(q, logits):
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(-1, keepdims=True)
    ratio = np.where(q > 0, q / p, 1.0)
    return np.sum(q * np.log(ratio), axis=-1)


def test_target_and_closed_form():
    """q is p R / Z; the closed form is the explicit KL at θ = θ_old, and nowhere else."""
    found = target(OLD, jnp.log(R))
    q = slow_q(OLD, R)
    np.testing.assert_allclose(jax.nn.softmax(found.logits), q, rtol=1e-5)
    np.testing.assert_allclose(found.closed_form, slow_kl(q, OLD), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kl(found.logits, OLD), found.closed_form, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kl(found.logits, NEW), slow_kl(q, NEW), rtol=1e-4, atol=1e-6)
    assert np.abs(kl(found.logits, NEW) - found.closed_form).min() > 0.1


def test_gradient_is_p_minus_q_and_flows_nowhere_else():
    def loss(new, old, log_r):
        return kl(target(old, log_r).logits, new).sum()

    new, old, log_r = jax.grad(loss, (0, 1, 2))(NEW, OLD, jnp.log(R))
    expected = jax.nn.softmax(NEW) - slow_q(OLD, R)
    np.testing.assert_allclose(new, expected, atol=1e-6)
    assert not np.any(old)
    assert not np.any(log_r)


def test_a_constant_reward_leaves_no_gradient_at_the_old_weights():
    """A zero head: exactly 0, for any λ."""

    def loss(new, value):
        found = target(OLD, jnp.full((N, V), value))
        return kl(found.logits, new).sum(), found.closed_form

    for value in (np.log(0.5), 0.0, -30.0):
        gradient, closed = jax.grad(loss, has_aux=True)(OLD, value)
        np.testing.assert_array_equal(gradient, 0.0)
        np.testing.assert_allclose(closed, 0.0, atol=1e-6)
    moved = jax.grad(lambda z: loss(z, 0.0)[0])(NEW)
    assert np.abs(moved).max() > 0.1


def test_rewards_of_zero_and_one_give_no_nan():
    rewards = np.array(R)
    rewards[0] = 0.0  # nothing can satisfy: q = p
    rewards[1] = 1.0
    rewards[2, :5] = 0.0
    rewards[3] = 0.0
    rewards[3, 4] = 1.0  # one token alone
    with np.errstate(divide="ignore"):
        log_r = jnp.log(rewards)
    found = target(OLD, log_r)
    value, gradient = jax.value_and_grad(lambda z: kl(found.logits, z).sum())(NEW)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(
        jax.nn.softmax(found.logits[1:]), slow_q(OLD[1:], rewards[1:]), atol=1e-6
    )
    np.testing.assert_allclose(jax.nn.softmax(found.logits[0]), jax.nn.softmax(OLD[0]), rtol=1e-6)
    np.testing.assert_allclose(found.closed_form, kl(found.logits, OLD), atol=1e-5)


@pytest.mark.parametrize("chunk", [4, 100])
def test_chunks_change_nothing(chunk):
    """Values and gradients, also of what every chunk reads (the unembedding)."""
    states, table = jnp.asarray(RNG.normal(size=(N, 3)), jnp.float32), OLD[:3]
    tokens = jnp.arange(N)

    def terms(states, table, rows):
        def of(part):
            h, ids, wanted = part
            return token_nll(h @ table, ids), kl(wanted, h @ table)

        wanted = target(OLD, jnp.log(R)).logits
        arrays = (states, tokens, wanted)
        nll, div = of(arrays) if rows is None else in_chunks(of, arrays, rows)
        return jnp.sum(jnp.sin(nll) + div * jnp.arange(1.0, N + 1))

    whole = jax.value_and_grad(terms, (0, 1))(states, table, None)
    parts = jax.value_and_grad(terms, (0, 1))(states, table, chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole, parts)
    expected = -np.asarray(jax.nn.log_softmax(states @ table))[tokens, tokens]
    np.testing.assert_allclose(token_nll(states @ table, tokens), expected, atol=3e-6)


def test_exponential_weights():
    rewards = jnp.array([0.0, 0.25, 1.0])
    found = exponential_weights(rewards, 0.5)
    np.testing.assert_allclose(found / found.sum(), jax.nn.softmax(rewards / 0.5), rtol=1e-6)


T, W = 3, 4
"""texts of T tokens over W words"""


def exact(table):
    """p of every text, and q* and R for C(y) = [the text holds word 0 exactly once].

    table[prefix] are logits; a prefix is the tuple of its words.
    """
    words = list(itertools.product(range(W), repeat=T))
    p = {y: np.prod([softmax(table[y[:t]])[y[t]] for t in range(T)]) for y in words}
    good = {y: float(y.count(0) == 1) for y in words}

    def rate(prefix):  # R(prefix) = P[C = 1 | prefix]
        rest = [y for y in words if y[: len(prefix)] == prefix]
        return sum(p[y] * good[y] for y in rest) / sum(p[y] for y in rest)

    prefixes = [y for t in range(T) for y in itertools.product(range(W), repeat=t)]
    rates = np.array([[rate((*x, v)) for v in range(W)] for x in prefixes])
    share = sum(p[y] * good[y] for y in words)
    return prefixes, rates, {y: p[y] * good[y] / share for y in words}, share


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def test_minimising_on_prefixes_of_q_star_reaches_q_star():
    """And before that, the sum over t is -log P(C = 1) over such prefixes."""
    rng = np.random.default_rng(3)
    keys = [y for t in range(T) for y in itertools.product(range(W), repeat=t)]
    table = {x: rng.normal(size=W) for x in keys}
    prefixes, rates, q_star, share = exact(table)
    assert 0.2 < share < 0.9
    visits = np.array(
        [sum(q for y, q in q_star.items() if y[: len(x)] == x) for x in prefixes]
    )  # how often q* passes through each prefix
    old = jnp.asarray(np.stack([table[x] for x in prefixes]), jnp.float32)
    with np.errstate(divide="ignore"):
        found = target(old, jnp.log(jnp.asarray(rates, jnp.float32)))
    np.testing.assert_allclose(visits @ found.closed_form, -np.log(share), rtol=1e-4)

    def loss(z):
        return jnp.sum(visits * kl(found.logits, z))

    tx = optax.adam(0.1)
    z, state = old, tx.init(old)
    step = jax.jit(jax.value_and_grad(loss))
    for _ in range(400):
        value, gradient = step(z)
        updates, state = tx.update(gradient, state)
        z = optax.apply_updates(z, updates)
    assert value < 0.01 < loss(old)
    new = dict(zip(prefixes, np.asarray(jax.nn.softmax(z)), strict=True))
    for y, q in q_star.items():
        p = np.prod([new[y[:t]][y[t]] for t in range(T)])
        np.testing.assert_allclose(p, q, atol=5e-3)
