"""The contract's functions agree with one another and with the formulas, for every model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.lm import causal_mask, forward, output_embedding
from rewardjax.rewards import RewardModelConfig, build
from rewardjax.rewards.backbone import bos_id
from tests.rewards.calls import (
    LENGTHS,
    TOKENS,
    TOLERANCE,
    B,
    T,
    all_rows,
    append,
    at_last,
    candidate_rewards,
    compiled,
    equations,
    last,
    prefilled,
    score,
    states,
    wider,
)
from tests.rewards.conftest import CONFIGS

RNG = np.random.default_rng(2)


def test_candidates_equal_scoring_each_text_from_scratch(tiny_lm, reward_model):
    model, params = reward_model
    cache, hidden = prefilled(tiny_lm, model, params, TOKENS, LENGTHS)
    candidates = jnp.asarray(RNG.integers(0, 128, (B, 5)), jnp.int32)
    rewards, _ = candidate_rewards(model, params, cache, hidden, candidates)
    assert rewards.shape == (B, 5, model.outputs)
    assert rewards.dtype == jnp.float32
    for c in range(5):
        grown = append(wider(TOKENS, 1), LENGTHS, candidates[:, c])
        naive = last(score(tiny_lm, model, params, *grown), grown[1])
        np.testing.assert_allclose(rewards[:, c], naive, **TOLERANCE)
    assert np.asarray(rewards).std() > 0.01  # the head does tell candidates apart


def test_advancing_equals_prefilling_the_longer_text(tiny_lm, reward_model):
    """Cached = uncached over several steps of ragged rows, with another choice in every row."""
    model, params = reward_model
    tokens, lengths = jnp.asarray(wider(TOKENS, 4)), LENGTHS
    cache, hidden = prefilled(tiny_lm, model, params, tokens, lengths)
    for step in range(4):
        candidates = jnp.asarray(RNG.integers(0, 128, (B, 6)), jnp.int32)
        rewards, pending = candidate_rewards(model, params, cache, hidden, candidates)
        fresh_cache, fresh = prefilled(tiny_lm, model, params, tokens, lengths)
        naive, _ = candidate_rewards(model, params, fresh_cache, fresh, candidates)
        np.testing.assert_allclose(rewards, naive, **TOLERANCE)
        chosen = (jnp.arange(B) + step) % 6
        cache = compiled("advance", model, params, cache, pending, chosen)
        tokens, lengths = append(tokens, lengths, candidates[jnp.arange(B), chosen])
        hidden = at_last(states(tiny_lm, tokens, lengths, model.layers), lengths)


def test_rows_are_every_tokens_candidate_reward(tiny_lm, reward_model):
    model, params = reward_model
    cache, hidden = prefilled(tiny_lm, model, params, TOKENS, LENGTHS, 0, 50)
    rows = all_rows(model, params, cache, hidden, B, 50)  # 128 is no multiple of 50
    assert rows.shape == (B, 128, model.outputs)
    some = jnp.broadcast_to(jnp.array([0, 49, 50, 99, 100, 127]), (B, 6))
    direct, _ = candidate_rewards(model, params, cache, hidden, some)
    np.testing.assert_allclose(rows[jnp.arange(B)[:, None], some], direct, **TOLERANCE)


def test_a_row_alone_equals_the_row_in_a_ragged_batch(tiny_lm, reward_model):
    model, params = reward_model
    together = score(tiny_lm, model, params, TOKENS, LENGTHS)
    for row in (1, 3):  # the others are as long, or nearly; each length is compiled anew
        n = int(LENGTHS[row])
        alone = score(tiny_lm, model, params, TOKENS[row : row + 1, :n], LENGTHS[row : row + 1])
        np.testing.assert_allclose(together[row, :n], alone[0], rtol=1e-5, atol=1e-5)


def test_padding_ids_do_not_matter(tiny_lm, reward_model):
    """Masks come from lengths, never from ids (methods.md §9.2)."""
    model, params = reward_model
    other = jnp.where(jnp.arange(T) < LENGTHS[:, None], TOKENS, 2)
    first = score(tiny_lm, model, params, TOKENS, LENGTHS)
    second = score(tiny_lm, model, params, other, LENGTHS)
    valid = np.asarray(jnp.arange(T) < LENGTHS[:, None])
    np.testing.assert_array_equal(np.asarray(first)[valid], np.asarray(second)[valid])


def test_a_reward_sees_its_own_token_and_none_after_it(tiny_lm, reward_model):
    model, params = reward_model
    full = jnp.full(B, T, jnp.int32)
    before = score(tiny_lm, model, params, TOKENS, full)
    after = score(tiny_lm, model, params, TOKENS.at[:, 5].set((TOKENS[:, 5] + 7) % 128), full)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before[:, 5] - after[:, 5]) > 1e-4).all()


def test_arm_is_the_formula(tiny_lm, made):
    """r(v|x) = <w, h> + <W h, e(v)> with h at t-1 scoring token t (methods.md §2)."""
    model, params = made("arm-base-layer1-two-outputs")
    head = jax.tree.map(np.asarray, params.trainable["head"])
    h = np.asarray(states(tiny_lm, TOKENS, LENGTHS, (1,))[1], np.float64)
    h /= np.sqrt((h**2).mean(axis=-1, keepdims=True) + 1e-6)  # an inner layer's state, rescaled
    e = np.asarray(output_embedding(tiny_lm.config, tiny_lm.params), np.float64)
    got = np.asarray(score(tiny_lm, model, params, TOKENS, LENGTHS))
    for b in range(B):
        for t in range(1, int(LENGTHS[b])):
            for a in range(2):
                x, v = h[b, t - 1], e[TOKENS[b, t]]
                slow = head["baseline"][a] @ x + v @ (head["projection"][a] @ x)
                np.testing.assert_allclose(got[b, t, a], slow, rtol=1e-4, atol=1e-5)


def test_own_backbones_prepend_their_bos_and_score_the_first_token(tiny_lm, made):
    for name in ("arm-own", "rad"):
        model, params = made(name)
        assert model.first_scored == 0
        backbone = {**params.trainable["backbone"], **params.frozen.get("backbone", {})}
        tokens = jnp.concatenate(
            [jnp.full((B, 1), bos_id(tiny_lm.config), jnp.int32), TOKENS], axis=1
        )
        top = tiny_lm.config.num_hidden_layers
        positions = jnp.broadcast_to(jnp.arange(T + 1), tokens.shape)
        mask = causal_mask(jnp.full(B, T + 1), T + 1)
        h = forward(model.transformer, backbone, tokens, positions, mask, capture=(top,))[0][top]
        got = score(tiny_lm, model, params, TOKENS, jnp.full(B, T, jnp.int32))
        head = params.trainable["head"]
        if name == "rad":  # Linear(D -> A) with bias on the state that has read token t
            expected = h[:, 1:] @ head["kernel"] + head["bias"]
        else:
            e = output_embedding(tiny_lm.config, tiny_lm.params)[TOKENS]
            x = h[:, :-1]
            expected = jnp.einsum("btd,ad->bta", x, head["baseline"]) + jnp.einsum(
                "btd,aed,bte->bta", x, head["projection"], e
            )
        np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_the_first_token_of_a_base_lm_text_has_no_score(tiny_lm, made):
    model, params = made("arm-base")
    assert model.first_scored == 1
    assert (np.asarray(score(tiny_lm, model, params, TOKENS, LENGTHS))[:, 0] == 0).all()


def test_training_touches_observed_tokens_only(tiny_lm, made):
    """Nothing of size B x T x |V| exists: only embeddings and factors have a vocabulary axis."""
    for name in ("arm-base", "arm-own", "arm_rank-own-lora", "arm_factors-base", "mlp-base"):
        model, params = made(name)
        hidden = states(tiny_lm, TOKENS, LENGTHS, model.layers)

        def loss(trainable, model=model, params=params, hidden=hidden):
            new = params._replace(trainable=trainable)
            return model.token_rewards(new, TOKENS, LENGTHS, hidden).sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params.trainable)
        wide = [
            var.aval.shape
            for eqn in equations(jaxpr.jaxpr)
            for var in eqn.outvars
            if 128 in getattr(var.aval, "shape", ()) and var.aval.size >= B * T * 128
        ]
        assert not wide, wide


def test_prior_deltas_are_the_token_part(tiny_lm, made):
    model, params = made("arm-base")
    hidden = states(tiny_lm, TOKENS, LENGTHS, model.layers)
    random = jnp.asarray(RNG.integers(0, 128, (B, T)), jnp.int32)
    rewards, deltas = model.token_rewards_and_prior(params, TOKENS, LENGTHS, hidden, random)
    np.testing.assert_allclose(rewards, score(tiny_lm, model, params, TOKENS, LENGTHS), rtol=1e-6)
    baseline = params.trainable["head"] | {"projection": jnp.zeros((1, 32, 32))}
    flat = params._replace(trainable={"head": baseline})
    swapped = TOKENS.at[:, 1:].set(random[:, 1:])
    h = {layer: value for layer, value in hidden.items()}
    whole = model.token_rewards(params, swapped, LENGTHS, h)
    expected = whole - model.token_rewards(flat, swapped, LENGTHS, h)
    np.testing.assert_allclose(deltas[:, 1:], expected[:, 1:], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["arm-own", "arm-own-two-layers"])
def test_the_output_embedding_is_frozen_and_everything_else_trains(tiny_lm, name, made):
    model, params = made(name)
    frozen = {
        jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(params.frozen)
    }
    name = "embed_tokens" if tiny_lm.config.tie_word_embeddings else "lm_head"
    assert len(frozen) == 1
    assert name in next(iter(frozen))
    assert name not in params.trainable["backbone"]
    layers = params.trainable["backbone"]["layers"]
    assert len(layers) == (CONFIGS["arm-own"].num_layers or model.transformer.num_hidden_layers)


def test_an_untrained_arm_steers_nothing(tiny_lm):
    model = build(RewardModelConfig(), tiny_lm.config)
    params = model.init(jax.random.key(0), tiny_lm.params)
    assert (np.asarray(score(tiny_lm, model, params, TOKENS, LENGTHS)) == 0).all()
