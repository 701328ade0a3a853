"""What reward models and the LM say of given texts: rewards of tokens, whole rows, perplexity."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax.decoding.runner import bucket
from rewardjax.errors import RewardJaxError, short
from rewardjax.export import TrainedRewardModel, context
from rewardjax.lm import LM, causal_mask, forward
from rewardjax.metrics.perplexity import continuation_perplexity
from rewardjax.rewards import Hidden, RewardModel, RewardParams
from rewardjax.text import (
    EncodedPrompt,
    Prompt,
    check_context,
    check_list,
    encode_prompt,
    encode_text,
)


def reward(
    lm: LM, reward_model: TrainedRewardModel, texts: Sequence[Prompt]
) -> list[Float[np.ndarray, "T A"]]:
    """Raw reward of every token of each text: entry t is R[x_<t, x_t].

    A head on the base LM's states scores from the second token on (nothing was read before the
    first); its first row is NaN.

    Raises:
        RewardJaxError: an empty or too long text, or a reward model of another LM.
    """
    model, params = reward_model.bind(lm)
    ids = [prompt.token_ids for prompt in _encode_texts(lm, texts, context(lm, reward_model))]
    rewards: dict[int, np.ndarray] = {}
    for rows in _alike(ids):
        tokens, lengths = _pad([ids[i] for i in rows])
        scores = np.array(_token_rewards(model, lm.params, params, tokens, lengths))
        scores[:, : model.first_scored] = np.nan
        rewards |= {i: scores[row, : len(ids[i])] for row, i in enumerate(rows)}
    return [rewards[i] for i in range(len(ids))]


def reward_rows(
    lm: LM, reward_model: TrainedRewardModel, prefixes: Sequence[Prompt], *, chunk: int = 512
) -> Float[np.ndarray, "N V A"]:
    """Whole rows of the reward matrix: the raw reward of every token after each prefix.

    Scored `chunk` tokens at a time, for every parametrization (RAD runs |V| candidates a row).
    """
    if chunk < 1:
        raise RewardJaxError(f"chunk is {chunk}; expected an integer >= 1")
    model, params = reward_model.bind(lm)
    rows = [
        np.asarray(_rows(model, lm.params, params, *_pad([prompt.token_ids]), chunk)[0])
        for prompt in _encode_texts(lm, prefixes, context(lm, reward_model))
    ]
    return np.stack(rows) if rows else np.zeros((0, lm.config.vocab_size, model.outputs))


def perplexity(
    lm: LM, texts: Sequence[str], prompts: Sequence[str] | None = None
) -> Float[np.ndarray, "N"]:
    """Perplexity of each text; with prompts, of `texts[i]` as the continuation of `prompts[i]`.

    exp((NLL(prompt + text) - NLL(prompt)) / (n_full - n_prompt)), methods.md §3. Without prompts
    the first token of a text, which nothing precedes, is not scored.

    Raises:
        RewardJaxError: a text that adds no token, or that is longer than the context.
    """
    for name, strings in (("texts", texts), ("prompts", prompts or ())):
        check_list(name, strings)
        if bad := [text for text in strings if not isinstance(text, str)]:
            raise RewardJaxError(f"{name} holds {short(bad[0])}; expected strings")
    if prompts is not None and len(prompts) != len(texts):
        raise RewardJaxError(
            f"perplexity got {len(texts)} texts and {len(prompts)} prompts; expected as many"
        )
    alone = prompts if prompts is not None else [""] * len(texts)
    prompt_ids = [encode_text(lm, p, f"prompt {i}") if p else [] for i, p in enumerate(alone)]
    full_ids = [encode_text(lm, alone[i] + text, f"text {i}") for i, text in enumerate(texts)]
    for i, (before, full) in enumerate(zip(prompt_ids, full_ids, strict=True)):
        if len(full) <= max(1, len(before)):
            raise RewardJaxError(
                f"text {i} has no token to score after its prompt ({len(full)} in all); expected"
                " at least one token that another precedes"
            )
    return continuation_perplexity(lm.config, lm.params, prompt_ids, full_ids)


def _encode_texts(lm: LM, texts: Sequence[Prompt], room: int) -> list[EncodedPrompt]:
    check_list("texts", texts)
    encoded = [encode_prompt(lm, text, i, where=f"text {i}") for i, text in enumerate(texts)]
    for text in encoded:
        check_context(text, 0, room)
    return encoded


def _alike(ids: Sequence[Sequence[int]], most: int = 16) -> Iterator[list[int]]:
    """Numbers of texts of one bucket, at most so many together: a power of two, so that few sizes
    are compiled."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for _, group in itertools.groupby(order, key=lambda i: bucket(len(ids[i]))):
        rows = list(group)
        while rows:
            size = min(most, 1 << (len(rows).bit_length() - 1))
            yield rows[:size]
            rows = rows[size:]


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    width = bucket(max(len(row) for row in rows))
    tokens = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return jnp.asarray(tokens), jnp.asarray([len(row) for row in rows], jnp.int32)


def _hidden(model: RewardModel, lm_params: Any, tokens: Array, lengths: Array) -> Hidden:
    if not model.layers:
        return {}
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = causal_mask(lengths, tokens.shape[1])
    return forward(model.lm, lm_params, tokens, positions, mask, capture=model.layers)[0]


@partial(jax.jit, static_argnames="model")
def _token_rewards(
    model: RewardModel,
    lm_params: Any,
    params: RewardParams,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B T A"]:
    hidden = _hidden(model, lm_params, tokens, lengths)
    return model.token_rewards(params, tokens, lengths, hidden)


@partial(jax.jit, static_argnames=("model", "chunk"))
def _rows(
    model: RewardModel,
    lm_params: Any,
    params: RewardParams,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    chunk: int,
) -> Float[Array, "B V A"]:
    hidden = _hidden(model, lm_params, tokens, lengths)
    last = {
        layer: jnp.take_along_axis(h, lengths[:, None, None] - 1, axis=1)[:, 0]
        for layer, h in hidden.items()
    }
    cache = model.prefill(params, tokens, lengths, hidden, max_new_tokens=0, num_candidates=chunk)
    return model.rows(params, cache, last, tokens.shape[0], chunk)
