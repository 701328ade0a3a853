"""`rewardjax decode select`: k completions of each prompt, of which one is chosen by its score."""

from __future__ import annotations

import dataclasses
import time

from rewardjax.config import parse
from rewardjax.errors import RewardJaxError
from rewardjax.progress import bar

from .launch import launch
from .prompts import read_prompts
from .settings import SelectConfig


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        SelectConfig,
        argv,
        prog="rewardjax decode select",
        description="Sample k completions of each prompt, guided or not; choose one by its score;"
        " write JSONL rows.",
    )
    return launch(_select, config)


def _select(config: SelectConfig) -> None:
    if not config.scorer:
        raise RewardJaxError(
            "--scorer is unset; name what scores a completion: the folder of a probe or of a reward"
            " model, a scorer such as vader, or KIND=module:function"
        )
    prompts = read_prompts(config)
    from rewardjax.decoding.selection import check_tau
    from rewardjax.selection import iterate_selections
    from rewardjax.sequence import digest_of, read_sequence_reward

    from .job import make_job
    from .shards import Share

    check_tau(config.tau)
    job = make_job(config, prompts)
    scorer_of = read_sequence_reward(config.scorer)
    settings = job.settings(scorer_sha256=digest_of(config.scorer))
    share = Share(config.out, settings, resume=config.resume, overwrite=config.overwrite)
    job = dataclasses.replace(job, prompts=share.of(job.prompts))
    if not share.finished:
        # Of the layers a probe may read one: which, its own LM says, and that has no weights yet.
        opened = job.open(share.rows.done, recorded=1)
        lm = opened.lm.load()
        scorer = scorer_of(lm)
        if config.warmup:
            opened.warm_up(lm, scorer.layers)
        selections = iterate_selections(
            lm,
            opened.prompts(),
            job.sampling,
            scorer,
            policy=config.policy,
            tau=config.tau,
            reward_model=job.reward_models,
            output=config.output,
            num_samples=config.num_samples,
            stop=config.stop,
            batch_size=opened.batch_size,
        )
        tokens, began = 0, time.monotonic()
        with share.rows as out, bar("prompts", len(job.prompts), done=out.done) as advance:
            for one in selections:
                out.write(one.to_json())
                tokens += sum(len(candidate.token_ids) for candidate in one.candidates)
                advance(1, **{"tokens/s": tokens / (time.monotonic() - began)})
    share.merge(1)
