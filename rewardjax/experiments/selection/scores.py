"""Scores of sampled completions: by scorers, by a task's checker, by the LM, by a reward model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardjax.data.generations import Row
from rewardjax.data.lines import read_lines
from rewardjax.data.tasks import Task
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.selection.settings import TaskConfig
from rewardjax.lm import LM
from rewardjax.metrics.checkers import CHECKERS
from rewardjax.metrics.scorers import load_scorer
from rewardjax.sequence import Completion, TextReward, open_sequence_reward
from rewardjax.text import encode_prompt

LOGPROB = "LM log-probability"
"""Mean over a completion's tokens, under the unsteered LM: whether what is chosen stays likely."""


@dataclass(frozen=True)
class PoolScorer:
    """Scores of all completions of a pool, [P, M]."""

    about: dict[str, str]
    """name, version, kind and note"""
    function: Callable[[list[list[Row]], Path, dict[int, Task]], Any]

    def __call__(
        self, rows: list[list[Row]], path: Path, tasks: dict[int, Task]
    ) -> Float[np.ndarray, "P M"]:
        """Scores of rows that were read from `path`, float64."""
        values = np.asarray(self.function(rows, path, tasks), np.float64)
        return values.reshape(len(rows), len(rows[0]))


def open_scorer(spec: str, task: TaskConfig, lm: Callable[[], LM]) -> PoolScorer:
    """The scorer that `spec` names. Sentiment, -1 … 1, becomes 0 … 1, as L_CE wants rewards.

    Args:
      lm: gives the LM, where a reward model needs it.

    Raises:
      RewardJaxError: as `load_scorer`; a checker of another task.
    """
    if spec == LOGPROB:
        about = {"name": LOGPROB, "version": "the LM", "kind": "score", "note": "nats per token"}
        return PoolScorer(about, _logprobs)
    if spec in CHECKERS:
        return _checker(spec, task)
    for guide in task.guides:
        if guide.name == spec:
            return _last_token(spec, guide.reward_model, task.chat, lm)
    try:
        scorer = load_scorer(spec)
    except RewardJaxError as error:
        raise RewardJaxError(f"task {task.name!r}: {error}") from error
    score, signed = TextReward(scorer), scorer.kind == "sentiment"

    def by_scorer(rows: list[list[Row]], path: Path, tasks: dict[int, Task]) -> Any:
        values = score([Completion(row.prompt, row.text, (), ()) for row in _flat(rows)])
        return (values + 1) / 2 if signed else values

    about = {"name": scorer.name, "version": scorer.version, "kind": scorer.kind}
    return PoolScorer(about | {"note": scorer.note}, by_scorer)


def _checker(name: str, task: TaskConfig) -> PoolScorer:
    checker = CHECKERS[name]
    if task.task != name:
        raise RewardJaxError(
            f"task {task.name!r}: the checker {name!r} needs `task: {name}`, which is"
            f" {task.task!r}; expected a checker of this task, or a scorer"
        )

    def by_checker(rows: list[list[Row]], path: Path, tasks: dict[int, Task]) -> Any:
        flat = _flat(rows)
        return checker([row.text for row in flat], [tasks[row.prompt_index] for row in flat])

    about = {"name": name, "version": f"checker {checker.version}", "kind": "checker"}
    return PoolScorer(about | {"note": checker.note}, by_checker)


def _last_token(name: str, folder: str, chat: bool, lm: Callable[[], LM]) -> PoolScorer:
    def by_reward_model(rows: list[list[Row]], path: Path, tasks: dict[int, Task]) -> Any:
        reward = open_sequence_reward(folder, lm())
        prompts = [
            encode_prompt(lm(), group[0].prompt, group[0].prompt_index, chat=chat).token_ids
            for group in rows
        ]
        return reward(
            [
                Completion(row.prompt, row.text, ids, row.token_ids or ())
                for ids, group in zip(prompts, rows, strict=True)
                for row in group
            ]
        )

    about = {"name": name, "version": "reward model", "kind": "score"}
    return PoolScorer(about | {"note": "the reward of the last token"}, by_reward_model)


def _logprobs(rows: list[list[Row]], path: Path, tasks: dict[int, Task]) -> Any:
    found = {}
    for _, line in read_lines(path):
        row = json.loads(line)
        found[row["prompt_index"], row["sample_index"]] = np.mean(row["base_logprobs"])
    return [found[row.prompt_index, row.sample_index] for row in _flat(rows)]


def _flat(rows: Sequence[Sequence[Row]]) -> list[Row]:
    return [row for group in rows for row in group]
