"""Training objectives: pure functions of model outputs and labels."""

from rewardjax.objectives.cumulative import cumulative_bce, cumulative_mse, prefix_weights
from rewardjax.objectives.distillation import (
    delta_distillation,
    distillation,
    scored_positions,
)
from rewardjax.objectives.nado import (
    bernoulli_kl,
    continuation,
    forward_consistency,
    log_expectation,
    prefix_bce,
)
from rewardjax.objectives.prior import prior_penalty
from rewardjax.objectives.selection import l_ce, l_pg, l_q, l_qp

__all__ = [
    "bernoulli_kl",
    "continuation",
    "cumulative_bce",
    "cumulative_mse",
    "delta_distillation",
    "distillation",
    "forward_consistency",
    "l_ce",
    "l_pg",
    "l_q",
    "l_qp",
    "log_expectation",
    "prefix_bce",
    "prefix_weights",
    "prior_penalty",
    "scored_positions",
]
