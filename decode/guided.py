"""`rewardjax decode guided`: prompts in, steered continuations out, as JSONL."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from rewardjax.config import parse
from rewardjax.progress import bar

from .launch import launch
from .prompts import read_prompts
from .settings import GuidedConfig

if TYPE_CHECKING:
    from .job import Job
    from .rows_file import RowsFile


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        GuidedConfig,
        argv,
        prog="rewardjax decode guided",
        description="Steer a frozen LM with a reward model while it decodes; write JSONL rows.",
    )
    return launch(_decode, config)


def _decode(config: GuidedConfig) -> None:
    prompts = read_prompts(config)
    from .job import make_job
    from .shards import Share

    job = make_job(config, prompts)
    share = Share(config.out, job.settings(), resume=config.resume, overwrite=config.overwrite)
    job = dataclasses.replace(job, prompts=share.of(job.prompts))
    if not share.finished:
        _write(job, share.rows)
    share.merge(config.num_samples)


def _write(job: Job, out: RowsFile) -> None:
    """Decode what is left of the prompts into a file."""
    from rewardjax.api import iterate_generations, stream_encoded

    config, sampling, reward_models = job.config, job.sampling, job.reward_models
    # Prompts are read and encoded twice, so that none is kept: to look at every one before the
    # weights are read, and to decode them.
    first, skip = divmod(out.done, config.num_samples)
    opened = job.open(first)
    lm = opened.lm.load()
    total = len(job.prompts) * config.num_samples
    if config.out == "-" and total == 1 and sys.stdout.isatty():  # someone is watching
        for piece in stream_encoded(
            lm, next(opened.prompts()), sampling, reward_models, config.output, config.stop
        ):
            print(piece, end="", flush=True)
        print()
        return
    if config.warmup:
        opened.warm_up(lm)
    generations = iterate_generations(
        lm,
        opened.prompts(),
        sampling,
        reward_model=reward_models,
        output=config.output,
        num_samples=config.num_samples,
        stop=config.stop,
        batch_size=opened.batch_size,
        skip=skip,
    )
    tokens, began = 0, time.monotonic()
    with out, bar("decoding", total, done=out.done) as advance:
        for generation in generations:
            out.write(generation.to_json())
            tokens += len(generation.token_ids)
            advance(1, **{"tokens/s": tokens / (time.monotonic() - began)})
