"""How a reward model is computed while it trains, apart from what it computes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from rewardjax.data.batches import Batch
from rewardjax.data.hidden import pack
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import PARAMETRIZATIONS, RewardModel
from rewardjax.rewards.packing import rows_needed
from rewardjax.sharding import batch_parts

from .settings import ComputeConfig, DistillConfig, RunConfig

SIZES = 8
"""About how many numbers of packed rows there are, from one to a row for each text."""


def check(config: RunConfig) -> None:
    """Refuse settings of a step that cannot be followed, before anything is read.

    Raises:
      RewardJaxError: naming the field.
    """
    check_parts(config.compute, config.optim.batch_size)
    compute = config.compute
    if config.reward_model.backbone == "own":
        _check_packing(config)
        return
    for name in ("dtype", "remat", "packing"):
        value, default = getattr(compute, name), getattr(ComputeConfig, name)
        if value != default:
            raise RewardJaxError(
                f"compute.{name} is {value!r}, but a head on the base LM's states"
                f" (reward_model.backbone base) has no layers of its own; set it to {default!r}"
            )


def check_parts(compute: ComputeConfig, size: int) -> None:
    """Refuse a batch of `size` texts that does not split as it is to be computed.

    Raises:
      RewardJaxError: naming the field.
    """
    if compute.accumulate < 1 or size % compute.accumulate:
        raise RewardJaxError(
            f"compute.accumulate is {compute.accumulate}; expected a divisor of"
            f" optim.batch_size, {size}"
        )
    parts = compute.accumulate * batch_parts()
    if size % parts:
        raise RewardJaxError(
            f"optim.batch_size is {size}; expected a multiple of {parts}, into which"
            " compute.accumulate, mesh.data and mesh.fsdp split it"
        )


def _check_packing(config: RunConfig) -> None:
    candidates = isinstance(config, DistillConfig) and config.objective.targets != "observed"
    kind = PARAMETRIZATIONS.get(config.reward_model.parametrization)
    if config.compute.packing and candidates and kind is not None and kind.reads_candidates:
        raise RewardJaxError(
            f"compute.packing is true, but {config.reward_model.parametrization!r} reads the"
            " candidates of objective.targets behind their own text; set it to false"
        )


def training_form(
    model: RewardModel, config: ComputeConfig, packed_rows: int | None = None
) -> RewardModel:
    """The model as its gradient is computed: the same function, but for rounding."""
    if model.transformer is None:
        return model
    dtype = None if config.dtype == "float32" else config.dtype
    body = dataclasses.replace(model.transformer, remat=config.remat, compute_dtype=dtype)
    return dataclasses.replace(model, transformer=body, packed_rows=packed_rows)


def packed(batch: Batch, config: ComputeConfig) -> tuple[Batch, int]:
    """The batch in an order in which its texts fill few rows, and how many these are.

    Of each part that is computed at a time; a few numbers of rows are used, for each compiles.
    """
    parts, size, width = config.accumulate, *batch.tokens.shape
    rows = pack(np.flatnonzero(batch.lengths).tolist(), batch.lengths + 1, width + 1)
    order = [text for row in rows for text in row]
    order = np.array([*order, *np.flatnonzero(batch.lengths == 0)])
    order = order.reshape(parts, -1).T.ravel()  # every n-th text is of one part
    batch = Batch(*(values[order] for values in batch))
    need = max(rows_needed(batch.lengths[part::parts], width + 1) for part in range(parts))
    unit = math.lcm(max(1, size // parts // SIZES), batch_parts())
    return batch, -(-need // unit) * unit
