"""C candidates at every position: the fast ways equal reading every prefix of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardModel, backbone
from tests.rewards.calls import LENGTHS, TOKENS, TOLERANCE, B, T, compiled, equations, score, states

RNG = np.random.default_rng(4)
CANDIDATES = jnp.concatenate(
    [TOKENS[..., None], jnp.asarray(RNG.integers(0, 128, (B, T, 2)), jnp.int32)], axis=-1
)
VALID = np.asarray(jnp.arange(T) < LENGTHS[:, None])


def naive(model, params, hidden):
    """The contract's own default."""
    run = jax.jit(RewardModel.position_rewards, static_argnums=0)
    return run(model, params, TOKENS, LENGTHS, hidden, CANDIDATES)


def test_every_override_is_the_default(tiny_lm, reward_model):
    model, params = reward_model
    assert type(model).position_rewards is not RewardModel.position_rewards
    hidden = states(tiny_lm, TOKENS, LENGTHS, model.layers)
    got = compiled("position_rewards", model, params, TOKENS, LENGTHS, hidden, CANDIDATES)
    assert got.shape == (B, T, 3, model.outputs)
    assert got.dtype == jnp.float32
    slow = np.asarray(naive(model, params, hidden))
    np.testing.assert_allclose(np.asarray(got)[VALID], slow[VALID], **TOLERANCE)
    observed = np.asarray(score(tiny_lm, model, params, TOKENS, LENGTHS))
    np.testing.assert_allclose(np.asarray(got)[..., 0, :][VALID], observed[VALID], **TOLERANCE)
    assert np.asarray(got)[VALID].std(axis=1).max() > 0.01  # candidates do differ


def test_prior_and_candidates_together(tiny_lm, made):
    for name in ("arm-base-layer1-two-outputs", "arm_factors-own", "mlp-base"):
        model, params = made(name)
        hidden = states(tiny_lm, TOKENS, LENGTHS, model.layers)
        random = jnp.asarray(RNG.integers(0, 128, (B, T)), jnp.int32)
        both = compiled(
            "position_rewards_and_prior",
            *(model, params, TOKENS, LENGTHS, hidden, CANDIDATES, random),
        )
        alone = compiled("position_rewards", model, params, TOKENS, LENGTHS, hidden, CANDIDATES)
        np.testing.assert_allclose(both[0], alone, rtol=1e-6)
        prior = compiled("token_rewards_and_prior", model, params, TOKENS, LENGTHS, hidden, random)[
            1
        ]
        np.testing.assert_allclose(both[1], prior, rtol=1e-6)


def test_rad_has_no_prior(made):
    model, params = made("rad-one-layer")
    with pytest.raises(RewardJaxError, match="'rad' has no prefix baseline to regularise"):
        model.position_rewards_and_prior(params, TOKENS, LENGTHS, {}, CANDIDATES, TOKENS)


@pytest.mark.parametrize("queries", [1, 6, 12, 10_000])
def test_rad_in_chunks_of_any_size(tiny_lm, made, monkeypatch, queries):
    """One position at a time, some (9 is no multiple of 2 or 4), and all at once."""
    model, params = made("rad-one-layer")
    slow = np.asarray(naive(model, params, {}))
    monkeypatch.setattr(backbone, "QUERIES", queries)
    got = jax.jit(lambda p: model.position_rewards(p, TOKENS, LENGTHS, {}, CANDIDATES))(params)
    np.testing.assert_allclose(np.asarray(got)[VALID], slow[VALID], **TOLERANCE)


def test_rad_reads_the_prefix_once_and_candidates_in_chunks(made, monkeypatch):
    """The feed-forward part, whose rows are tokens read, runs on T rows and on chunks of them."""
    model, params = made("rad-one-layer")
    monkeypatch.setattr(backbone, "QUERIES", 6)
    run = jax.make_jaxpr(lambda p: model.position_rewards(p, TOKENS, LENGTHS, {}, CANDIDATES))
    read = {
        var.aval.shape[:2]
        for eqn in equations(run(params).jaxpr)
        for var in eqn.outvars
        if eqn.primitive.name == "dot_general" and var.aval.shape[-1] == 64
    }
    assert read == {(B, T), (B, 6)}


def test_gradients_through_chunks_are_those_of_the_observed_tokens(made, monkeypatch):
    """With the observed token as both candidates: twice what `token_rewards` gives."""
    model, params = made("rad-lora")
    monkeypatch.setattr(backbone, "QUERIES", 6)
    twice = jnp.stack([TOKENS, TOKENS], axis=-1)

    def gradient(rewards):
        def loss(trainable):
            squares = rewards(params._replace(trainable=trainable)) ** 2
            return jnp.where(VALID.reshape(B, T, *[1] * (squares.ndim - 2)), squares, 0.0).sum()

        return jax.jit(jax.grad(loss))(params.trainable)

    fast = gradient(lambda p: model.position_rewards(p, TOKENS, LENGTHS, {}, twice))
    slow = gradient(lambda p: model.token_rewards(p, TOKENS, LENGTHS, {}))
    for x, y in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        scale = float(jnp.abs(y).max())
        assert scale > 0
        np.testing.assert_allclose(x, 2 * y, rtol=1e-3, atol=1e-4 * scale)


def test_a_sliding_window_moves_with_the_position(tiny_lm, made):
    """With a window of 3 a candidate sees itself and the two tokens before it."""
    model, params = made("rad-one-layer")
    narrow = dataclasses.replace(model.transformer, sliding_window=3)
    model = dataclasses.replace(model, transformer=narrow)
    slow = np.asarray(naive(model, params, {}))
    got = compiled("position_rewards", model, params, TOKENS, LENGTHS, {}, CANDIDATES)
    np.testing.assert_allclose(np.asarray(got)[VALID], slow[VALID], **TOLERANCE)
    wide = compiled(
        "position_rewards", made("rad-one-layer")[0], params, TOKENS, LENGTHS, {}, CANDIDATES
    )
    assert np.abs(np.asarray(got) - np.asarray(wide))[0, 5:].max() > 1e-3
