"""What a run says when training goes wrong: numbers that are not finite, spikes, dead outputs."""

from __future__ import annotations

import statistics
from collections import deque

import numpy as np

from rewardjax.errors import RewardJaxError
from rewardjax.progress import note

from .evaluation import Predictions
from .settings import OptimConfig

WINDOW, FEWEST = 50, 20
SPIKE = 6.0
"""A loss so many standard deviations above the mean of the last steps is a spike."""
DEAD = 1e-4
"""An output is dead whose rewards vary less than so many of its labels' standard deviations."""


class NonFinite:
    """Counts the steps whose loss or gradient was not finite, and ends the run as it was told to.

    Args:
      optim: with `non_finite`, the policy, and `max_non_finite`, its limit.
    """

    def __init__(self, optim: OptimConfig) -> None:
        self.policy, self.limit, self.count = optim.non_finite, optim.max_non_finite, 0

    def happened(self, step: int, loss: float, norm: float, ids: list[str]) -> None:
        """Say so, with the batch's texts.

        Raises:
          RewardJaxError: the policy is to stop, or the limit is passed.
        """
        self.count += 1
        what = (
            f"the loss or its gradient is not finite at step {step} (loss {loss:g}, gradient norm"
            f" {norm:g})"
        )
        done = "was applied" if self.policy == "warn" else "was not applied"
        where = f"the update {done}; texts: {', '.join(ids)}"
        if self.policy == "stop":
            raise RewardJaxError(
                f"{what}; {where}; lower optim.learning_rate, look at these texts, or continue"
                " with --resume --optim.non-finite skip"
            )
        if self.count > self.limit:
            raise RewardJaxError(
                f"{what}, step number {self.count} of that kind; {where}; expected at most"
                f" optim.max_non_finite, {self.limit}; lower optim.learning_rate"
            )
        note(f"{what}; {where}")


class LossWatch:
    """Notices a loss far above those of the steps before it."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=WINDOW)

    def see(self, step: int, loss: float) -> str | None:
        """Take note of a step's loss; a warning where it is a spike."""
        warning = None
        if len(self._seen) >= FEWEST:
            mean, spread = statistics.fmean(self._seen), statistics.pstdev(self._seen)
            if loss > 2 * mean and loss > mean + SPIKE * spread:
                warning = (
                    f"step {step}: the loss jumped to {loss:.4g}, from a mean of {mean:.4g} over"
                    f" the last {len(self._seen)} steps; if it stays there, lower"
                    " optim.learning_rate or optim.clip"
                )
        self._seen.append(loss)
        return warning


def dead_outputs(found: Predictions, names: tuple[str, ...]) -> list[str]:
    """A warning for each output that gives all held-out texts the same reward."""
    if len(found) < 2:
        return []
    last = np.stack([rewards[-1] for _, rewards, _ in found])
    labels = np.stack([label for _, _, label in found])
    dead = last.std(axis=0) < DEAD * labels.std(axis=0)
    return [
        f"output {names[a] if a < len(names) else a!r} gives all {len(found)} held-out texts the"
        " same reward: it has learned nothing yet, and steers nothing"
        for a in np.flatnonzero(dead)
    ]
