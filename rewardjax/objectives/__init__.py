"""Training objectives: pure functions of model outputs and labels."""

from rewardjax.objectives.cumulative import cumulative_bce, cumulative_mse, prefix_weights
from rewardjax.objectives.prior import prior_penalty

__all__ = ["cumulative_bce", "cumulative_mse", "prefix_weights", "prior_penalty"]
