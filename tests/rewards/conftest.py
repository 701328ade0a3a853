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
    "arm-base-no-baseline": RewardModelConfig(baseline=False),
    "arm_rank-base": RewardModelConfig("arm_rank", rank=3, outputs=2),
    "arm_rank-own-lora": RewardModelConfig(
        "arm_rank", "own", num_layers=1, rank=3, baseline=False, lora_rank=2
    ),
    "arm_factors-base": RewardModelConfig("arm_factors", layer=1, rank=3, outputs=2),
    "arm_factors-own": RewardModelConfig(
        "arm_factors", "own", num_layers=1, rank=3, baseline=False
    ),
    "mlp-base": RewardModelConfig("mlp", rank=3, outputs=2),
    "nado-base": RewardModelConfig("nado", layer=1, outputs=2),
    "nado_norm-own": RewardModelConfig("nado_norm", "own", num_layers=1, outputs=2),
    "rad-lora": RewardModelConfig("rad", "own", num_layers=1, lora_rank=2, outputs=2),
}


def make(lm, name):
    """(static model, parameters whose head, and adapters, score differently everywhere)."""
    return noisy(*start(CONFIGS[name], lm)[:2])


def noisy(model, weights, scale=0.2):
    """Parameters as initialised, with noise on all that starts at or near zero."""
    params = model.init(jax.random.key(5), weights)
    keys = iter(jax.random.split(jax.random.key(6), 200))
    new = {
        name: jax.tree.map(lambda x: x + scale * jax.random.normal(next(keys), x.shape), tree)
        for name, tree in params.trainable.items()
        if name != "backbone"
    }
    return model, RewardParams(params.trainable | new, params.frozen)


@pytest.fixture(scope="session")
def made(tiny_lm):
    """`make(tiny_lm, name)`, once per name."""
    return functools.cache(functools.partial(make, tiny_lm))


@pytest.fixture(params=CONFIGS)
def reward_model(request, made):
    return made(request.param)
