"""Reward models saved to disk for tests: random heads (not zero), any config."""

import jax

from rewardjax.export import save_reward_model, start


def save_random(directory, lm, config, *, link="clip", scale=0.2):
    """Saves a reward model whose head is random, so that it steers; returns the directory."""
    model, weights, fingerprint = start(config, lm)
    trainable = model.init(jax.random.key(5), weights).trainable
    leaves, tree = jax.tree.flatten(trainable["head"])
    keys = jax.random.split(jax.random.key(6), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    save_reward_model(
        directory,
        config,
        {**trainable, "head": jax.tree.unflatten(tree, noisy)},
        lm,
        link=link,
        transformer=model.transformer,
        backbone_fingerprint=fingerprint,
    )
    return directory
