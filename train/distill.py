"""Train a reward model to say what another one says: `rewardjax train distill`, or `distill`.

The student learns the teacher's raw rewards (arXiv 2407.04615): of the observed token, as in the
paper, or of several candidates of the LM at every position. Texts need no labels. Everything else
(data, batches, resuming, evaluation, saving) is as in `rewardjax train reward-model`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rewardjax import config as settings_file
from rewardjax import hosts
from rewardjax.data.settings import fill, without_labels
from rewardjax.errors import RewardJaxError
from rewardjax.lm import LM

from . import checks
from .result import Result, report
from .run import check_directory
from .settings import DistillConfig
from .trainer import execute

__all__ = ["Result", "distill", "main"]


def distill(
    config: DistillConfig, *, lm: LM | None = None, texts: Any = None, labels: Any = None
) -> Result:
    """Train a student on the rewards of `config.teacher` and save it, with the teacher's link.

    Args:
      config: all settings; `config.run_dir` must be new, or hold the run to `resume`.
      lm: a loaded LM to use instead of loading `config.lm`.
      texts: N texts in memory, instead of `config.data.path`.
      labels: of those texts, [N] or [N, A], if there are any: the student is evaluated on them.

    Raises:
      RewardJaxError: bad settings, data or teacher; a non-finite loss.
      KeyboardInterrupt, SystemExit(143): Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    if texts is None and labels is not None:
        raise RewardJaxError("distill was given labels without texts; give both, or texts alone")
    data = config.data
    if labels is not None:  # they are at hand: they need no name to be read
        data = dataclasses.replace(data, labels=fill(data).labels)
    elif texts is not None or not checks.labelled(config):
        data = without_labels(data)
    config = dataclasses.replace(config, data=data)
    checks.check(config)
    config = dataclasses.replace(config, data=fill(data))
    if lm is not None:
        config = dataclasses.replace(config, lm=lm.source)
    hosts.join(config.hosts)
    check_directory(config)
    if texts is not None and labels is None:
        labels = np.zeros((len(texts), len(config.data.labels)))
    return execute(config, lm, texts, labels)


def main(argv: list[str]) -> int:
    """`rewardjax train distill CONFIG [--a.b.c value …]`."""
    config = settings_file.parse(
        DistillConfig,
        argv,
        prog="rewardjax train distill",
        description="Train a reward model on the rewards of another one, the teacher.",
        yaml_positional=True,
    )
    names = ("distillation_error", "distillation_r2", "delta_error", "delta_pearson")
    report(distill(config), (*names, "squared_error", "auc"))
    return 0
