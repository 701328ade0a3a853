"""Texts, oracles and sizes of the tests of attribute-controlled fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np

from rewardjax.oracle import OracleConfig
from rewardjax.train.attribute_settings import LearnerConfig
from rewardjax.train.sample_settings import SampleConfig
from rewardjax.train.settings import OptimConfig

V = 128
TOKENS = jnp.asarray(np.random.default_rng(0).integers(3, V, (4, 8)), jnp.int32)


def same_leaves(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def badness(texts):
    """A scorer in [0, 1]: the share of some letters."""
    return [sum(c in "bdnt" for c in text) / max(len(text), 1) for text in texts]


SAMPLING = SampleConfig(num_samples=6, max_new_tokens=4, top_k=V)
SCORER = "score=tests.train.attribute.common:badness"
ORACLE = OracleConfig(scorer=SCORER, threshold=0.2, invert=True)
SOFT = OracleConfig(scorer=SCORER, invert=True)
NADO = LearnerConfig(optim=OptimConfig(batch_size=8, steps=6, learning_rate=3e-2), held_out=0.25)


def letters(texts):
    return [len(text) for text in texts]
