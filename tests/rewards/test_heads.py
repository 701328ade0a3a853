"""Each head against its formula in NumPy, one token at a time, and how it starts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.lm import output_embedding
from rewardjax.objectives import cumulative_mse
from rewardjax.rewards import RewardModelConfig, build
from tests.rewards.calls import LENGTHS, TOKENS, B, T, score, states
from tests.rewards.conftest import CONFIGS, noisy

erf = np.vectorize(math.erf)


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def arm(p, a, h, e, v):
    return e[v] @ p["projection"][a] @ h


def arm_rank(p, a, h, e, v):
    return (p["prefix"][a] @ h) @ (p["token"][a] @ e[v])


def arm_factors(p, a, h, e, v):
    return (p["prefix"][a] @ h) @ p["factors"][a, v]


def mlp(p, a, h, e, v):
    s = (p["prefix"][a] @ h) * (p["token"][a] @ e[v])
    return p["output"][a] @ gelu(p["mixer"][a] @ s + p["bias"][a])


FORMULAS = {"arm": arm, "arm_rank": arm_rank, "arm_factors": arm_factors, "mlp": mlp}
RANKS = {"arm": None, "arm_rank": 3, "arm_factors": 3, "mlp": 3}


def slow_rewards(lm, kind, params, baseline):
    """r [B, T, 2] by the formula: the state at t - 1 scores token t, the first has no score."""
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params.trainable["head"])
    h = np.asarray(states(lm, TOKENS, LENGTHS, (3,))[3], np.float64)
    e = np.asarray(output_embedding(lm.config, lm.params), np.float64)
    rewards = np.zeros((B, T, 2))
    for b in range(B):
        for t in range(1, int(LENGTHS[b])):
            for a in range(2):
                x = h[b, t - 1]
                rewards[b, t, a] = FORMULAS[kind](head, a, x, e, int(TOKENS[b, t]))
                if baseline:
                    rewards[b, t, a] += head["baseline"][a] @ x
    return rewards


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("kind", FORMULAS)
def test_a_head_is_its_formula_and_so_is_its_loss(tiny_lm, kind, baseline):
    config = RewardModelConfig(kind, rank=RANKS[kind], outputs=2, baseline=baseline)
    model, params = noisy(build(config, tiny_lm.config), tiny_lm.params)
    assert ("baseline" in params.trainable["head"]) == baseline
    got = score(tiny_lm, model, params, TOKENS, LENGTHS)
    slow = slow_rewards(tiny_lm, kind, params, baseline)
    valid = np.asarray(jnp.arange(T) < LENGTHS[:, None])
    np.testing.assert_allclose(np.asarray(got)[valid], slow[valid], rtol=2e-4, atol=2e-5)
    # The cumulative squared error of those numbers: token number t weighs t, outputs add up.
    labels = np.array([[0.0, 1.0], [1.0, 0.5], [0.2, 0.0], [1.0, 1.0]], np.float32)
    loss = cumulative_mse(got, jnp.asarray(labels), LENGTHS, model.first_scored)
    for b in range(B):
        number = np.arange(2, int(LENGTHS[b]) + 1)  # the first token has no score
        if len(number):
            errors = ((slow[b, number - 1] - labels[b]) ** 2).sum(-1)
            expected = (number * errors).sum() / number.sum()
            np.testing.assert_allclose(loss[b], expected, rtol=2e-4)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("rad")])
def test_an_untrained_head_steers_nothing_but_can_learn(tiny_lm, name, made):
    """Every reward is 0 (or log 1/2) at the start, and the gradient of what follows the token is
    not."""
    model, _ = made(name)
    params = model.init(jax.random.key(0), tiny_lm.params)
    hidden = states(tiny_lm, TOKENS, LENGTHS, model.layers)

    @jax.jit
    @jax.value_and_grad
    def loss(trainable):
        rewards = model.token_rewards(params._replace(trainable=trainable), TOKENS, LENGTHS, hidden)
        return jnp.square(rewards - 1.0).mean()

    value, grads = loss(params.trainable)
    start = np.log(0.5) if name.startswith("nado_norm") else 0.0
    assert float(value) == pytest.approx((start - 1) ** 2, rel=1e-6)
    told = {n: g for n, g in grads["head"].items() if n not in ("baseline", "level")}
    head = {n: float(jnp.abs(g).max()) for n, g in told.items()}
    assert max(head.values()) > 1e-5, head


@pytest.mark.parametrize("name", ["arm_factors-base", "arm_factors-own"])
def test_factors_of_unobserved_tokens_get_no_gradient(tiny_lm, name, made):
    model, params = made(name)
    hidden = states(tiny_lm, TOKENS, LENGTHS, model.layers)

    def loss(trainable):
        new = params._replace(trainable=trainable)
        return model.token_rewards(new, TOKENS, LENGTHS, hidden).sum()

    grads = np.asarray(jax.jit(jax.grad(loss))(params.trainable)["head"]["factors"])
    touched = set(np.nonzero(np.abs(grads).sum(axis=(0, 2)))[0].tolist())
    assert touched
    assert touched <= set(np.asarray(TOKENS).ravel().tolist())
