"""Reward models saved to disk for tests: random heads (not zero), any config."""

import jax

from rewardjax.export import save_reward_model, start


def random_params(lm, config, *, scale=0.2):
    """Static model, parameters whose head (and adapters) are random, and the fingerprint."""
    model, weights, fingerprint = start(config, lm)
    params = model.init(jax.random.key(5), weights)
    given = {name: tree for name, tree in params.trainable.items() if name != "backbone"}
    leaves, tree = jax.tree.flatten(given)
    keys = jax.random.split(jax.random.key(6), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    new = params.trainable | jax.tree.unflatten(tree, noisy)
    return model, params._replace(trainable=new), fingerprint


def save_random(directory, lm, config, *, link="clip", scale=0.2):
    """Saves a reward model with a random head; returns the directory."""
    model, params, fingerprint = random_params(lm, config, scale=scale)
    save_reward_model(
        directory,
        config,
        params.trainable,
        lm,
        link=link,
        transformer=model.transformer,
        backbone_fingerprint=fingerprint,
    )
    return directory
