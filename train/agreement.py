"""How near trained students are to one teacher on the same texts and candidates.

A run's own evaluation is on what that run was trained with (the observed token, or k candidates),
so two runs' errors may be errors of different things. This compares any two on the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewardjax.data import batches, examples, features
from rewardjax.data.batches import Batch
from rewardjax.data.settings import DataConfig
from rewardjax.errors import RewardJaxError
from rewardjax.export import TrainedRewardModel
from rewardjax.export import context as longest_text
from rewardjax.lm import LM

from . import targets
from .losses import Inputs
from .settings import DistillObjectiveConfig
from .teacher_evaluation import compare


def agreement(
    lm: LM,
    student: TrainedRewardModel,
    teacher: TrainedRewardModel,
    texts: Sequence[str],
    objective: DistillObjectiveConfig | None = None,
    *,
    dtype: str = "float32",
    batch_size: int = 16,
) -> dict[str, float]:
    """`eval/distillation_error` and the rest of `teacher_evaluation.compare`, on these texts.

    Args:
      objective: which tokens are compared; by default 8 candidates of the LM and the observed one.
      dtype: how hidden states of the LM are kept on disk.

    Raises:
      RewardJaxError: models of another LM or with other outputs; a text that is empty or too long.
    """
    objective = objective or DistillObjectiveConfig("candidates")
    if student.config.outputs != teacher.config.outputs:
        raise RewardJaxError(
            f"the student has {student.config.outputs} outputs and the teacher "
            f"{teacher.config.outputs}; expected the same number"
        )
    (model, params), bound = student.bind(lm), teacher.bind(lm)
    first = max(model.first_scored, bound[0].first_scored)
    found = examples.from_memory(texts, np.zeros(len(texts)), DataConfig(constant_label=0.0))
    found, tokens = batches.tokenize(
        found,
        lm.tokenizer,
        context=min(longest_text(lm, student), longest_text(lm, teacher)),
        shortest=first + 1,
    )
    states = None
    if model.layers:
        states = features.load_or_compute(lm, tokens, model.layers, dtype=dtype)
    taught = targets.load_or_compute(
        lm, teacher, bound, objective, tokens, dtype=dtype, states=states
    )

    def inputs_of(batch: Batch) -> Inputs:
        hidden = states.batch(batch.ids, batch.tokens.shape[1]) if states else {}
        return Inputs(batch.tokens, batch.lengths, batch.labels, hidden, *taught.batch(batch))

    rows = batches.ordered_batches(
        np.arange(len(tokens)), tokens, found.labels, batch_size=batch_size
    )
    return compare(model, params, objective, rows, inputs_of, first)
