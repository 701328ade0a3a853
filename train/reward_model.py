"""Train a reward model on labelled texts: `rewardjax train reward-model`, or `train` in Python."""

from __future__ import annotations

import dataclasses
from typing import Any

from rewardjax import config as settings_file
from rewardjax import hosts
from rewardjax.data.settings import fill
from rewardjax.errors import RewardJaxError
from rewardjax.lm import LM

from . import checks
from .result import Result, report
from .run import check_directory
from .settings import TrainConfig
from .trainer import execute

__all__ = ["Result", "main", "train"]


def train(
    config: TrainConfig, *, lm: LM | None = None, texts: Any = None, labels: Any = None
) -> Result:
    """Train a reward model and save it.

    Args:
      config: all settings; `config.run_dir` must be new, or hold the run to `resume`.
      lm: a loaded LM to use instead of loading `config.lm`.
      texts, labels: N texts and labels [N] or [N, A] in memory, instead of `config.data.path`;
        labels are scaled by `config.data.label_min` and `label_max` as those of a file.

    Raises:
      RewardJaxError: bad settings or data; a non-finite loss (the parameters stay those before).
      KeyboardInterrupt, SystemExit(143): Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    checks.check(config)
    # config.yaml says what was read, even where a later version knows the data set otherwise.
    config = dataclasses.replace(config, data=fill(config.data))
    if (texts is None) != (labels is None):
        raise RewardJaxError("train needs texts and labels together, or neither of them")
    if lm is not None:
        config = dataclasses.replace(config, lm=lm.source)
    hosts.join(config.hosts)
    check_directory(config)
    return execute(config, lm, texts, labels)


def main(argv: list[str]) -> int:
    """`rewardjax train reward-model CONFIG [--a.b.c value …]`."""
    config = settings_file.parse(
        TrainConfig,
        argv,
        prog="rewardjax train reward-model",
        description="Train a reward model on labelled texts.",
        yaml_positional=True,
    )
    report(train(config), ("squared_error", "pearson", "spearman", "auc"))
    return 0
