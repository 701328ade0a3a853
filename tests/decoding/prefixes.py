"""An LM of four tokens with a distribution of its own after every prefix, and a constraint on its
texts: P[C | prefix] and p conditioned on C are known exactly."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rewardjax.decoding.guides import Guides
from rewardjax.decoding.loop import Program, Step
from rewardjax.decoding.runner import Request, decode_rows
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.rewards import RewardModelConfig, build
from tests.conftest import tiny_config

V, LONGEST, END, WANTED = 4, 3, 3, 1
STATES = 1 + V + V * V
"""prefixes of less than LONGEST tokens"""
TABLE = 0.05 + 0.8 * np.random.default_rng(3).dirichlet([1.0, 0.5, 1.0, 0.5], STATES)
TABLE = TABLE.astype(np.float32)
"""p(next | prefix), by the prefix's number: at least 1/20, so that all of it is seen"""


def number(prefix):
    """0 for nothing, 1 … 4 for one token, 5 … for two."""
    found = 0
    for token in prefix:
        found = V * found + 1 + token
    return found


def complete(prefix):
    return len(prefix) == LONGEST or END in prefix


PREFIXES = [
    prefix
    for length in range(LONGEST + 1)
    for prefix in itertools.product(range(V), repeat=length)
    if END not in prefix[:-1]
]
TEXTS = [prefix for prefix in PREFIXES if complete(prefix)]


def probability(text, table=TABLE):
    """p of a text (or of beginning so)."""
    return np.prod([float(table[number(text[:i]), token]) for i, token in enumerate(text)])


P = np.array([probability(text) for text in TEXTS])
C = np.array([float(WANTED in text) for text in TEXTS])
"""the constraint: token 1 stands in the text. After it R is 1; after the end without it 0."""


def belief(values, prefix, p=P):
    """E[values | prefix] over the texts that begin with it."""
    within = np.array([text[: len(prefix)] == prefix for text in TEXTS])
    return (p * values)[within].sum() / p[within].sum()


def beliefs(values, p=P):
    """[STATES, V]: E[values | prefix + token]; 0 where no text goes on so."""
    table = np.zeros((STATES, V))
    for prefix in PREFIXES[1:]:
        table[number(prefix[:-1]), prefix[-1]] = belief(values, prefix, p)
    return table


REACHED = np.zeros((STATES, V), bool)
for _prefix in PREFIXES[1:]:
    REACHED[number(_prefix[:-1]), _prefix[-1]] = True


@dataclass(frozen=True)
class PrefixLM:
    """Logits are the row of the prefix's number, the state is that number as a unit vector."""

    def prefill(self, params, tokens, lengths, layers, max_new_tokens):
        return {3: jnp.zeros((*tokens.shape, STATES))}, jnp.zeros(len(tokens), jnp.int32)

    def step(self, params, cache, token, positions, layers, queries=None):
        at = jnp.where(positions == 0, 0, V * cache + 1 + token)  # the prompt is one token
        return Step(params[at], {3: jax.nn.one_hot(at, STATES)}, at)


CONFIG = tiny_config(vocab_size=V, hidden_size=STATES)


def model(parametrization="nado"):
    return build(RewardModelConfig(parametrization), CONFIG)


def decode(count, reward_model=None, params=(), **settings):
    """`count` rows of the engine, each a sample of its own; β = 1 with a reward model."""
    beta = float(reward_model is not None)
    defaults = {"top_k": V, "max_new_tokens": LONGEST, "beta": beta}
    sampling = SamplingConfig(**{**defaults, **settings})
    guides = Guides()
    if reward_model is not None:
        guides = Guides((0,), (reward_model.probability_link,), 1)
    program = Program(PrefixLM(), reward_model, V, (END,), END)
    requests = [Request([0], i, 0) for i in range(count)]
    rows = decode_rows(
        program,
        jnp.log(jnp.asarray(TABLE)),
        params,
        requests,
        sampling,
        batch_size=64,
        guides=guides,
    )
    return list(rows)
