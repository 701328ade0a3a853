"""The loss and the joint step of attribute-controlled fine-tuning, against slow formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.lm import lora
from rewardjax.lm.decoder import read
from rewardjax.lm.lora import Lora
from rewardjax.rewards import RewardModelConfig, RewardParams
from rewardjax.train import attribute_loss, step
from rewardjax.train.attribute_loss import AttributeLoss, Guide, LMInputs, Policy, row_sums
from rewardjax.train.losses import Inputs
from rewardjax.train.nado_loss import NadoLoss
from rewardjax.train.nado_settings import NadoObjectiveConfig
from rewardjax.train.settings import OptimConfig
from tests.rewards.calls import equations
from tests.train.attribute.common import TOKENS, V, same_leaves
from tests.trained import random_params

LENGTHS = jnp.array([8, 5, 2, 0])
STARTS = jnp.array([1, 3, 1, 1])
COUNTS = np.maximum(LENGTHS - STARTS, 0)
POSITIONS = jnp.array(
    [
        [*range(s, n), *[0] * (7 - max(n - s, 0))]
        for s, n in zip(STARTS.tolist(), LENGTHS.tolist(), strict=True)
    ]
)
WEIGHTS = jnp.array([[1.0, 0.5], [0.25, 2.0], [1.0, 0.0], [0.0, 0.0]])
GUIDES = {
    "states": (RewardModelConfig(), "log_sigmoid", False),
    "inner states, log R": (RewardModelConfig("nado_norm", layer=0), "raw", False),
    "its own backbone, 1 - R": (RewardModelConfig("arm", "own", num_layers=1), "sigmoid", True),
}


ROW_SUMS = jax.jit(row_sums, static_argnums=(0, 3))
INIT = jax.jit(lora.init, static_argnums=0)
LOSS = jax.jit(step.loss, static_argnums=(0, 1))


def steered(lm, name="states", scale=0.2, adapted=0.3):
    """A policy away from θ_old, its parameters, and inputs of its batch."""
    config, link, invert = GUIDES[name]
    model, reward, _ = random_params(lm, config, scale=scale)
    how = Lora(2, 4.0)
    adapters = INIT(how, jax.random.key(1), lm.params)
    if adapted:
        adapters = jax.tree.map(
            lambda x: x + adapted * jax.random.normal(jax.random.key(2), x.shape), adapters
        )
    frozen = {"lm": lm.params, "old": {"lm_head": lm.params["lm_head"]}, "reward": reward}
    top = lm.config.num_hidden_layers
    states = read(lm.config, lm.params, TOKENS, jnp.maximum(LENGTHS, 1), {top, *model.layers})
    hidden = {layer: states[layer] for layer in model.layers}
    inputs = LMInputs(TOKENS, LENGTHS, POSITIONS, WEIGHTS, states[top], hidden)
    policy = Policy(lm.config, how, Guide(model, link, 0, invert))
    return policy, RewardParams({"lora": adapters}, frozen), inputs


def slow(lm, policy, params, inputs):
    """Sums of each row, one token at a time, in float64."""
    weights = lora.add(policy.lora, lm.params, params.trainable["lora"])
    lengths = jnp.maximum(LENGTHS, 1)
    new = dataclasses.replace(lm, params=weights).logits(TOKENS, lengths)
    old = lm.logits(TOKENS, lengths)
    every = jnp.broadcast_to(jnp.arange(V), (*TOKENS.shape, V))
    reward, guide = params.frozen["reward"], policy.guide
    rewards = guide.model.position_rewards(reward, TOKENS, lengths, inputs.hidden, every)[..., 0]
    out = np.zeros((4, 3))
    for b, (first, last) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        for t in range(first, last):
            log_p = np.asarray(jax.nn.log_softmax(new[b, t - 1]), np.float64)
            p_old = np.exp(np.asarray(jax.nn.log_softmax(old[b, t - 1]), np.float64))
            r = np.asarray(rewards[b, t], np.float64)
            r = np.exp(r) if guide.link == "raw" else 1 / (1 + np.exp(-r))
            r = 1 - r if guide.invert else r
            z = np.sum(p_old * r)
            q = p_old * r / z
            out[b] += -log_p[TOKENS[b, t]], q @ (np.log(q) - log_p), q @ np.log(r) - np.log(z)
    return out


@pytest.mark.parametrize("name", GUIDES)
def test_sums_of_rows_are_the_formula(lm, name, monkeypatch):
    monkeypatch.setattr(attribute_loss, "CHUNK_LOGITS", 5 * V)  # 28 positions, 5 at a time
    policy, params, inputs = steered(lm, name)
    expected = slow(lm, policy, params, inputs)
    found = ROW_SUMS(policy, params, inputs, True)
    np.testing.assert_allclose(np.stack(found, axis=1), expected, rtol=2e-4, atol=1e-4)
    assert expected[:3, 1:].min() > 0.01


def test_terms_are_weighted_sums_over_the_number_of_tokens(lm):
    """And parts of a batch add up to it, also where the KL is over other texts."""
    policy, params, inputs = steered(lm)
    sums = np.stack(ROW_SUMS(policy, params, inputs, True), axis=1)
    keys = jax.random.split(jax.random.key(0), 4)
    objective = AttributeLoss(0.7)
    wanted = [(WEIGHTS[:, i] @ sums[:, i]) / COUNTS.sum() for i in (0, 1)]
    total, terms = LOSS(policy, objective, params, inputs, keys)
    np.testing.assert_allclose(terms, wanted, rtol=1e-5)
    np.testing.assert_allclose(total, 0.75 * (wanted[0] + 0.7 * wanted[1]), rtol=1e-5)
    turned = jax.tree.map(lambda x: x[::-1], inputs)
    both = inputs._replace(old=None, hidden=None, samples=turned)
    np.testing.assert_allclose(LOSS(policy, objective, params, both, keys)[0], total, rtol=1e-5)
    halves = [jax.tree.map(lambda x, i=i: x[i::2], (both, keys)) for i in (0, 1)]
    parts = [LOSS(policy, objective, params, x, k, both)[0] for x, k in halves]
    np.testing.assert_allclose(sum(parts), total, rtol=1e-5)
    light = inputs._replace(weights=0.5 * WEIGHTS)
    np.testing.assert_allclose(
        LOSS(policy, objective, params, light, keys)[0], total / 2, rtol=1e-5
    )


def kl_sum(trainable, policy, frozen, inputs):
    return row_sums(policy, RewardParams(trainable, frozen), inputs, True).kl.sum()


KL_GRADIENT = jax.jit(jax.grad(kl_sum), static_argnums=1)


def test_a_zero_head_pulls_nowhere_at_the_old_weights(lm):
    largest = []
    for scale in (0.0, 0.2):
        policy, params, inputs = steered(lm, scale=scale, adapted=0)
        found = KL_GRADIENT(params.trainable, policy, params.frozen, inputs)
        largest.append(max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found)))
    assert largest[0] < 1e-6 * largest[1], largest


def test_rows_over_the_vocabulary_exist_for_a_chunk_alone(lm, monkeypatch):
    """In the gradient too, whose head has a row for each token."""
    policy, params, inputs = steered(lm, "inner states, log R")

    positions = TOKENS[:, 1:].size
    for chunk, whole in ((5, False), (positions, True)):
        monkeypatch.setattr(attribute_loss, "CHUNK_LOGITS", chunk * V)
        program = jax.make_jaxpr(jax.grad(kl_sum), static_argnums=1)
        made = {
            v.aval.shape
            for eqn in equations(program(params.trainable, policy, params.frozen, inputs).jaxpr)
            for v in eqn.outvars
        }
        rows = {int(np.prod(x)) // V for x in made if V in x}
        assert (positions in rows) is whole
        assert chunk in rows


def test_both_updates_of_a_joint_step_are_those_made_alone(lm):
    """One program: the LM's with the old reward model, and the next NADO's."""
    policy, params, inputs = steered(lm)
    nado, own, _ = random_params(lm, RewardModelConfig("nado"))
    own = own._replace(frozen={**own.frozen, "lm": {"lm_head": lm.params["lm_head"]}})
    theirs = Inputs(
        TOKENS, LENGTHS, jnp.array([[1.0], [0.0], [1.0], [0.0]]), {1: inputs.old},
        prompt_lengths=STARTS, weights=jnp.array([1.0, 2.0, 0.5, 0.0]),
    )  # fmt: skip
    loss = NadoLoss(NadoObjectiveConfig(), nado.probability_link, 0)
    hows = (
        step.Update(policy, AttributeLoss(0.7), OptimConfig(learning_rate=1e-2), 10),
        step.Update(nado, loss, OptimConfig(learning_rate=3e-2), 5),
    )
    trees, both = (params, own), (inputs, theirs)
    frozen, untouched = tuple(p.frozen for p in trees), jax.tree.map(np.array, lm.params)

    def states():
        return tuple(
            step.new_state(p.trainable, step.optimizer(how.optim, how.steps), 3)
            for p, how in zip(trees, hows, strict=True)
        )

    alone, joint = states(), states()
    for _ in range(2):
        alone = [
            step.train_step(state, f, x, **how._asdict())
            for state, f, x, how in zip(alone, frozen, both, hows, strict=True)
        ]
        joint = step.joint_step(joint, frozen, both, hows)
        for one, other in zip(alone, joint, strict=True):
            same_leaves(one[1]._replace(finite=1), other[1]._replace(finite=1), rtol=1e-5)
        alone, joint = (tuple(state for state, _ in made) for made in (alone, joint))
    for one, other, before in zip(alone, joint, states(), strict=True):
        same_leaves(one.trainable, other.trainable, rtol=1e-6, atol=1e-7)
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), other.trainable, before.trainable)
        assert min(map(float, jax.tree.leaves(moved))) > 1e-3
    jax.tree.map(np.testing.assert_array_equal, lm.params, untouched)
