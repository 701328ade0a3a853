"""Between texts and token ids, for everything that decodes or scores text."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from rewardjax.data.lines import half_surrogate
from rewardjax.decoding.runner import Request, Row, SamplingConfig
from rewardjax.errors import RewardJaxError, short
from rewardjax.lm import LM, OpenedLM

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Generation:
    """One continuation; the same fields as a JSONL row of `rewardjax decode guided`."""

    prompt: str
    text: str
    """the continuation alone, without the EOS or the stop string"""
    token_ids: list[int]
    """generated ids, with the EOS if it was drawn: T of them"""
    logprobs: list[float]
    """log-probability of each token under the steered distribution it was drawn from"""
    base_logprobs: list[float]
    """log-probability under the unsteered LM, whole vocabulary, temperature 1"""
    rewards: list[list[float]]
    """raw reward of each token, [T][A]; empty lists without a reward model"""
    kl: list[float]
    """KL(steered || unsteered whole distribution) at each step, nats"""
    clipped_share: float
    """share of the candidates whose raw reward lies outside [0, 1]"""
    finish_reason: str
    """eos, stop or length"""
    seed: int
    prompt_index: int
    sample_index: int

    def to_json(self) -> dict[str, Any]:
        """The JSONL row."""
        return asdict(self)


class EncodedPrompt(NamedTuple):
    """A prompt with its ids, the index that seeds its samples, and how errors call it."""

    text: str
    token_ids: list[int]
    index: int
    where: str


def encode_prompt(
    lm: LM | OpenedLM, prompt: Prompt, index: int, *, chat: bool = False, where: str | None = None
) -> EncodedPrompt:
    """Ids of one prompt.

    Raises:
        RewardJaxError: beginning with `where` (`prompt INDEX` by default); no token, an id
            outside the vocabulary, or text that is not valid Unicode.
    """
    where = where or f"prompt {index}"
    if not isinstance(prompt, str):
        try:
            ids = [operator.index(token) for token in prompt]
        except TypeError:
            raise RewardJaxError(
                f"{where} is {short(prompt)}; expected a string or a list of token ids"
            ) from None
        if not ids or min(ids) < 0 or max(ids) >= lm.config.vocab_size:
            raise RewardJaxError(
                f"{where} is {ids[:8]}; expected at least one id in 0 .. {lm.config.vocab_size - 1}"
            )
        return EncodedPrompt(lm.tokenizer.decode(ids), ids, index, where)
    if chat:
        if not getattr(lm.tokenizer, "chat_template", None):
            raise RewardJaxError(f"{lm.source} has no chat template; decode without chat")
        check_unicode(prompt, where)
        turns = [{"role": "user", "content": prompt}]
        try:
            ids = lm.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # a template is a program of the model's authors
            raise RewardJaxError(
                f"{where} does not go through the chat template of {lm.source!r}:"
                f" {type(error).__name__}: {error}; decode without chat"
            ) from error
    else:
        ids = encode_text(lm, prompt, where)
    if not ids:
        raise RewardJaxError(f"{where} is empty; expected at least one token of text")
    return EncodedPrompt(prompt, list(ids), index, where)


def encode_text(lm: LM | OpenedLM, text: str, where: str = "a text") -> list[int]:
    """Ids of a string as the LM's own tokenizer gives them; nothing is added.

    Raises:
        RewardJaxError: text that is not valid Unicode.
    """
    check_unicode(text, where)
    return list(lm.tokenizer(text, verbose=False)["input_ids"])


def check_unicode(text: str, where: str) -> None:
    """Refuses half surrogate pairs, at which tokenizers fail."""
    if half_surrogate(text):
        raise RewardJaxError(f"{where} holds half a surrogate pair; expected valid Unicode")


def check_list(name: str, values: Any) -> None:
    """Refuses one string where a list of them is expected: its letters would pass for texts."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise RewardJaxError(f"{name} is {short(values)}; expected a list")


def check_context(prompt: EncodedPrompt, max_new_tokens: int, room: int) -> None:
    """Refuses a prompt that leaves no room for the continuation in a context of `room` tokens."""
    length = len(prompt.token_ids)
    new = f" with {max_new_tokens} new tokens" if max_new_tokens else ""
    if length + max_new_tokens > room:
        raise RewardJaxError(
            f"{prompt.where} has {length} tokens, which{new} exceeds the context of {room};"
            f" shorten it{' or lower max_new_tokens' if new else ''}"
        )


def check_fit(
    lm: LM | OpenedLM, prompts: Iterable[EncodedPrompt], sampling: SamplingConfig, room: int
) -> int:
    """Refuses settings that the vocabulary cannot hold, and prompts that `room` tokens cannot.

    Returns the length of the longest prompt, in tokens (0 without prompts).
    """
    if sampling.top_k > lm.config.vocab_size:
        raise RewardJaxError(
            f"top_k is {sampling.top_k}; expected at most the vocabulary's {lm.config.vocab_size}"
        )
    longest = 0
    for prompt in prompts:
        check_context(prompt, sampling.max_new_tokens, room)
        longest = max(longest, len(prompt.token_ids))
    return longest


def check_sampling(num_samples: int, batch_size: int, stop: Sequence[str]) -> None:
    """Refuses counts below one and empty stop strings."""
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value < 1:
            raise RewardJaxError(f"{name} is {value}; expected an integer >= 1")
    if any(not text for text in stop):
        raise RewardJaxError("stop holds an empty string; expected non-empty strings")


def stop_check(
    lm: LM, stop: Sequence[str], request: Request, token_ids: Sequence[int]
) -> int | None:
    """Number of tokens up to the one that completes a stop string."""

    def contains(n: int) -> bool:
        text = continuation_text(lm, request.token_ids, token_ids[:n])
        return any(s in text for s in stop)

    if not contains(len(token_ids)):
        return None
    low, high = 1, len(token_ids)  # the text grows with n, so search by halves
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if contains(middle) else (middle + 1, high)
    return low


def to_generation(
    lm: LM, prompt: EncodedPrompt, row: Row, stop: Sequence[str], sampling: SamplingConfig
) -> Generation:
    return Generation(
        prompt.text,
        row_text(lm, prompt, row, stop, sampling),
        row.token_ids,
        row.logprobs.tolist(),
        row.base_logprobs.tolist(),
        row.rewards.tolist(),
        row.kl.tolist(),
        row.clipped_share,
        row.finish_reason,
        sampling.seed,
        row.request.prompt_index,
        row.request.sample_index,
    )


def row_text(
    lm: LM, prompt: EncodedPrompt, row: Row, stop: Sequence[str], sampling: SamplingConfig
) -> str:
    """The continuation, without what ended it."""
    ids = row.token_ids
    if ids and ids[-1] in sampling.stop_ids:
        return continuation_text(lm, prompt.token_ids, ids[:-1])
    text = continuation_text(lm, prompt.token_ids, ids)
    return text[: first_stop(text, stop)] if row.finish_reason == "stop" else text


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins; None where none stands."""
    return min((at for s in stop if (at := text.find(s)) >= 0), default=None)


def continuation_text(
    lm: LM | OpenedLM, prompt_ids: Sequence[int], token_ids: Sequence[int]
) -> str:
    """Text of the new ids as they read after the prompt (some tokenizers drop a first space)."""
    decode = partial(lm.tokenizer.decode, skip_special_tokens=True)
    before, whole = decode(list(prompt_ids)), decode([*prompt_ids, *token_ids])
    return whole[len(before) :] if whole.startswith(before) else decode(list(token_ids))
