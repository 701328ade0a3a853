"""The first steps of a selection experiment: prompts, completions, scores. Each is made once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from rewardjax.data.arithmetic import arithmetic
from rewardjax.data.generations import Row, group_by_prompt, read_rows
from rewardjax.data.prompts import PromptRow, read_prompts
from rewardjax.data.tasks import Task
from rewardjax.experiments.selection.scores import LOGPROB, open_scorer
from rewardjax.experiments.selection.settings import GuideConfig, SelectionConfig, TaskConfig
from rewardjax.experiments.workspace import Workspace
from rewardjax.lm import LM, load_lm
from rewardjax.report.write import write_text


@dataclass(frozen=True)
class Pool:
    """Completions of a task's prompts."""

    task: TaskConfig
    part: Literal["train", "test"] = "test"
    guide: GuideConfig | None = None
    """None: the LM's own"""
    beta: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Prompts, and completions of each."""
        task = self.task
        if self.part == "train":
            return task.train_prompts, task.train_samples
        return task.test_prompts, task.guided_samples if self.guide else task.samples

    @property
    def name(self) -> str:
        guided = f"-{self.guide.name}-b{self.beta:g}" if self.guide else ""
        return f"{self.task.name}-{self.part}{guided}"


def pools(task: TaskConfig) -> list[Pool]:
    """Of training, of the test, and under every guide at every strength."""
    guided = [Pool(task, "test", guide, beta) for guide in task.guides for beta in guide.betas]
    return [Pool(task, "train"), Pool(task), *guided]


class Completions:
    """Prompts, completions and scores in one workspace. The LM is loaded when first needed."""

    def __init__(self, config: SelectionConfig, work: Workspace) -> None:
        self.config, self.work = config, work

    @cached_property
    def lm(self) -> LM:
        """The frozen LM, with its weights."""
        return load_lm(self.config.lm, dtype=self.config.dtype)

    # Prompts and completions

    def prompt_rows(self, pool: Pool) -> tuple[list[PromptRow], dict[int, Task]]:
        """A pool's prompts, and the task of each prompt's index (none for a file of prompts)."""
        task, (count, _) = pool.task, pool.size
        if task.task is not None:
            found = arithmetic(count, task.prompt_seed, split=pool.part)
            rows = [PromptRow(one.prompt, one.index, one.where) for one in found]
            return rows, {one.index: one for one in found}
        offset = 0 if pool.part == "train" else task.train_prompts
        rows = read_prompts(
            task.prompts,
            task.prompt_field,
            where=task.where,
            limit=count,
            offset=offset,
            shuffle_seed=task.prompt_seed,
        )
        return rows, {}

    def texts(self, pool: Pool) -> Path:
        """JSONL of a pool's completions."""
        return self.work.place("texts", pool.name, self.decoding(pool), ".jsonl")

    def decode(self, pool: Pool) -> None:
        """Write the prompts down, and complete them."""
        prompts, out = self._prompts(pool), self.texts(pool)
        lines = (
            json.dumps({"prompt": row.text, "index": row.index}) + "\n"
            for row in self.prompt_rows(pool)[0]
        )
        what = f"{pool.size[0]} prompts of {pool.task.name}, {pool.part}"
        self.work.once(prompts, what, lambda: write_text(prompts, "".join(lines)))
        argv = [word for flag, words in self.decoding(pool) for word in (f"--{flag}", *words)]
        self.work.command(out, ("decode", "guided"), [*argv, "--out", str(out), "--resume"])

    def _prompts(self, pool: Pool) -> Path:
        task = pool.task
        behind = [task.prompts, task.prompt_field, list(task.where), task.task, task.prompt_seed]
        behind += [pool.part, pool.size[0], task.train_prompts]
        return self.work.place("prompts", f"{task.name}-{pool.part}", behind, ".jsonl")

    def decoding(self, pool: Pool) -> list[tuple[str, list[str]]]:
        """Flags of `decode guided`, and so what a pool's completions depend on."""
        config, task = self.config, pool.task
        flags = [
            ("lm", [config.lm]),
            ("dtype", [config.dtype]),
            ("prompts", [str(self._prompts(pool))]),
            *([("chat", [])] if task.chat else []),
            ("num-samples", [str(pool.size[1])]),
            ("max-new-tokens", [str(task.max_new_tokens)]),
            ("temperature", [f"{task.temperature:g}"]),
            ("top-k", [str(task.top_k)]),
            *([("stop", list(task.stop))] if task.stop else []),
            ("seed", [str(task.prompt_seed + (pool.part == "test"))]),
            ("batch-size", [str(config.batch_size)]),
        ]
        if pool.guide is not None:
            flags += [("reward-model", [pool.guide.reward_model]), ("beta", [f"{pool.beta:g}"])]
        return flags

    def rows(self, pool: Pool) -> list[list[Row]]:
        """A pool's completions by prompt, in the order of their indices."""
        return group_by_prompt(read_rows(self.texts(pool)))

    # Scores

    def judges(self, task: TaskConfig) -> list[str]:
        """What test completions are judged by: the judges, the training reward, the LM itself."""
        return list(dict.fromkeys([*task.judges, task.train_reward, LOGPROB]))

    def scores(self, pool: Pool, spec: str) -> Path:
        """JSON of a pool's scores by one scorer."""
        guides = {guide.name: guide.reward_model for guide in pool.task.guides}
        behind = [self.decoding(pool), guides.get(spec, spec)]
        name = f"{pool.name}-{Path(spec).name}"
        return self.work.place("scores", name, behind, ".json")

    def score(self, pool: Pool, spec: str) -> None:
        """Score a pool's completions."""
        out = self.scores(pool, spec)

        def make() -> None:
            scorer = open_scorer(spec, pool.task, lambda: self.lm)
            values = scorer(self.rows(pool), self.texts(pool), self.prompt_rows(pool)[1])
            found = scorer.about | {"values": np.round(values, 6).tolist()}
            write_text(out, json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")

        what = f"scores by {spec} of {self.texts(pool).relative_to(self.work.folder)}"
        self.work.once(out, what, make)

    def scored(self, pool: Pool, spec: str) -> dict[str, Any] | None:
        """What `score` wrote: about the scorer, and "values" [P][M]; None before."""
        path = self.scores(pool, spec)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def values(self, pool: Pool, spec: str) -> Float[np.ndarray, "P M"]:
        """A pool's scores, which are there."""
        return np.array(json.loads(self.scores(pool, spec).read_text("utf-8"))["values"])
