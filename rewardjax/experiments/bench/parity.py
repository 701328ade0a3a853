"""Before anything is timed: do PyTorch's guided logits equal ours?

Our engine decodes; the same steps are taken again through the reward model's contract, with
candidates and guidance written out in NumPy, and by `generate`, which is made to take our tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rewardjax.decoding.loop import TransformerLM
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.bench.cases import CASES, ours, prompts, reward_model_of
from rewardjax.experiments.bench.models import BETA, Models
from rewardjax.experiments.bench.torch_peers import Follow, TorchModels, peer
from rewardjax.rewards import RewardModel, RewardParams

PyTree = Any
TOLERANCE = 1e-3
BATCH = 2


class Steps(NamedTuple):
    """Guided scores of N steps."""

    ids: np.ndarray
    """int[N, B, k], best first"""
    logits: np.ndarray
    """float[N, B, k], unsteered"""
    scores: np.ndarray
    """float[N, B, k], steered"""


def check(
    models: Models,
    theirs: TorchModels,
    case: str,
    *,
    candidates: int,
    length: int,
    steps: int,
) -> float:
    """The largest difference of guided logits, ours against PyTorch's, over some steps.

    Args:
      models: in float32.
      theirs: the same in PyTorch.
      case: key of `CASES`, k < |V|.
      length: tokens of a prompt.

    Raises:
      RewardJaxError: it is over 1e-3; the case is named.
    """
    k = min(candidates, models.lm.vocab_size)
    tokens = prompts(models.lm.vocab_size, BATCH, length)
    with jax.default_matmul_precision("highest"):
        system = ours(models, CASES[case], tokens, k, steps)
        state = system.decode(system.start())
        chosen, logprobs = np.asarray(state.tokens), np.asarray(state.logprobs)
        model, reward_params = reward_model_of(models, CASES[case])
        replayed = replay(models, model, reward_params, tokens, chosen, k)
    follow = Follow(chosen)
    peer(theirs, case, "float32", tokens, k, steps).generate([follow])
    scores = np.stack(follow.scores)
    if model is None:  # generate's own top-k comes after
        least = np.partition(scores, -k, axis=-1)[..., -k, None]
        scores = np.where(scores >= least, scores, -np.inf)
    worst = max(engine_difference(replayed, chosen, logprobs), difference(replayed, scores))
    if not worst <= TOLERANCE:
        raise RewardJaxError(
            f"case {case!r}: guided logits of PyTorch and ours differ by {worst:.2g}; expected at"
            f" most {TOLERANCE:g}; nothing was timed: report this as a bug, or pass --no-peers"
        )
    return worst


def replay(
    models: Models,
    reward_model: RewardModel | None,
    reward_params: RewardParams,
    tokens: np.ndarray,
    chosen: np.ndarray,
    k: int,
) -> Steps:
    """The steps that lead to `chosen` [B, N] after the prompts `tokens` [B, P], taken again."""
    lm, length = TransformerLM(models.lm), tokens.shape[1]
    batch, n = chosen.shape
    layers = reward_model.layers if reward_model else ()
    lengths = jnp.full(batch, length, jnp.int32)
    hidden, cache = lm.prefill(models.lm_params, jnp.asarray(tokens), lengths, layers, n)
    reward_cache: PyTree = ()
    if reward_model is not None:
        reward_cache = reward_model.prefill(
            reward_params,
            jnp.asarray(tokens),
            lengths,
            hidden,
            max_new_tokens=n,
            num_candidates=k,
        )

    @jax.jit
    def look(weights: PyTree, cache: PyTree, reward_cache: PyTree, token: Any, at: Any):
        lm_params, reward_params = weights
        logits, hidden, cache, _ = lm.step(lm_params, cache, token, at, layers)
        values, ids = jax.lax.top_k(logits, k)
        rewards, pending = jnp.zeros_like(values)[..., None], None
        if reward_model is not None:
            rewards, pending = reward_model.candidate_rewards(
                reward_params, reward_cache, hidden, ids
            )
        return values, ids, rewards[..., 0], pending, cache

    advance = jax.jit(reward_model.advance) if reward_model else None
    weights = (models.lm_params, reward_params)
    found = []
    token, at = jnp.asarray(tokens[:, -1]), lengths - 1
    for step in range(n):
        values, ids, rewards, pending, cache = look(weights, cache, reward_cache, token, at)
        z = np.asarray(values)
        steered = z + (BETA * np.clip(np.asarray(rewards), 0, 1) if advance else 0)
        found.append((np.asarray(ids), z, steered))
        token, at = jnp.asarray(chosen[:, step]), at + 1
        if advance is not None:
            place = jnp.argmax(ids == token[:, None], axis=1)
            reward_cache = advance(reward_params, reward_cache, pending, place)
    return Steps(*map(np.stack, zip(*found, strict=True)))


def engine_difference(steps: Steps, chosen: np.ndarray, logprobs: np.ndarray) -> float:
    """Largest difference of the chosen tokens' log-probabilities [B, N] from the replayed ones."""
    scores = steps.scores - steps.scores.max(axis=-1, keepdims=True)
    expected = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    taken = steps.ids == chosen.T[..., None]
    if not taken.any(axis=-1).all():
        return float("inf")  # the engine drew a token that is no candidate
    return float(np.abs(expected[taken] - logprobs.T.ravel()).max())


def difference(steps: Steps, scores: np.ndarray) -> float:
    """Largest difference of ours from guided scores [N, B, V], -inf where no candidate is.

    Candidates whose logit is that of the last one, up to the tolerance, may be others.
    """
    theirs = np.take_along_axis(scores, steps.ids, axis=-1)
    shared = np.isfinite(theirs)
    sure = steps.logits > steps.logits[..., -1:] + TOLERANCE
    if (sure & ~shared).any() or (np.isfinite(scores).sum(axis=-1) != steps.ids.shape[-1]).any():
        return float("inf")
    return float(np.abs(np.where(shared, theirs - steps.scores, 0.0)).max())
