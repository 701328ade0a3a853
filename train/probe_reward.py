"""What rewards the completions that a probe's run samples: a scorer, or a checker of its task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewardjax.data.generations import Row
from rewardjax.data.tasks import Task
from rewardjax.errors import RewardJaxError, nearest
from rewardjax.metrics.checkers import CHECKERS
from rewardjax.metrics.scorers import load_scorer
from rewardjax.sequence import Completion, TextReward

from .probe_settings import ProbeTrainConfig
from .samples import Reward


def open_reward(config: ProbeTrainConfig, tasks: dict[int, Task]) -> Reward:
    """What scores the completions.

    Raises:
      RewardJaxError: as `load_scorer`; a checker without its task; code that may not run.
    """
    task = config.prompts.task
    name = config.reward or str(task)
    if name not in CHECKERS:
        try:
            scorer = load_scorer(name)
        except RewardJaxError as error:
            raise RewardJaxError(f"reward: {error}{nearest(name, CHECKERS)}") from error
        score_text = TextReward(scorer)

        def score(rows: Sequence[Row]) -> np.ndarray:
            return score_text([Completion(row.prompt, row.text, (), ()) for row in rows])

        return Reward(f"{scorer.kind} {scorer.name} ({scorer.version})", score)
    checker = CHECKERS[name]
    if task is None or (name == "mbpp") != (task == "mbpp"):
        raise RewardJaxError(
            f"reward is the checker {name!r} and prompts.task is {task!r}; expected a task that it"
            f" checks, such as {name!r}"
        )
    allowed = config.allow_code_execution

    def check(rows: Sequence[Row]) -> np.ndarray:
        own = [tasks[row.prompt_index] for row in rows]
        return checker([row.text for row in rows], own, allow_code_execution=allowed)

    if checker.executes:  # whether code may run and be contained: now, not after the sampling
        checker([""], list(tasks.values())[:1], allow_code_execution=allowed)
    return Reward(f"checker {name} {checker.version}", check)
