"""The reward model of a KL term: one that is given, or a NADO of the LM's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel
from rewardjax.lm import LM, OpenedLM
from rewardjax.rewards import RewardParams, build
from rewardjax.rewards.next_token import NextTokenModel

from . import memory
from .attribute_data import Samples, accepted
from .attribute_loss import LINKS, Guide
from .attribute_settings import AttributeConfig
from .nado_run import prepare
from .nado_settings import NadoConfig
from .run import Run, write_config
from .targets import fingerprint
from .trainer import Trainer


@dataclass(frozen=True)
class Reward:
    """A trained reward model, the LM that it belongs to, and what is read of it."""

    trained: TrainedRewardModel
    lm: LM
    output: int = 0
    invert: bool = False

    def bind(self) -> tuple[Guide, RewardParams]:
        """R of the KL term, and its parameters."""
        model, params = self.trained.bind(self.lm)
        assert isinstance(model, NextTokenModel), "check_reward refuses others"
        return Guide(model, self.trained.link, self.output, self.invert), params

    @property
    def fingerprint(self) -> str:
        return f"{fingerprint(self.trained)} {self.output} {self.invert}"


def check_reward(config: AttributeConfig, trained: TrainedRewardModel, lm: OpenedLM) -> None:
    """Refuse a reward model whose log R is not known, before weights are read.

    Raises:
      RewardJaxError: its link, parametrization or number of outputs.
    """
    name, what = config.reward_model, trained.config
    if trained.link not in LINKS:
        raise RewardJaxError(
            f"reward_model {name!r} has the link {trained.link!r}; expected {', '.join(LINKS)},"
            " under which a reward is a probability's logarithm or logit (objective.name bce)"
        )
    if config.output >= what.outputs:
        raise RewardJaxError(
            f"output is {config.output}; expected less than {what.outputs}, the outputs of"
            f" reward_model {name!r}"
        )
    if not isinstance(build(what, lm.config, trained.transformer), NextTokenModel):
        raise RewardJaxError(
            f"reward_model {name!r} is {what.parametrization!r}, which reads every candidate on its"
            " own; expected one that scores the whole vocabulary at once, such as nado or arm"
        )


def learner(settings: NadoConfig, lm: LM, samples: Samples, *, by_length: bool = True) -> Trainer:
    """What trains a NADO on samples of `lm`, alone or beside the LM, as `train nado` does.

    Args:
      by_length: as of `Trainer`; beside the LM, each pair of widths would compile.

    Raises:
      RewardJaxError: the oracle says the same of all of them.
    """
    labels = accepted(samples.values)
    assert labels is not None, "refit asks for an oracle"
    folder = Path(settings.run_dir)
    write_config(folder, settings, {"lm_fingerprint": lm.fingerprint})
    weighted = samples.sampling.temperature != 1
    run = prepare(
        settings, lm, folder, samples.rows, labels.astype(np.float32), samples.prompts,
        samples.sampling, weighted, None,
    )  # fmt: skip
    memory.announce(run)
    return Trainer(run, by_length=by_length)


def untrained(run: Run) -> TrainedRewardModel:
    """The reward model that a run starts from."""
    return TrainedRewardModel(
        run.config.reward_model, run.link, run.lm.source, run.lm.fingerprint,
        run.model.transformer, run.backbone_fingerprint, run.params.trainable,
    )  # fmt: skip
