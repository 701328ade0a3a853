"""A continuation as it grows: pieces of text that are never taken back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rewardjax.decoding.queue import Numbered, Request, bucket
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.decoding.slots import Slots
from rewardjax.engine import Engine
from rewardjax.lm import LM
from rewardjax.text import EncodedPrompt, continuation_text, row_text, stop_check

BLOCK = 4
"""Steps between two pieces."""
HALF = "\N{REPLACEMENT CHARACTER}"
"""What decoders give for bytes that are not a whole character yet."""


def text_pieces(
    lm: LM, prompt: EncodedPrompt, engine: Engine, sampling: SamplingConfig, stop: Sequence[str]
) -> Iterator[str]:
    """Non-empty pieces; together they are the text of `row_text`."""
    slots = Slots(
        engine.program, engine.lm_params, engine.reward_params, sampling, 1, engine.guides
    )
    request = Request(prompt.token_ids, prompt.index, 0)
    slots.fill([0], [Numbered(0, request)], bucket(len(prompt.token_ids)))
    check = partial(stop_check, lm, stop) if stop else None
    out = ""
    while True:
        slots.run(check, BLOCK)
        finished = next(slots.pop_finished(), None)
        if finished is not None:
            text = row_text(lm, prompt, finished[1], stop, sampling)
        else:
            text = settled(continuation_text(lm, prompt.token_ids, slots.tokens(0)), stop)
        if len(text) > len(out):
            yield text[len(out) :]
            out = text
        if finished is not None:
            return


def settled(text: str, stop: Sequence[str]) -> str:
    """The text without a last half character, and without what may become a stop string."""
    text = text.rstrip(HALF)
    longest = max(
        (n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])),
        default=0,
    )
    return text[: len(text) - longest]
