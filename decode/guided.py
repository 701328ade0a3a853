"""`rewardjax decode guided`: prompts in, steered continuations out, as JSONL."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rewardjax.config import parse, to_plain
from rewardjax.data.prompts import PromptFile, PromptRow, digest, open_prompts
from rewardjax.errors import RewardJaxError, short
from rewardjax.progress import bar


@dataclasses.dataclass(frozen=True)
class GuidedConfig:
    """Settings of `rewardjax decode guided`."""

    lm: str = "smollm2-135m"
    """the frozen LM: an alias, a folder, a .gguf file or a hub id"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the LM"""
    reward_model: str | None = None
    """folder of a trained reward model; unset: no guidance"""
    prompt: tuple[str, ...] = ()
    """prompts on the command line"""
    prompts: str | None = None
    """file of prompts: .txt (a line each) or .jsonl, plain or .gz; - is standard input"""
    prompt_field: str = "prompt"
    """of a .jsonl: the prompt's field, dots for nesting (prompt.text)"""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """of a .jsonl: only rows that compare so, such as 'prompt.toxicity>=0.5'; may be repeated"""
    limit: int | None = None
    """take so many of the prompts; unset: all"""
    offset: int = 0
    """leave out so many of them first"""
    shuffle_seed: int | None = None
    """draw them at random by this seed; unset: in the order of the file"""
    chat: bool = False
    """wrap each prompt in the tokenizer's chat template"""
    beta: float = 0.0
    """guidance strength, >= 0"""
    top_k: int = 20
    """candidates per step, from the unsteered logits"""
    top_p: float = 1.0
    """nucleus within the top-k, from the unsteered logits"""
    temperature: float = 1.0
    """divides the steered scores; 0 is greedy"""
    invert: bool = False
    """lower the attribute instead of raising it"""
    num_samples: int = 1
    """continuations per prompt"""
    max_new_tokens: int = 20
    """longest continuation, in tokens"""
    stop: tuple[str, ...] = ()
    """strings that end a continuation (left out of its text)"""
    seed: int = 0
    """with prompt index and sample index it decides each text, whatever the batch"""
    batch_size: int = 32
    """rows decoded at once: memory and speed only"""
    out: str = "-"
    """JSONL file to write; - is standard output"""
    resume: bool = False
    """go on with an unfinished --out"""
    overwrite: bool = False
    """replace an existing --out"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        GuidedConfig,
        argv,
        prog="rewardjax decode guided",
        description="Steer a frozen LM with a reward model while it decodes; write JSONL rows.",
    )
    rows = _prompts(config)
    # Everything that can be wrong is looked at before weights are read.
    from rewardjax.api import iterate_generations
    from rewardjax.decoding.memory import available_memory, check_memory, decoding_need
    from rewardjax.decoding.runner import SamplingConfig
    from rewardjax.decoding.sampling import capacity_for
    from rewardjax.export import context, load_reward_model
    from rewardjax.lm import open_lm
    from rewardjax.text import EncodedPrompt, check_fit, check_sampling, encode_prompt

    from .rows_file import RowsFile

    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    sampling = SamplingConfig(**{name: getattr(config, name) for name in names})
    check_sampling(config.num_samples, config.batch_size, config.stop)
    folder = config.reward_model
    reward_model = None if folder is None else load_reward_model(folder)
    if reward_model is None and config.beta > 0:
        raise RewardJaxError(f"beta is {config.beta} but no --reward-model is given; name one")
    # What changes no text may differ between an interrupted run and the one that resumes it.
    settings = to_plain(config)
    for name in ("batch_size", "resume", "overwrite", "out"):
        del settings[name]
    # A file that was edited in between is another job, whatever its name.
    settings["prompts_sha256"] = digest(rows)
    if folder is not None:
        files = ("config.json", "model.safetensors")
        settings["reward_model_sha256"] = [
            hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() for name in files
        ]
    out = RowsFile(config.out, settings, resume=config.resume, overwrite=config.overwrite)
    if out.finished:
        return 0

    # Prompts are read and encoded twice, so that none is kept: to look at every one before the
    # weights are read, and to decode them.
    first, skip = divmod(out.done, config.num_samples)
    opened = open_lm(config.lm, dtype=config.dtype)

    def encoded() -> Iterator[EncodedPrompt]:
        for row in itertools.islice(rows, first, None):
            yield encode_prompt(opened, row.text, row.index, chat=config.chat, where=row.where)

    longest = check_fit(opened, encoded(), sampling, context(opened, reward_model))
    total = len(rows) * config.num_samples
    batch_size = min(config.batch_size, total)
    models = [] if reward_model is None else [reward_model.shapes(opened.config, config.dtype)]
    need = decoding_need(
        opened.config,
        config.dtype,
        models,
        longest=longest,
        max_new_tokens=config.max_new_tokens,
        num_candidates=capacity_for(config.top_k, opened.config.vocab_size),
        samples=config.num_samples,
    )
    check_memory(need, batch_size, available_memory())
    generations = iterate_generations(
        opened.load(),
        encoded(),
        sampling,
        reward_model=reward_model,
        num_samples=config.num_samples,
        stop=config.stop,
        batch_size=batch_size,
        skip=skip,
    )
    tokens, began = 0, time.monotonic()
    with out, bar("decoding", total, done=out.done) as advance:
        for generation in generations:
            out.write(generation.to_json())
            tokens += len(generation.token_ids)
            advance(1, **{"tokens/s": tokens / (time.monotonic() - began)})
    return 0


def _prompts(config: GuidedConfig) -> list[PromptRow] | PromptFile:
    if bool(config.prompt) == (config.prompts is not None):
        got = "both" if config.prompt else "neither"
        raise RewardJaxError(f"expected either --prompt TEXT … or --prompts FILE, got {got}")
    if config.prompts is not None:
        return open_prompts(
            config.prompts,
            config.prompt_field,
            where=config.where,
            limit=config.limit,
            offset=config.offset,
            shuffle_seed=config.shuffle_seed,
        )
    if config.where or (config.limit, config.offset, config.shuffle_seed) != (None, 0, None):
        raise RewardJaxError(
            "--where, --limit, --offset and --shuffle-seed choose among the rows of a file; "
            "expected --prompts FILE with them"
        )
    for text in config.prompt:
        if not text.strip():
            raise RewardJaxError(f"--prompt {short(text)} is empty; expected some text")
    return [PromptRow(text, i, f"--prompt {short(text)}") for i, text in enumerate(config.prompt)]
