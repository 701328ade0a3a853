"""The decoding loop on a hand-made Markov LM: every answer is known from two small tables."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rewardjax.decoding import loop
from rewardjax.decoding.guidance import steer
from rewardjax.decoding.guides import Guides, row_settings
from rewardjax.decoding.loop import Program, TransformerLM, decode_step, prefill, run
from rewardjax.decoding.sampling import candidate_logprobs, select_candidates
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.decoding.state import gather, insert, row_keys
from rewardjax.rewards import RewardModelConfig
from tests.decoding import markov
from tests.trained import random_params

DRAWS = 20_000


def decode(
    firsts, steps=1, *, guided=True, eos=(markov.END,), num_candidates=4, seed=0, **settings
):
    prog = markov.program(guided, eos, num_candidates)
    state = markov.start(prog, firsts, steps, seed, **settings)
    return run(prog, markov.lm_params(), markov.reward_params(), state, steps)


def exact(last, beta=0.0, top_k=4, top_p=1.0, temperature=1.0, invert=False):
    """The distribution of methods.md §1, §9.4, computed the slow way in float64."""
    p = markov.TRANSITIONS[last]
    order = np.argsort(-p, kind="stable")[:top_k]
    nucleus, mass = [], 0.0
    for v in order:
        if nucleus and mass >= top_p:
            break
        nucleus.append(v)
        mass += p[v] / p[order].sum()
    rho = np.clip(markov.REWARDS[last], 0, 1)
    rho = 1 - rho if invert else rho
    scores = (np.log(p) + beta * rho) / temperature
    q = np.zeros(4)
    q[nucleus] = np.exp(scores[nucleus])
    return q / q.sum()


CASES = {
    "plain": {},
    "top_k": {"top_k": 2},
    "top_p": {"top_p": 0.6},
    "temperature": {"temperature": 0.5},
    "guided": {"beta": 2.0},
    "guided down": {"beta": 2.0, "invert": True},
    "guided, truncated, hot": {"beta": 3.0, "top_k": 3, "top_p": 0.9, "temperature": 1.5},
}


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_exact_distribution(case, last):
    q = exact(last, **CASES[case])
    state = decode([last] * DRAWS, **CASES[case])
    counts = np.bincount(np.asarray(state.tokens[:, 0]), minlength=4)
    assert (counts[q == 0] == 0).all()
    allowed = q > 0
    test = stats.chisquare(counts[allowed], q[allowed] * DRAWS)
    assert test.pvalue > 1e-3, (counts / DRAWS, q)


def test_guidance_reaches_past_a_token_that_holds_nearly_everything():
    """top_p = 1 keeps every candidate, though the first one's probability rounds to 1."""
    logits = jnp.array([[20.0, 0.0, -1.0, -2.0]])
    one = jnp.ones(1)
    candidates = select_candidates(logits, 4, jnp.array([4], jnp.int32), one, 0 * one)
    assert candidates.mask.all()
    rewards = jnp.array([0.0, 1.0, 1.0, 1.0])[None, :, None]
    settings = row_settings([SamplingConfig()], Guides((0,), ("clip",), 1))
    scores = steer(candidates.logits, rewards, candidates.mask, jnp.array([[100.0]]), settings)
    expected = np.array([20.0, 100.0, 99.0, 98.0])
    expected -= np.log(np.exp(expected - 100).sum()) + 100
    got = candidate_logprobs(scores, candidates.mask, one)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    for capacity in (3, 4):
        nucleus = select_candidates(logits, capacity, jnp.array([4]), 0.99 * one, 0 * one)
        assert nucleus.mask.tolist() == [[True] + [False] * (capacity - 1)]


def test_beta_zero_is_plain_top_k_sampling():
    guided = decode([0] * 500, 6, beta=0.0, top_k=3)
    plain = decode([0] * 500, 6, guided=False, top_k=3)
    np.testing.assert_array_equal(guided.tokens, plain.tokens)
    np.testing.assert_array_equal(guided.logprobs, plain.logprobs)


@pytest.mark.parametrize("case", CASES)
def test_records_are_the_formulas(case):
    state = decode([1] * 64, **CASES[case])
    q, p = exact(1, **CASES[case]), markov.TRANSITIONS[1]
    token = np.asarray(state.tokens[:, 0])
    np.testing.assert_allclose(state.logprobs[:, 0], np.log(q[token]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.base_logprobs[:, 0], np.log(p[token]), rtol=1e-5)
    np.testing.assert_allclose(state.rewards[:, 0, 0], markov.REWARDS[1][token], rtol=1e-6)
    divergence = sum(q[v] * np.log(q[v] / p[v]) for v in range(4) if q[v] > 0)
    np.testing.assert_allclose(state.kl[:, 0], divergence, rtol=1e-4, atol=1e-6)
    outside = (markov.REWARDS[1] < 0) | (markov.REWARDS[1] > 1)
    np.testing.assert_allclose(state.clipped[:, 0], outside[q > 0].mean(), rtol=1e-6)


def test_kl_at_beta_zero_is_the_truncations_part():
    np.testing.assert_allclose(decode([0] * 64, top_k=4).kl[:, 0], 0.0, atol=1e-6)
    kept = markov.TRANSITIONS[0][[1, 2]].sum()
    np.testing.assert_allclose(decode([0] * 64, top_k=2).kl[:, 0], -np.log(kept), rtol=1e-5)


@pytest.mark.parametrize("greedy", [{"top_k": 1}, {"temperature": 0.0}])
def test_greedy_takes_the_best_steered_token(greedy):
    best = (
        exact(1, beta=2.0).argmax() if "temperature" in greedy else markov.TRANSITIONS[1].argmax()
    )
    state = decode([1] * 64, beta=2.0, **greedy)
    assert (np.asarray(state.tokens[:, 0]) == best).all()


def test_sigmoid_link():
    state = decode([0] * 64, beta=2.0, link="sigmoid")
    rho = 1 / (1 + np.exp(-markov.REWARDS[0]))
    q = markov.TRANSITIONS[0] * np.exp(2.0 * rho)
    token = np.asarray(state.tokens[:, 0])
    np.testing.assert_allclose(state.logprobs[:, 0], np.log(q / q.sum())[token], rtol=1e-5)
    assert (np.asarray(state.clipped) == 0).all()  # this link clips nothing


def test_the_loop_equals_step_by_step_in_python():
    prog = markov.program()
    state = markov.start(prog, [0, 1, 2] * 10, 12, beta=1.5)
    step = jax.jit(decode_step, static_argnums=0)
    for _ in range(12):
        state = step(prog, markov.lm_params(), markov.reward_params(), state)
    looped = decode([0, 1, 2] * 10, 12, beta=1.5)
    for name in ("tokens", "row_step", "done", "positions"):
        np.testing.assert_array_equal(getattr(state, name), getattr(looped, name))
    for name in ("logprobs", "kl", "rewards", "base_logprobs", "clipped"):
        np.testing.assert_allclose(getattr(state, name), getattr(looped, name), rtol=1e-6)


def test_the_stream_is_the_same_however_it_is_cut():
    prog = markov.program()
    args = (prog, markov.lm_params(), markov.reward_params())
    state = markov.start(prog, [0, 1, 2] * 10, 12, beta=1.5)
    for n in (5, 1, 5, 1):
        state = run(*args, state, n)
    np.testing.assert_array_equal(state.tokens, decode([0, 1, 2] * 10, 12, beta=1.5).tokens)


def test_finished_rows_stay_finished():
    state = decode([0] * 500, 6, beta=0.0)
    tokens, steps = np.asarray(state.tokens), np.asarray(state.row_step)
    ended = steps < 6
    assert 0 < ended.sum() < 500
    for row in np.flatnonzero(ended):
        assert tokens[row, steps[row] - 1] == markov.END
        assert (tokens[row, : steps[row] - 1] != markov.END).all()
        assert (tokens[row, steps[row] :] == markov.END).all()  # the pad id of this program
        for name in ("logprobs", "base_logprobs", "kl", "rewards", "clipped"):
            assert (np.asarray(getattr(state, name))[row, steps[row] :] == 0).all()
    assert np.asarray(state.done).all()


def test_a_batch_that_is_done_takes_no_step(monkeypatch):
    """The loop ends by itself: steps are counted on the device's side."""
    counted = []

    def counting(*args):
        jax.debug.callback(lambda: counted.append(1))
        return decode_step(*args)

    monkeypatch.setattr(loop, "decode_step", counting)
    prog = markov.program()
    state = markov.start(prog, [0], 8)
    args = (prog, markov.lm_params(), markov.reward_params())
    finished = jax.jit(run.__wrapped__, static_argnums=(0, 4))(*args, state, 203)
    jax.effects_barrier()
    assert len(counted) == int(finished.row_step[0]) <= 8


@pytest.mark.parametrize("own", [False, True])
def test_no_step_copies_a_cache(tiny_lm, own):
    """The compiled loop writes keys and values in place: no copy of a cache's shape is in it."""
    own_config = RewardModelConfig("rad", "own", num_layers=1)
    config = own_config if own else RewardModelConfig("arm", "base")
    model, params, _ = random_params(tiny_lm, config)
    prog = Program(TransformerLM(tiny_lm.config), model, 10)
    batch, key = 3, row_keys(0, jnp.arange(3, dtype=jnp.uint32), jnp.zeros(3, jnp.uint32))
    fill = lambda value, dtype: jnp.full(batch, value, dtype)  # noqa: E731
    settings = row_settings([SamplingConfig(beta=5.0)] * batch, Guides((0,), ("clip",), 1))
    state = prefill(
        prog, tiny_lm.params, params, jnp.ones((batch, 16), jnp.int32), fill(9, jnp.int32), key,
        settings, fill(False, bool), fill(7, jnp.int32), 7,
    )  # fmt: skip
    leaves, tree = jax.tree.flatten(state)  # `lower` describes arguments by what is no array

    def seven_steps(leaves):
        state = jax.tree.unflatten(tree, leaves)
        return jax.tree.leaves(run.__wrapped__(prog, tiny_lm.params, params, state, 7))

    compiled = jax.jit(seven_steps, donate_argnums=0).lower(leaves).compile().as_text()
    caches = [state.lm_cache, state.reward_cache.kv] if own else [state.lm_cache]
    for cache in caches:
        for array in (cache.keys[0], cache.values[0]):
            shape = ",".join(map(str, array.shape))
            assert f"f32[{shape}]" in compiled
            assert not re.findall(rf"= f32\[{shape}\]\S* copy\(", compiled)


def test_a_rows_text_depends_on_its_own_key_only():
    alone = [
        decode([row % 3], 6, beta=1.0, prompt_index=[row], eos=()).tokens[0] for row in range(5)
    ]
    together = decode([row % 3 for row in range(50)], 6, beta=1.0, eos=())
    np.testing.assert_array_equal(together.tokens[:5], np.stack(alone))
    order = np.random.default_rng(0).permutation(50)
    shuffled = decode([row % 3 for row in order], 6, beta=1.0, prompt_index=order, eos=())
    np.testing.assert_array_equal(shuffled.tokens, np.asarray(together.tokens)[order])


def test_equal_prompts_at_different_indices_differ():
    tokens = np.asarray(decode([0] * 50, 6, eos=()).tokens)
    assert len({tuple(row) for row in tokens}) > 40


def test_candidate_capacity_does_not_change_a_draw():
    few = decode([0] * 500, 6, beta=1.0, top_k=2, num_candidates=2)
    many = decode([0] * 500, 6, beta=1.0, top_k=2, num_candidates=4)
    np.testing.assert_array_equal(few.tokens, many.tokens)


def test_settings_are_traced():
    """Changing beta, k, p, T, invert or the seed compiles nothing."""
    decode([0] * 64)
    compiled = run._cache_size()
    decode([0] * 64, seed=9, beta=3.0, top_k=2, top_p=0.5, temperature=0.3, invert=True)
    assert run._cache_size() == compiled
    decode([0] * 65)  # another batch size does compile: the counter counts
    assert run._cache_size() == compiled + 1


def test_gather_and_insert_move_whole_rows():
    prog = markov.program(eos=())
    args = (prog, markov.lm_params(), markov.reward_params())
    reference = decode([0, 1, 2, 0], 6, beta=1.0, eos=())
    half = run(*args, markov.start(prog, [0, 1, 2, 0], 6, beta=1.0), 3)
    rows = jnp.array([2, 0, 0, 1])
    finished = run(*args, jax.jit(gather)(half, rows), 3)
    np.testing.assert_array_equal(finished.tokens, np.asarray(reference.tokens)[np.array(rows)])

    # two rows that are one step in take the places of two that are three steps in
    half = run(*args, markov.start(prog, [0, 1, 2, 0], 6, beta=1.0), 3)
    other = run(*args, markov.start(prog, [1, 1], 6, prompt_index=[7, 8], beta=1.0), 1)
    expected = decode([1, 1, 0, 0], 6, beta=1.0, prompt_index=[7, 8, 9, 9], eos=())
    mixed = run(*args, jax.jit(insert)(half, jnp.array([3, 1]), other), 6)
    np.testing.assert_array_equal(mixed.tokens[0], reference.tokens[0])
    np.testing.assert_array_equal(mixed.tokens[2], reference.tokens[2])
    np.testing.assert_array_equal(mixed.tokens[3], expected.tokens[0])
    np.testing.assert_array_equal(mixed.tokens[1], expected.tokens[1])
