"""The text façade, `import rewardjax as rj`: prompts in, continuations out."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from rewardjax.decoding.loop import Hook
from rewardjax.decoding.retry import decode_halving
from rewardjax.decoding.runner import Request, Row, SamplingConfig
from rewardjax.engine import RewardModels, make_engine, room
from rewardjax.errors import RewardJaxError, nearest
from rewardjax.lm import LM
from rewardjax.streaming import text_pieces
from rewardjax.text import (
    EncodedPrompt,
    Generation,
    Prompt,
    check_context,
    check_fit,
    check_list,
    check_sampling,
    encode_prompt,
    stop_check,
    to_generation,
)


def generate(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    reward_model: RewardModels = None,
    output: int | Sequence[int] = 0,
    num_samples: int = 1,
    stop: str | Sequence[str] | None = None,
    batch_size: int = 32,
    chat: bool = False,
    hook: Hook | None = None,
    **settings: Any,
) -> list[list[Generation]]:
    """Steered continuations, prompt by prompt and sample by sample.

    Args:
        lm: the frozen LM.
        prompts: strings (encoded as `lm.tokenizer(text)`, nothing added) or lists of ids.
        reward_model: what steers, one or several at once; None decodes the plain LM.
        output: which of its outputs steers; of several reward models one each, or one for all.
        num_samples: samples per prompt.
        stop: strings that end a continuation; they are not part of its text.
        batch_size: rows decoded at once (memory and speed only, never the texts).
        chat: wrap string prompts in the tokenizer's chat template.
        hook: a pure `f(state, lm_logits, candidates) -> scores` of your own (`decoding.loop.Hook`).
        settings: the fields of `rj.SamplingConfig`: beta, top_k, temperature, max_new_tokens …

    Raises:
        RewardJaxError: bad settings, an empty prompt, a prompt beyond the context, or a reward
            model of another LM.
    """
    sampling = sampling_of(settings)
    check_list("prompts", prompts)
    encoded = [encode_prompt(lm, prompt, i, chat=chat) for i, prompt in enumerate(prompts)]
    check_fit(lm, encoded, sampling, room(lm, reward_model))
    rows = iterate_generations(
        lm,
        encoded,
        sampling,
        reward_model=reward_model,
        output=output,
        num_samples=num_samples,
        stop=stops_of(stop),
        batch_size=min(batch_size, max(1, len(encoded) * num_samples)),
        hook=hook,
    )
    return [[next(rows) for _ in range(num_samples)] for _ in encoded]


def stream(
    lm: LM,
    prompt: Prompt,
    *,
    reward_model: RewardModels = None,
    output: int | Sequence[int] = 0,
    stop: str | Sequence[str] | None = None,
    chat: bool = False,
    hook: Hook | None = None,
    **settings: Any,
) -> Iterator[str]:
    """One continuation, piece by piece; together they are the text that `generate` gives.

    A piece is held back while it may be half a character or the beginning of a stop string.
    Arguments and errors are those of `generate`.
    """
    sampling = sampling_of(settings)
    encoded = encode_prompt(lm, prompt, 0, chat=chat)
    return stream_encoded(lm, encoded, sampling, reward_model, output, stops_of(stop), hook)


def stream_encoded(
    lm: LM,
    prompt: EncodedPrompt,
    sampling: SamplingConfig,
    reward_model: RewardModels = None,
    output: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    hook: Hook | None = None,
) -> Iterator[str]:
    """`stream` of an encoded prompt, which keeps its index; checked before the first piece."""
    check_sampling(1, 1, stop)
    check_fit(lm, [prompt], sampling, room(lm, reward_model))
    engine = make_engine(lm, reward_model, sampling, outputs=output, hook=hook)
    return text_pieces(lm, prompt, engine, sampling, stop)


def iterate_generations(
    lm: LM,
    prompts: Iterable[EncodedPrompt],
    sampling: SamplingConfig,
    *,
    stop: Sequence[str] = (),
    **how: Any,
) -> Iterator[Generation]:
    """`iterate_rows`, which takes the rest, as generations."""
    rows = iterate_rows(lm, prompts, sampling, stop=stop, **how)
    return (to_generation(lm, prompt, row, stop, sampling) for prompt, row in rows)


def iterate_rows(
    lm: LM,
    prompts: Iterable[EncodedPrompt],
    sampling: SamplingConfig,
    *,
    reward_model: RewardModels = None,
    output: int | Sequence[int] = 0,
    num_samples: int = 1,
    stop: Sequence[str] = (),
    batch_size: int = 32,
    skip: int = 0,
    hook: Hook | None = None,
    recorded: Sequence[int] = (),
) -> Iterator[tuple[EncodedPrompt, Row]]:
    """Rows in order of prompt, then sample; the first `skip` rows are left out.

    Settings are checked here, before the first row is asked for; each prompt when its turn comes
    (`check_fit` looks at all of them at once). Of the prompts only those of the rows in hand are
    kept, so there may be any number. Indices must differ. Out of memory: `decode_halving`.
    """
    check_sampling(num_samples, batch_size, stop)
    context = room(lm, reward_model)
    check_fit(lm, (), sampling, context)
    engine = make_engine(lm, reward_model, sampling, outputs=output, hook=hook, recorded=recorded)
    in_hand = deque[EncodedPrompt]()  # of the rows that were asked for and have not come yet

    def requests() -> Iterator[Request]:
        every = ((prompt, sample) for prompt in prompts for sample in range(num_samples))
        for prompt, sample in itertools.islice(every, skip, None):
            check_context(prompt, sampling.max_new_tokens, context)
            in_hand.append(prompt)
            yield Request(prompt.token_ids, prompt.index, sample)

    def decode(requests: Iterable[Request], batch_size: int) -> Iterator[Row]:
        check = partial(stop_check, lm, stop) if stop else None
        return engine.rows(requests, sampling, batch_size=batch_size, stop_check=check)

    return ((in_hand.popleft(), row) for row in decode_halving(decode, requests(), batch_size))


def sampling_of(settings: dict[str, Any]) -> SamplingConfig:
    """Keyword arguments as settings. Raises RewardJaxError naming the one that is none."""
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    if unknown := [name for name in settings if name not in names]:
        raise RewardJaxError(
            f"{unknown[0]!r} is no argument and no setting{nearest(unknown[0], names)}; see"
            " rewardjax.SamplingConfig"
        )
    return SamplingConfig(**settings)


def stops_of(stop: str | Sequence[str] | None) -> Sequence[str]:
    """One stop string, several or none as several."""
    return [stop] if isinstance(stop, str) else stop or ()
