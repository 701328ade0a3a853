"""Batches of every text of a tabular language model, and heads whose R is exact."""

import jax
import jax.numpy as jnp
import numpy as np

from rewardjax.decoding.guidance import log_probabilities
from rewardjax.rewards import RewardParams
from rewardjax.train.losses import Inputs
from rewardjax.train.nado_loss import NadoLoss
from rewardjax.train.nado_settings import NadoObjectiveConfig
from tests.decoding import prefixes as tab

N = len(tab.TEXTS)
T = tab.LONGEST + 1
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), N)  # of which this loss draws nothing
LM_HEAD = {"lm": {"lm_head": {"kernel": jnp.log(jnp.asarray(tab.TABLE))}}}
"""logits of a prefix's unit vector are its row of the table"""


BEST = np.argsort(-tab.TABLE, axis=1).astype(np.int32)
"""tokens after each prefix, most probable first"""


def among(k):
    """p among the k most probable tokens of each prefix, renormalised: its table and its texts."""
    top = np.zeros_like(tab.TABLE)
    best = BEST[:, :k]
    np.put_along_axis(top, best, np.take_along_axis(tab.TABLE, best, 1), 1)
    table = top / top.sum(axis=1, keepdims=True)
    return table, np.array([tab.probability(text, table) for text in tab.TEXTS])


def inputs(weights, labels=tab.C, k=tab.V):
    """Every text once, behind a prompt of one token; states are the prefixes' numbers."""
    tokens, lengths = np.zeros((N, T), np.int32), np.zeros(N, np.int32)
    numbers = np.zeros((N, T), int)
    for i, text in enumerate(tab.TEXTS):
        lengths[i] = 1 + len(text)
        tokens[i, 1 : lengths[i]] = text
        numbers[i, : lengths[i] - 1] = [tab.number(text[:t]) for t in range(len(text))]
    # what the LM thinks of position t: it has read the tokens before
    before = np.pad(numbers[:, :-1], ((0, 0), (1, 0)))
    made = Inputs(
        tokens,
        lengths,
        np.asarray(labels, np.float32)[:, None],
        {3: np.eye(tab.STATES, dtype=np.float32)[numbers]},
        candidates=BEST[before, :k],
        logprobs=np.log(np.take_along_axis(tab.TABLE, BEST, 1))[before, :k],
        prompt_lengths=np.ones(N, np.int32),
        weights=np.asarray(weights, np.float32),
    )
    return jax.tree.map(jnp.asarray, made)


def loss_of(model, weight=0.3, prefixes="all", candidates=tab.V):
    config = NadoObjectiveConfig(prefixes, weight)
    return NadoLoss(config, model.probability_link, candidates)


def r_of(model, params):
    rows = model.state_rows(params, jnp.eye(tab.STATES))[..., 0]
    return np.exp(np.asarray(log_probabilities(rows, model.probability_link)[0]))


EXACT = tab.beliefs(tab.C)


def exact_params(values=EXACT):
    """R as logits of ±60 at most: certain to 1e-26."""
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(values) - np.log1p(-values), -60, 60)
    head = {"vocabulary": jnp.asarray(logits.T[None], jnp.float32), "bias": jnp.zeros((1, tab.V))}
    return RewardParams({"head": head}, ())


def exact_norm():
    """The same in the other parametrization: the level is the best token's R."""
    with np.errstate(divide="ignore"):
        shape = np.clip(np.log(EXACT), -60, 0)
        best = np.exp(shape.max(axis=1))
        level = np.clip(np.log(best) - np.log1p(-best), -60, 60)
    head = {
        "vocabulary": jnp.asarray(shape.T[None], jnp.float32),
        "bias": jnp.zeros((1, tab.V)),
        "level": {"kernel": jnp.asarray(level[None], jnp.float32), "bias": jnp.zeros(1)},
    }
    return RewardParams({"head": head}, ())


@jax.jit
def consistency(params):
    """Our second term of every text."""
    model, batch = tab.model(), inputs(np.ones(N))
    loss = loss_of(model)
    return loss.of_texts(loss.beliefs(model, params, batch), batch)[1]
