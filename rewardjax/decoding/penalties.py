"""What is taken from the logits before candidates are chosen: repetitions, and too early an end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.decoding.state import NO_TOKEN, Settings


def penalize(
    logits: Float[Array, "B V"],
    prompt: Int[Array, "B P"],
    generated: Int[Array, "B N"],
    row_step: Int[Array, "B"],
    settings: Settings,
) -> Float[Array, "B V"]:
    """Logits with the row's penalties; rows that ask for none keep theirs bit for bit.

    In this order: repetition (logits of tokens in prompt or text: z / r where z > 0, z * r else;
    arXiv 1909.05858), presence (once) and frequency (per occurrence) of generated tokens (as in
    OpenAI's API), and -inf for what would end the text before `min_new_tokens`. Nothing of size
    B x V is kept for it: only tokens that stand there are touched.

    Args:
      prompt: ids, NO_TOKEN behind each prompt's end.
      generated: ids, of which the first `row_step` count.
    """
    asked = (
        (settings.repetition_penalty != 1)
        | (settings.presence_penalty != 0)
        | (settings.frequency_penalty != 0)
        | (row_step < settings.min_new_tokens)
    )
    return jax.lax.cond(asked.any(), _penalize, lambda z, *_: z, logits, prompt, generated,
                        row_step, settings)  # fmt: skip


def _penalize(logits, prompt, generated, row_step, settings):
    rows = jnp.arange(logits.shape[0])[:, None]
    text = jnp.where(jnp.arange(generated.shape[1]) < row_step[:, None], generated, NO_TOKEN)
    seen = jnp.concatenate([prompt, text], axis=1)

    def at(ids: Array) -> Array:
        return jnp.take_along_axis(logits, ids, axis=1, mode="clip")

    # A token that stands there twice is set twice, to the same value.
    z, factor = at(seen), settings.repetition_penalty[:, None]
    logits = logits.at[rows, seen].set(jnp.where(z > 0, z / factor, z * factor), mode="drop")
    present = at(text) - settings.presence_penalty[:, None]
    logits = logits.at[rows, text].set(present, mode="drop")
    taken = jnp.broadcast_to(settings.frequency_penalty[:, None], text.shape)
    logits = logits.at[rows, text].add(-taken, mode="drop")  # adds up over occurrences
    early = row_step < settings.min_new_tokens
    ends = jnp.where(early[:, None], settings.stop_ids, NO_TOKEN)
    return logits.at[rows, ends].set(-jnp.inf, mode="drop")
