"""Several reward models at once, and whole vocabularies, against one model and a gather."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardjax as rj
from rewardjax.engine import make_engine
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardModelConfig
from rewardjax.rewards.several import Several
from tests.trained import random_params, save_random

HEADS = {
    "arm": RewardModelConfig(),
    "arm, own": RewardModelConfig(backbone="own", num_layers=1),
    "two outputs": RewardModelConfig(outputs=2, layer=1),
    "factors": RewardModelConfig("arm_factors", rank=3),
    "rank": RewardModelConfig("arm_rank", rank=3),
    "mlp": RewardModelConfig("mlp", rank=3),
    "rad": RewardModelConfig("rad", "own", num_layers=1),
}
TOKENS = jnp.array([[5, 6, 7, 8], [9, 10, 11, 0]], jnp.int32)
LENGTHS = jnp.array([4, 3], jnp.int32)


def states(lm, model):
    from rewardjax.lm.decoder import read

    if not model.layers:
        return {}, {}
    hidden = read(lm.config, lm.params, TOKENS, LENGTHS, model.layers)
    last = {layer: h[jnp.arange(2), LENGTHS - 1] for layer, h in hidden.items()}
    return hidden, last


def scored(model, params, lm, width, score):
    hidden, last = states(lm, model)
    cache = model.prefill(params, TOKENS, LENGTHS, hidden, max_new_tokens=2, num_candidates=width)
    rewards, pending = score(cache, last)
    return rewards, model.advance(params, cache, pending, jnp.array([17, 40]))


@pytest.mark.parametrize("name", HEADS)
def test_whole_vocabulary_equals_candidates_gathered(tiny_lm, name):
    model, params, _ = random_params(tiny_lm, HEADS[name])
    width = tiny_lm.config.vocab_size
    ids = jnp.broadcast_to(jnp.arange(width), (2, width))

    def gathered(cache, last):
        return model.candidate_rewards(params, cache, last, ids)

    def whole(cache, last):
        return model.vocabulary_rewards(params, cache, last, 2)

    slow = scored(model, params, tiny_lm, width, gathered)
    fast = scored(model, params, tiny_lm, width, whole)
    np.testing.assert_allclose(fast[0], slow[0], rtol=2e-4, atol=2e-5)
    for a, b in zip(jax.tree.leaves(fast[1]), jax.tree.leaves(slow[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_gather_of_the_vocabulary_for_every_row(tiny_lm):
    """The compiled program of a whole vocabulary holds nothing of B x |V| x D."""
    model, params, _ = random_params(tiny_lm, HEADS["arm"])
    _, last = states(tiny_lm, model)
    width, dim = tiny_lm.config.vocab_size, tiny_lm.config.hidden_size
    text = {}
    ids = jnp.broadcast_to(jnp.arange(width), (2, width))
    for name, score in {
        "whole": lambda p, h: model.vocabulary_rewards(p, (), h, 2)[0],
        "gathered": lambda p, h: model.candidate_rewards(p, (), h, ids)[0],
    }.items():
        text[name] = jax.jit(score).lower(params, last).compile().as_text()
    assert f"f32[2,{width},{dim}]" not in text["whole"]
    assert f"{width},{dim}]" in text["gathered"]


def test_outputs_stand_side_by_side(tiny_lm):
    names = ("two outputs", "arm, own", "rad")
    made = [random_params(tiny_lm, HEADS[name])[:2] for name in names]
    several = Several(tuple(model for model, _ in made))
    params = tuple(found for _, found in made)
    assert (several.outputs, several.layers) == (4, (1,))
    assert [several.column(0, 1), several.column(1, 0), several.column(2, 0)] == [1, 2, 3]
    ids = jnp.array([[3, 17, 40], [40, 3, 17]])
    chosen = jnp.array([2, 0])
    hidden, last = states(tiny_lm, several)
    sizes = {"max_new_tokens": 2, "num_candidates": 3}
    cache = several.prefill(params, TOKENS, LENGTHS, hidden, **sizes)
    for _ in range(2):
        rewards, pending = several.candidate_rewards(params, cache, last, ids)
        expected = []
        for i, (model, own) in enumerate(made):
            alone, waiting = model.candidate_rewards(own, cache[i], last, ids)
            expected.append(alone)
            after = model.advance(own, cache[i], waiting, chosen)
            if model is made[-1][0]:
                cache_alone = after
        np.testing.assert_allclose(rewards, jnp.concatenate(expected, -1), rtol=1e-5, atol=1e-6)
        cache = several.advance(params, cache, pending, chosen)
        for a, b in zip(jax.tree.leaves(cache[-1]), jax.tree.leaves(cache_alone), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def saved(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return {
        name: rj.load_reward_model(save_random(folder / name, tiny_lm, HEADS[name]))
        for name in ("arm", "two outputs", "rad")
    }


SETTINGS = {"max_new_tokens": 8, "num_samples": 3, "top_k": 6}
PROMPTS = ["the film", "it was"]


def ids(found):
    return [[g.token_ids for g in samples] for samples in found]


def test_a_second_model_of_strength_zero_changes_no_text(tiny_lm, saved):
    one = rj.generate(tiny_lm, PROMPTS, reward_model=saved["rad"], beta=5.0, **SETTINGS)
    pair = [saved["rad"], saved["arm"]]
    two = rj.generate(tiny_lm, PROMPTS, reward_model=pair, beta=(5.0, 0.0), **SETTINGS)
    assert ids(one) == ids(two)
    assert len(two[0][0].rewards[0]) == 2


def test_two_halves_steer_as_one_whole(tiny_lm, saved):
    """Outputs of one model: the sum of beta rho, as far as links are linear."""
    model = saved["arm"]
    one = rj.generate(tiny_lm, PROMPTS, reward_model=model, beta=6.0, link="raw", **SETTINGS)
    pair = [model, dataclasses.replace(model)]  # another object of the same weights
    two = rj.generate(tiny_lm, PROMPTS, reward_model=pair, beta=(2.0, 4.0), link="raw", **SETTINGS)
    assert ids(one) == ids(two)


def test_a_model_that_steers_by_two_outputs_runs_once(tiny_lm, saved):
    model = saved["two outputs"]
    engine = make_engine(
        tiny_lm, [model, model], rj.SamplingConfig(beta=(3.0, 1.0)), outputs=(1, 0)
    )
    assert engine.guides.columns == (1, 0)
    assert engine.program.reward_model.outputs == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"output": 2}, "output is 2; this reward model has 2, numbered from 0"),
        ({"output": (0, 1, 0)}, "expected one, or one for each of 2 models"),
        ({"output": (0, 0)}, "output 0 of one reward model is named twice"),
        ({"beta": (1.0, 2.0, 3.0)}, "expected one value, or one for each of 2 reward models"),
        ({"stop_ids": (500,)}, "stop_ids holds 500; expected ids below 128"),
    ],
)
def test_refuses(tiny_lm, saved, more, words):
    model = saved["two outputs"]
    with pytest.raises(RewardJaxError) as error:
        rj.generate(tiny_lm, PROMPTS, reward_model=[model, model], **{"output": (0, 1), **more})
    assert words in str(error.value)
