"""Checkpoints of a training run: atomic, written in the background, newest few and the best kept.

Orbax v1. A checkpoint holds the state (any pytree of arrays) and a JSON note, such as where the
data iterator stands; it counts only when all of it is on the disk.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp

from rewardjax.errors import RewardJaxError

State = TypeVar("State")


class Checkpoints:
    """The checkpoints in one directory. Use as a context manager; leaving waits for writes.

    Args:
      directory: made when missing.
      every: `save` writes at multiples of this step (and whenever forced).
      keep: how many of the newest to keep; the best by `metric` is kept besides.
      metric: name of the metric that says which is best.
      larger_is_better: its direction.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        every: int = 1,
        keep: int = 3,
        metric: str = "eval/squared_error",
        larger_is_better: bool = False,
    ) -> None:
        policies: Any = ocp.training.preservation_policies
        decisions: Any = ocp.training.save_decision_policies
        sign = 1.0 if larger_is_better else -1.0
        self._metric, self._sign = metric, sign
        best = policies.BestN(
            get_metric_fn=lambda metrics: sign * metrics[metric],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._checkpointer = ocp.training.Checkpointer(
            str(Path(directory).absolute()),
            save_decision_policy=decisions.FixedIntervalPolicy(every),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        self._checkpointer.wait()  # the cleaning runs in a thread that must not outlive us

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for writes and release the directory."""
        self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the best metric; None when none has one."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        if not scored:
            return None
        return max(scored, key=lambda c: self._sign * c.metrics[self._metric]).step  # pyright: ignore

    def save(
        self,
        step: int,
        state: Any,
        *,
        note: dict[str, Any],
        metrics: dict[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Write the state in the background, when it is due or forced. True when it is written.

        The state is copied on its devices first, so the caller may donate or change it at once.
        A step that is on the disk already is left as it is.
        """
        if step in self.steps:
            return False
        known: Any = metrics if metrics and self._metric in metrics else None
        started = self._checkpointer.save_checkpointables_async(
            step,
            {"state": jax.tree.map(jnp.copy, state)},
            metrics=known,
            custom_metadata=note,
            force=force,
        )
        return started is not None

    def wait(self) -> None:
        """Until everything saved so far is on the disk."""
        self._checkpointer.wait()

    def restore(self, like: State, step: int | None = None) -> tuple[int, State, dict[str, Any]]:
        """A checkpoint's step, state and note; the newest by default.

        Args:
          like: a state of the same structure, shapes and dtypes; its shardings are used.

        Raises:
          RewardJaxError: no checkpoint, or one of another structure.
        """
        where = self._checkpointer.directory
        if not self.steps:
            raise RewardJaxError(
                f"{str(where)!r} holds no checkpoint to continue from; use a new run_dir"
            )
        step = self.steps[-1] if step is None else step
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            loaded = self._checkpointer.load_checkpointables(step, {"state": abstract})
            note: Any = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise RewardJaxError(
                f"checkpoint {step} in {str(where)!r} does not fit this run or is damaged: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        return step, loaded["state"], dict(note or {})
