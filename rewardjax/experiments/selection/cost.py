"""What a selection experiment will cost, before it starts: matrix products counted, this machine
measured."""

from __future__ import annotations

from rewardjax.data.hidden import row_width
from rewardjax.experiments import estimate
from rewardjax.experiments.estimate import unembedding, weights
from rewardjax.experiments.selection.pools import Pool, pools
from rewardjax.experiments.selection.run import chooser, main_fits, pool_fits, size_fits
from rewardjax.experiments.selection.settings import probes
from rewardjax.experiments.selection.steps import Fit, Steps
from rewardjax.lm import open_lm
from rewardjax.report.table import Table
from rewardjax.text import encode_prompt

BYTES_PER_SECOND = 2e9
"""Speed at which a fit goes through its states, about; it is bound by memory."""


def table(steps: Steps) -> Table:
    """Hours of each kind of step: what is left, estimated, and what was made, measured."""
    config = steps.config
    opened = open_lm(config.lm, dtype=config.dtype)
    speed = estimate.speed()
    reading = 2.0 * weights(opened.config)
    decoding = reading + 2.0 * unembedding(opened.config)
    every = {steps.fit_config(variant).probe.pooling for variant in probes(config)}
    decodings: list[float] = []
    readings: list[float] = []
    fittings: list[float] = []
    for task in config.tasks:
        rows, _ = steps.prompt_rows(Pool(task))
        lengths = [
            len(encode_prompt(opened, one.text, one.index, chat=task.chat).token_ids)
            for one in rows
        ]
        prompt = sum(lengths) / len(lengths)
        for pool in pools(task):
            count, samples = pool.size
            if not steps.texts(pool).is_file():
                tokens = count * (prompt + samples * task.max_new_tokens)
                decodings.append(tokens * decoding / speed)
            own = {steps.fit_config(chooser(steps)).probe.pooling} if pool.guide else every
            for pooling in own:
                if not steps.reading(pool, pooling).is_file():
                    new = samples * task.max_new_tokens
                    shared = prompt / (
                        row_width(opened.config, round(prompt)) - prompt
                    )  # read once in every row
                    readings.append(count * new * (1 + shared) * reading / speed)
        fits = [*main_fits(steps, task), *size_fits(steps, task)]
        fits += [fit for pool in pools(task)[2:] for fit in pool_fits(steps, pool)]
        fittings += [
            _fitting(steps, fit, opened.config.hidden_size)
            for fit in fits
            if not steps.numbers(fit).is_file()
        ]
    left = {
        ("decoding", "texts/"): decodings,
        ("reading states", "states/"): readings,
        ("fits", "fits/"): fittings,
    }
    caption = "Scoring is not in the estimate, nor a guide's own layers."
    return estimate.table(steps.work, left, caption)


def _fitting(steps: Steps, fit: Fit, width: int) -> float:
    optim = steps.fit_config(fit.variant).optim
    states = 4.0 * fit.prompts * fit.pool.task.train_samples * len(steps.layers) * width
    return states * 4 * optim.epochs / BYTES_PER_SECOND
