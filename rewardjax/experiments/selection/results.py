"""Everything that was measured, as one JSON-ready dict: the page and README are made from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rewardjax.decoding.selection import kl_bound
from rewardjax.experiments.record import record
from rewardjax.experiments.selection.pools import Pool, pools
from rewardjax.experiments.selection.run import chooser, main_fits, pool_fits, size_fits
from rewardjax.experiments.selection.settings import TaskConfig, probes
from rewardjax.experiments.selection.steps import Fit, Steps, read_if_made
from rewardjax.metrics.bootstrap import bootstrap_mean
from rewardjax.metrics.selection import by_prompt

REFERENCE = "L_Q"
"""The loss that the others are compared with, prompt by prompt."""
_ABOUT = ("name", "version", "kind", "note")


def collect(steps: Steps, command: str = "", *, finished: bool = True) -> dict[str, Any]:
    """What is there so far; `unfinished` counts fits that are not. `command`: as it was typed."""
    config = steps.config
    planned = [fit for task in config.tasks for fit in _planned(steps, task)]
    missing = sum(not steps.numbers(fit).is_file() for fit in planned)
    speed = read_if_made(steps.speed(config.tasks[0], chooser(steps)))
    return record(steps.work, command) | {
        "layers": list(steps.layers),
        "bounds": {str(k): round(kl_bound(k), 4) for k in config.ks},
        "tasks": [found for task in config.tasks if (found := _task(steps, task)) is not None],
        "speed": speed,
        "finished": finished and not missing and speed is not None,
        "unfinished": {"fits": missing},
    }


def _planned(steps: Steps, task: TaskConfig) -> list[Fit]:
    guided = [fit for pool in pools(task)[2:] for fit in pool_fits(steps, pool)]
    return [*main_fits(steps, task), *size_fits(steps, task), *guided]


def _task(steps: Steps, task: TaskConfig) -> dict[str, Any] | None:
    """A task's numbers; None as long as its completions are not scored."""
    train, test, *guided = pools(task)
    specs = steps.judges(task)
    scored = [steps.scored(test, spec) for spec in specs]
    trained = steps.scored(train, task.train_reward)
    if trained is None or any(one is None for one in scored):
        return None
    known = [one for one in scored if one is not None]
    values = [np.array(one["values"]) for one in known]
    rules = [found for probe in probes(steps.config) if (found := _rule(steps, task, probe))]
    return {
        "name": task.name,
        "judges": [{key: one[key] for key in _ABOUT} for one in known],
        "train_reward": {key: trained[key] for key in _ABOUT},
        "seen_in_training": task.train_reward == task.judges[0],
        "train": {"prompts": train.size[0], "samples": train.size[1]},
        "test": {"prompts": test.size[0], "samples": test.size[1]},
        "tokens_per_completion": round(_tokens(steps, test), 2),
        "train_base": _interval([np.array(trained["values"]).mean(axis=1)]),
        "base": [_interval([one.mean(axis=1)]) for one in values],
        "rules": [rule for rule, _ in rules],
        "differences": _differences(steps, [(rule["name"], per) for rule, per in rules]),
        "skylines": [
            found
            for spec in task.skylines
            if (found := _skyline(steps, test, spec, values)) is not None
        ],
        "sizes": _sizes(steps, task),
        "guided": [found for pool in guided if (found := _guided(steps, pool)) is not None],
    }


def _rule(steps: Steps, task: TaskConfig, probe: Any) -> tuple[dict[str, Any], np.ndarray] | None:
    """A probe's numbers, and the first judge's rewards [K, P], means over the seeds."""
    every = [steps.fitted(fit) for fit in pool_fits(steps, Pool(task), probe)]
    fits = [fit for fit in every if fit is not None]
    if len(fits) < len(every):
        return None
    rule = {
        "name": probe.name,
        "loss": probe.loss,
        "settings": probe.settings,
        "layers": [steps.layers[fit["layer"]] for fit in fits],
        "taus": [fit["tau"] for fit in fits],
        "seconds": [fit["seconds"] for fit in fits],
        "held_out": [round(fit["held_out"], 6) for fit in fits],
        "judges": _judged(fits),
        "kl": [_interval([fit["kl"][i] for fit in fits]) for i in range(len(fits[0]["ks"]))],
        "by_tau": [
            {
                "tau": one["tau"],
                "reward": _interval([fit["taus"][i]["reward"] for fit in fits]),
                "kl": round(float(np.mean([fit["taus"][i]["kl"] for fit in fits])), 6),
            }
            for i, one in enumerate(fits[0]["taus"])
        ],
        "by_layer": [
            [round(fit["layers"][i], 6) for fit in fits] for i in range(len(steps.layers))
        ],
    }
    return rule, np.mean([fit["judges"][0]["reward"] for fit in fits], axis=0)


def _judged(fits: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each judge and k: reward at the chosen τ (`reward`) and at τ = 0 (`best`)."""
    return [
        [
            {
                "k": k,
                "reward": _interval([fit["judges"][j]["reward"][i] for fit in fits]),
                "best": _interval([fit["judges"][j]["best"][i] for fit in fits]),
            }
            for i, k in enumerate(fits[0]["ks"])
        ]
        for j in range(len(fits[0]["judges"]))
    ]


def _differences(steps: Steps, rules: list[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Of every probe and the reference, prompt by prompt, at each k."""
    reference = dict(rules).get(REFERENCE)
    if reference is None:
        return []
    return [
        {
            "name": name,
            "reference": REFERENCE,
            "by_k": [_interval([own[i] - reference[i]]) for i in range(len(steps.config.ks))],
        }
        for name, own in rules
        if name != REFERENCE
    ]


def _skyline(
    steps: Steps, test: Pool, spec: str, values: list[np.ndarray]
) -> dict[str, Any] | None:
    """Best of k by a scorer, under every judge."""
    found = steps.scored(test, spec)
    if found is None:
        return None
    scores = np.array(found["values"])
    by_judge = [
        [
            {"k": k, "reward": _interval([by_prompt(scores, judge, k, "best")[0]])}
            for k in steps.config.ks
        ]
        for judge in values
    ]
    return {"name": found["name"], "version": found["version"], "judges": by_judge}


def _sizes(steps: Steps, task: TaskConfig) -> list[dict[str, Any]]:
    """Reward at `sweep_k` of each loss's plain probe and seed, by training prompts."""
    config = steps.config
    if not config.data_sizes:
        return []
    place = config.ks.index(config.sweep_k)
    found = []
    for probe in probes(config)[: len(config.losses)]:
        for size in (*sorted(config.data_sizes), task.train_prompts):
            fits = [steps.fitted(Fit(probe, seed, size, Pool(task))) for seed in config.seeds]
            rewards = [
                round(float(np.mean(fit["judges"][0]["reward"][place])), 6) for fit in fits if fit
            ]
            found.append({"name": probe.name, "prompts": size, "rewards": rewards})
    return found


def _guided(steps: Steps, pool: Pool) -> dict[str, Any] | None:
    """Guided completions under every judge, and what choosing among them adds."""
    scored = [steps.scored(pool, spec) for spec in steps.judges(pool.task)]
    if pool.guide is None or any(one is None for one in scored):
        return None
    fits = [steps.fitted(fit) for fit in pool_fits(steps, pool)]
    known = [fit for fit in fits if fit is not None]
    return {
        "name": pool.guide.name,
        "beta": pool.beta,
        "samples": pool.size[1],
        "tokens_per_completion": round(_tokens(steps, pool), 2),
        "judges": [
            _interval([np.array(one["values"]).mean(axis=1)]) for one in scored if one is not None
        ],
        "chooser": chooser(steps).name,
        "chosen": _judged(known) if known and len(known) == len(fits) else None,
    }


def _tokens(steps: Steps, pool: Pool) -> float:
    rows = [row for group in steps.rows(pool) for row in group]
    return sum(len(row.token_ids or ()) for row in rows) / len(rows)


def _interval(seeds: Any) -> dict[str, Any]:
    """Mean over the seeds of each prompt, then over prompts, with a bootstrap interval."""
    found = bootstrap_mean(np.mean(np.asarray(seeds, np.float64), axis=0))
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(found).items()
    }
