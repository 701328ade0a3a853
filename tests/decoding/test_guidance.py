"""Links, schedules, the entropy gate, several outputs and hooks, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.decoding.guidance import entropy, linked, steer, strength
from rewardjax.decoding.guides import Guides, row_settings
from rewardjax.decoding.loop import run
from rewardjax.decoding.settings import LINK_NAMES, SamplingConfig
from rewardjax.errors import RewardJaxError
from tests.decoding import markov

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(scale=2, size=(len(LINK_NAMES) * 2, 7, 1)).astype(np.float32)
MASK = RNG.random(REWARDS.shape[:2]) < 0.7
MASK[:, 0] = True


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def min_max(r):
    return (r - r.min()) / (r.max() - r.min())


SLOW = {
    "clip": (lambda r: np.clip(r, 0, 1), lambda r: 1 - np.clip(r, 0, 1)),
    "raw": (lambda r: r, lambda r: -r),
    "sigmoid": (sigmoid, lambda r: 1 - sigmoid(r)),
    "log_sigmoid": (lambda r: np.log(sigmoid(r)), lambda r: np.log(1 - sigmoid(r))),
    "min_max": (min_max, lambda r: 1 - min_max(r)),
}


def test_every_link_up_and_down():
    """A batch in which every row has another link."""
    names = list(LINK_NAMES) * 2
    samplings = [
        SamplingConfig(link=name, invert=i >= len(LINK_NAMES)) for i, name in enumerate(names)
    ]
    settings = row_settings(samplings, Guides((0,), ("clip",), 1))
    got = np.asarray(
        linked(jnp.asarray(REWARDS), jnp.asarray(MASK), settings.link, settings.invert)
    )[..., 0]
    for row, (name, sampling) in enumerate(zip(names, samplings, strict=True)):
        kept = REWARDS[row, MASK[row], 0].astype(np.float64)
        expected = SLOW[name][bool(sampling.invert)](kept)
        np.testing.assert_allclose(got[row, MASK[row]], expected, rtol=2e-5, atol=1e-6)


def test_min_max_of_equal_rewards_is_zero():
    flat = jnp.full((1, 3, 1), 2.5)
    link = jnp.array([[LINK_NAMES.index("min_max")]])
    got = linked(flat, jnp.ones((1, 3), bool), link, jnp.zeros((1, 1), bool))
    np.testing.assert_array_equal(got, 0)


def test_schedules_reach_beta_end_at_the_last_step():
    steps = np.arange(5)
    u = steps / 4
    expected = {
        "constant": np.full(5, 8.0),
        "linear": 8 + (2 - 8) * u,
        "cosine": 2 + (8 - 2) * (1 + np.cos(np.pi * u)) / 2,
    }
    for schedule, values in expected.items():
        sampling = SamplingConfig(beta=8.0, beta_end=2.0, schedule=schedule)
        settings = row_settings([sampling] * 5, Guides((0,), ("clip",), 1))
        got = strength(settings, jnp.asarray(steps), jnp.full(5, 5), jnp.zeros((5, 4)))
        np.testing.assert_allclose(got[:, 0], values, rtol=1e-5)


def test_the_gate_opens_where_the_lm_is_uncertain():
    logits = jnp.log(jnp.asarray(markov.TRANSITIONS, jnp.float32))
    exact = -(markov.TRANSITIONS * np.log(markov.TRANSITIONS)).sum(axis=1)
    np.testing.assert_allclose(entropy(logits), exact, rtol=1e-5)
    assert float(entropy(jnp.array([[0.0, -jnp.inf]]))[0]) == 0
    middle = float(np.median(exact))
    samplings = [SamplingConfig(beta=3.0, min_entropy=middle)] * 3 + [SamplingConfig(beta=3.0)]
    settings = row_settings(samplings, Guides((0,), ("clip",), 1))
    got = strength(settings, jnp.zeros(4, int), jnp.full(4, 9), logits)[:, 0]
    np.testing.assert_array_equal(got, np.where((exact >= middle) | (np.arange(4) == 3), 3.0, 0))


def test_several_outputs_add_up_and_others_do_not_count():
    samplings = [SamplingConfig(beta=(2.0, 5.0), invert=(False, True), link=("raw", "clip"))]
    settings = row_settings(samplings, Guides((2, 0), ("clip", "clip"), 3))
    rewards = jnp.asarray(RNG.normal(size=(1, 4, 3)), jnp.float32)
    scores = jnp.zeros((1, 4))
    beta = strength(settings, jnp.zeros(1, int), jnp.full(1, 9), jnp.zeros((1, 4)))
    got = steer(scores, rewards, jnp.ones((1, 4), bool), beta, settings)
    expected = 2 * rewards[..., 2] + 5 * (1 - np.clip(rewards[..., 0], 0, 1))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": (1.0, 2.0, 3.0)}, "beta is [1.0, 2.0, 3.0]; expected one value, or one for each"),
        ({"stop_ids": tuple(range(8))}, "expected at most 7 beside the LM's own 1"),
    ],
)
def test_refuses_settings_that_do_not_fit(settings, words):
    with pytest.raises(RewardJaxError) as error:
        row_settings([SamplingConfig(**settings)], Guides((0, 1), ("clip",) * 2, 2), (99,))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"link": "clamp"}, "link is 'clamp'; expected clip or raw"),
        ({"schedule": "step"}, "schedule is 'step'; expected constant or linear"),
        ({"min_p": 1.5}, "min_p is 1.5; expected a number in 0 .. 1"),
        ({"min_new_tokens": 30}, "min_new_tokens is 30; expected an integer in 0 .. max_new"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"beta": (1.0, -1.0)}, "beta is -1.0; expected a number in 0"),
        ({"stop_ids": (-1,)}, "stop_ids is [-1]"),
        ({"min_entropy": float("nan")}, "min_entropy is nan; expected a finite number"),
    ],
)
def test_refuses_bad_values(settings, words):
    with pytest.raises(RewardJaxError) as error:
        SamplingConfig(**settings)
    assert words in str(error.value)


def test_a_hook_is_guidance_of_ones_own():
    """One that does what a reward model would do, and one that it adds to."""

    def towards_two(state, lm_logits, candidates):
        assert lm_logits.shape[1] == 4
        return candidates.logits + 2.0 * (candidates.ids == 2)

    prog = markov.program(guided=False, hook=towards_two)
    state = markov.start(prog, [0] * 64, 1)
    state = run(prog, markov.lm_params(), (), state, 1)
    q = markov.TRANSITIONS[0] * np.exp(2.0 * (np.arange(4) == 2))
    token = np.asarray(state.tokens[:, 0])
    np.testing.assert_allclose(state.logprobs[:, 0], np.log(q / q.sum())[token], rtol=1e-5)

    prog = markov.program(guided=True, hook=towards_two)
    state = markov.start(prog, [0] * 64, 1, beta=1.5)
    state = run(prog, markov.lm_params(), markov.reward_params(), state, 1)
    q = q * np.exp(1.5 * np.clip(markov.REWARDS[0], 0, 1))
    token = np.asarray(state.tokens[:, 0])
    np.testing.assert_allclose(state.logprobs[:, 0], np.log(q / q.sum())[token], rtol=1e-5)
