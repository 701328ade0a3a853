"""Texts, and a reward model's functions called on them as the library calls them: compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rewardjax.lm import causal_mask, forward

RNG = np.random.default_rng(1)
B, T = 4, 9
TOKENS = jnp.asarray(RNG.integers(3, 128, (B, T)), jnp.int32)
LENGTHS = jnp.array([9, 3, 6, 1], jnp.int32)
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


@functools.partial(jax.jit, static_argnums=(0, 4))
def lm_states(config, params, tokens, lengths, layers):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = causal_mask(lengths, tokens.shape[1])
    return forward(config, params, tokens, positions, mask, capture=layers)[0]


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="sizes")
def compiled(name, model, *args, sizes=()):
    """A method of the contract; compiled, for one operation at a time is slower by far."""
    return getattr(model, name)(*args, **dict(sizes))


def states(lm, tokens, lengths, layers):
    return lm_states(lm.config, lm.params, tokens, lengths, layers)


def score(lm, model, params, tokens, lengths):
    hidden = states(lm, tokens, lengths, model.layers)
    return compiled("token_rewards", model, params, tokens, lengths, hidden)


def prefilled(lm, model, params, tokens, lengths, extra=8, candidates=8):
    hidden = states(lm, tokens, lengths, model.layers)
    sizes = (("max_new_tokens", extra), ("num_candidates", candidates))
    cache = compiled("prefill", model, params, tokens, lengths, hidden, sizes=sizes)
    return cache, at_last(hidden, lengths)


def candidate_rewards(model, params, cache, hidden, candidates):
    return compiled("candidate_rewards", model, params, cache, hidden, candidates)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def all_rows(model, params, cache, hidden, batch, chunk):
    return model.rows(params, cache, hidden, batch, chunk)


@jax.jit
def at_last(hidden, lengths):
    rows = jnp.arange(lengths.shape[0])
    return {layer: h[rows, lengths - 1] for layer, h in hidden.items()}


def append(tokens, lengths, new):
    """Right-padded tokens with new[b] put behind row b's last token."""
    tokens = np.array(tokens)
    tokens[np.arange(len(tokens)), lengths] = new
    return jnp.asarray(tokens), lengths + 1


def wider(tokens, n):
    """The same texts with n more columns of padding."""
    return np.pad(tokens, ((0, 0), (0, n)))


def last(rewards, lengths):
    return np.asarray(rewards)[np.arange(len(lengths)), lengths - 1]


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
