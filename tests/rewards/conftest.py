"""Reward models of every parametrization and backbone, with random (not zero) heads."""

import functools

import jax
import pytest

from rewardjax.export import start
from rewardjax.rewards import RewardModelConfig, RewardParams

CONFIGS = {
    "arm-base": RewardModelConfig(),
    "arm-base-layer1-two-outputs": RewardModelConfig(layer=1, outputs=2),
    "arm-own": RewardModelConfig(backbone="own"),
    "arm-own-two-layers": RewardModelConfig(backbone="own", num_layers=2, outputs=2),
    "rad": RewardModelConfig("rad", "own", outputs=2),
    "rad-one-layer": RewardModelConfig("rad", "own", num_layers=1),
}


def make(lm, name):
    """(static model, parameters with a head that scores differently everywhere)."""
    model, weights, _ = start(CONFIGS[name], lm)
    params = model.init(jax.random.key(5), weights)
    keys = iter(jax.random.split(jax.random.key(6), 200))
    head = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), params.trainable["head"]
    )
    return model, RewardParams({**params.trainable, "head": head}, params.frozen)


@pytest.fixture(scope="session")
def made(tiny_lm):
    """`make(tiny_lm, name)`, once per name."""
    return functools.cache(functools.partial(make, tiny_lm))


@pytest.fixture(params=CONFIGS)
def reward_model(request, made):
    return made(request.param)
