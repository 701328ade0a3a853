"""The order of a selection experiment's steps: the main question of every task comes first."""

from __future__ import annotations

import json

from rewardjax.decoding.settings import SamplingConfig
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.selection import speed
from rewardjax.experiments.selection.pools import Pool, pools
from rewardjax.experiments.selection.scores import open_scorer
from rewardjax.experiments.selection.settings import TaskConfig, VariantConfig, probes
from rewardjax.experiments.selection.steps import Fit, Steps
from rewardjax.export import load_reward_model
from rewardjax.lm import open_lm
from rewardjax.report.write import write_text
from rewardjax.text import check_fit, check_sampling, encode_prompt


def prepare(steps: Steps) -> None:
    """Look at everything that can be wrong before any work: settings, files, scorers, the LM.

    Raises:
      RewardJaxError: naming the task or probe.
    """
    config = steps.config
    opened = open_lm(config.lm, dtype=config.dtype)
    steps.check_probes()
    for task in config.tasks:
        where = f"task {task.name!r}"
        for spec in (*steps.judges(task), *task.skylines):
            open_scorer(spec, task, lambda: steps.lm)
        for guide in task.guides:
            load_reward_model(guide.reward_model)
        for pool in (Pool(task, "train"), Pool(task)):
            rows, _ = steps.prompt_rows(pool)
            if len(rows) < pool.size[0]:
                raise RewardJaxError(
                    f"{where} has {len(rows)} prompts left for {pool.part}_prompts, which is"
                    f" {pool.size[0]}; expected as many, and the test's apart from the training's"
                )
            check_sampling(pool.size[1], config.batch_size, task.stop)
            sampling = SamplingConfig(
                max_new_tokens=task.max_new_tokens, temperature=task.temperature, top_k=task.top_k
            )
            encoded = (
                encode_prompt(opened, row.text, row.index, chat=task.chat, where=row.where)
                for row in rows
            )
            check_fit(opened, encoded, sampling, opened.config.max_position_embeddings)


def run(steps: Steps) -> None:
    """Every step that is not made yet.

    Raises:
      OutOfTime: the hours given are over.
    """
    config = steps.config
    for task in config.tasks:
        train, test, *_ = pools(task)
        for pool in (train, test):
            steps.decode(pool)
        steps.score(train, task.train_reward)
        for spec in dict.fromkeys([*steps.judges(task), *task.skylines]):
            steps.score(test, spec)
        for variant in probes(config):
            for pool in (train, test):
                steps.read(pool, steps.fit_config(variant).probe.pooling)
        for fit in main_fits(steps, task):
            steps.fit(fit)
        steps.forget()
    _measure_speed(steps, config.tasks[0])
    for task in config.tasks:
        for fit in size_fits(steps, task):
            steps.fit(fit)
        for pool in pools(task)[2:]:
            steps.decode(pool)
            for spec in steps.judges(task):
                steps.score(pool, spec)
            steps.read(pool, steps.fit_config(chooser(steps)).probe.pooling)
            for fit in pool_fits(steps, pool):
                steps.fit(fit)
        steps.forget()


def _measure_speed(steps: Steps, task: TaskConfig) -> None:
    path = steps.speed(task, chooser(steps))

    def make() -> None:
        found = speed.measure(steps, task, chooser(steps))
        write_text(path, json.dumps(found, indent=1) + "\n")

    steps.work.once(path, "speed of choosing", make)
    steps.forget()


def chooser(steps: Steps) -> VariantConfig:
    """The probe that also chooses among guided completions: of the first loss."""
    return probes(steps.config)[0]


def pool_fits(steps: Steps, pool: Pool, variant: VariantConfig | None = None) -> list[Fit]:
    """A probe with all training prompts and every seed, judged on a pool."""
    variant = chooser(steps) if variant is None else variant
    return [Fit(variant, seed, pool.task.train_prompts, pool) for seed in steps.config.seeds]


def main_fits(steps: Steps, task: TaskConfig) -> list[Fit]:
    """Every probe with every seed, on the LM's own completions."""
    return [fit for probe in probes(steps.config) for fit in pool_fits(steps, Pool(task), probe)]


def size_fits(steps: Steps, task: TaskConfig) -> list[Fit]:
    """Each loss's plain probe on fewer training prompts."""
    config = steps.config
    return [
        Fit(variant, seed, size, Pool(task))
        for variant in probes(config)[: len(config.losses)]
        for size in config.data_sizes
        for seed in config.seeds
    ]
