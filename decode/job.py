"""What a job of decoding does before and while it decodes: checks first, weights later."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardjax.config import to_plain
from rewardjax.data.prompts import PromptFile, PromptRow, digest
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel, load_reward_model
from rewardjax.lm import LM, OpenedLM, open_lm
from rewardjax.progress import bar
from rewardjax.text import EncodedPrompt, check_fit, check_sampling, encode_prompt

from .settings import GuidedConfig

CHANGES_NO_TEXT = ("batch_size", "warmup", "mesh", "hosts", "resume", "overwrite", "out")
"""Settings that may differ between an interrupted run and the one that resumes it."""


@dataclass(frozen=True)
class Job:
    """What a command was asked for, checked as far as it can be without the LM's weights."""

    config: GuidedConfig
    sampling: SamplingConfig
    prompts: list[PromptRow] | PromptFile
    loaded: dict[str, TrainedRewardModel]
    """folder → reward model; a folder that is named twice, for two outputs, is one model"""

    @property
    def reward_models(self) -> list[TrainedRewardModel]:
        return [self.loaded[folder] for folder in self.config.reward_model]

    def settings(self, **more: Any) -> dict[str, Any]:
        """What decides the rows: a run is resumed only where all of it is the same."""
        found = {k: v for k, v in to_plain(self.config).items() if k not in CHANGES_NO_TEXT}
        # A file that was edited in between is another job, whatever its name.
        found["prompts_sha256"] = digest(self.prompts)
        found["reward_model_sha256"] = [
            hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()
            for folder in self.loaded
            for name in ("config.json", "model.safetensors")
        ]
        return {**found, **more}

    def open(self, done: int = 0, recorded: int = 0) -> Opened:
        """The LM without its weights, once all prompts that are left are looked at.

        Args:
          done: prompts that an interrupted run has finished.
          recorded: how many of the LM's layers are kept for each token.

        Raises:
          RewardJaxError: a prompt that does not fit, or a batch that does not.
        """
        from rewardjax.decoding.memory import available_memory, check_memory, decoding_need
        from rewardjax.decoding.sampling import capacity_for
        from rewardjax.engine import room

        config, sampling = self.config, self.sampling
        lm = open_lm(config.lm, dtype=config.dtype)
        opened = Opened(self, lm, done, 0, 0)
        longest = check_fit(lm, opened.prompts(), sampling, room(lm, self.reward_models))
        batch_size = min(config.batch_size, len(self.prompts) * config.num_samples)
        need = decoding_need(
            lm.config,
            config.dtype,
            [model.shapes(lm.config, config.dtype) for model in self.loaded.values()],
            longest=longest,
            max_new_tokens=config.max_new_tokens,
            num_candidates=capacity_for(config.top_k, lm.config.vocab_size),
            samples=config.num_samples,
            recorded=range(recorded),
        )
        check_memory(need, batch_size, available_memory())
        return dataclasses.replace(opened, longest=longest, batch_size=batch_size)


@dataclass(frozen=True)
class Opened:
    """A job whose prompts fit."""

    job: Job
    lm: OpenedLM
    done: int
    longest: int
    """tokens of the longest prompt"""
    batch_size: int

    def prompts(self) -> Iterator[EncodedPrompt]:
        """The prompts that are left, encoded anew each time, so that none is kept."""
        for row in itertools.islice(self.job.prompts, self.done, None):
            chat = self.job.config.chat
            yield encode_prompt(self.lm, row.text, row.index, chat=chat, where=row.where)

    def warm_up(self, lm: LM, recorded: tuple[int, ...] = ()) -> None:
        """Compiles what the job will meet.

        Args:
          recorded: layers of the LM whose states come with the rows.
        """
        from rewardjax.decoding.warmup import buckets
        from rewardjax.engine import make_engine

        config, sampling = self.job.config, self.job.sampling
        # Not kept: the job makes an engine of its own, and two would hold the models twice.
        engine = make_engine(
            lm, self.job.reward_models, sampling, outputs=config.output, recorded=recorded
        )
        compiled = engine.warm_up(
            sampling,
            batch_size=self.batch_size,
            longest=self.longest,
            samples=config.num_samples,
        )
        with bar("compiling", len(buckets(self.longest))) as advance:
            for _ in compiled:
                advance(1)


def make_job(config: GuidedConfig, prompts: list[PromptRow] | PromptFile) -> Job:
    """Everything that can be wrong is looked at before weights are read.

    Raises:
      RewardJaxError: bad settings or reward models.
    """
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    sampling = SamplingConfig(**{name: getattr(config, name) for name in names})
    check_sampling(config.num_samples, config.batch_size, config.stop)
    loaded = {folder: load_reward_model(folder) for folder in config.reward_model}
    if not loaded and any(beta > 0 for beta in config.beta):
        raise RewardJaxError(f"beta is {max(config.beta)} but no --reward-model is given; name one")
    return Job(config, sampling, prompts, loaded)
