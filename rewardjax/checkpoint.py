"""Checkpoints of a training run: atomic, written in the background, newest few and the best kept.

Orbax v1. A checkpoint holds the state (any pytree of arrays) and a JSON note, such as where the
data iterator stands. It counts only when all of it is on the disk, and is what was written: its
record says the step and a checksum of every array, for Orbax itself does not see a changed byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp
from jaxtyping import Array, UInt32

from rewardjax import hosts
from rewardjax.errors import RewardJaxError
from rewardjax.progress import note as say

DAMAGED = ".damaged"
"""What the name of a checkpoint that cannot be read ends in, once a later run set it aside."""


class Restored(NamedTuple):
    """What a checkpoint holds."""

    step: int
    state: Any
    note: dict[str, Any]


class Checkpoints:
    """The checkpoints in one directory. Use as a context manager; leaving waits for writes.

    Args:
      directory: made when missing. To continue from what it holds, call `newest` first.
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
        self._directory = Path(directory).absolute()
        best = policies.BestN(
            get_metric_fn=lambda metrics: sign * metrics[metric],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        with self._writing():
            self._checkpointer = ocp.training.Checkpointer(
                str(self._directory),
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
        if error is None:
            self.close()
            return
        with contextlib.suppress(RewardJaxError):  # what went wrong first is what is told
            self.close()

    def close(self) -> None:
        """Wait for writes and release the directory."""
        with self._writing():
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

        Raises:
          RewardJaxError: this or the write before it failed; complete checkpoints stay.
        """
        if step in self.steps:
            return False
        known: Any = metrics if metrics and self._metric in metrics else None
        record = {"step": step, "checksums": checksums(state), "note": note}
        with self._writing():
            started = self._checkpointer.save_checkpointables_async(
                step,
                {"state": jax.tree.map(jnp.copy, state)},
                metrics=known,
                custom_metadata=record | {"digest": _digest(record)},
                force=force,
            )
        return started is not None

    def wait(self) -> None:
        """Until everything saved so far is on the disk."""
        with self._writing():
            self._checkpointer.wait()

    def restore(self, like: Any, step: int) -> Restored:
        """The checkpoint of a step, as `read` gives it."""
        return read(self._directory / str(step), like)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise RewardJaxError(
                f"cannot write checkpoints to {str(self._directory)!r}: {_brief(error)}; those that"
                " are complete stay: look at the disk's space and at permissions, and continue"
                " with --resume"
            ) from error


def newest(directory: str | Path, like: Any) -> Restored | None:
    """The newest checkpoint that can be read, by what is on the disk now; None: there is none.

    Newer ones that cannot be read are named in a warning and set aside, by another name, so that
    the run that continues can write theirs anew.

    Args:
      like: a state of the same structure, shapes and dtypes; its shardings are used.

    Raises:
      RewardJaxError: there are some and none can be read. Nothing is changed or deleted.
    """
    directory, found, damaged = Path(directory), None, {}
    folders = _listed(directory)
    hosts.wait("checkpoints listed")  # and none is written before all processes have looked
    for folder in sorted(folders, key=lambda path: -int(path.name)):
        try:
            if found is None:
                found = read(folder, like)
            else:
                _record(folder)
        except RewardJaxError as error:
            damaged[folder] = str(error)
    if damaged and found is None:
        raise RewardJaxError(
            f"no checkpoint in {str(directory)!r} can be read, and nothing was changed there: "
            f"{'; '.join(damaged.values())}; choose another --run-dir to begin anew"
        )
    hosts.wait("checkpoints read")
    for folder, reason in damaged.items():
        assert found is not None
        aside = _unused(folder.with_name(folder.name + DAMAGED))
        say(f"{reason}; set aside as {aside.name!r}, continuing from step {found.step}")
        if hosts.is_first():
            folder.rename(aside)
    hosts.wait("checkpoints set aside")
    return found


def _listed(directory: Path) -> list[Path]:
    """The folders of checkpoints; whatever else lies there is named."""
    folders = []
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and path.name.isdecimal() and str(int(path.name)) == path.name:
            folders.append(path)
        elif not path.name.endswith(DAMAGED):
            say(f"{str(path)!r} is no complete checkpoint; it is not used")
    return folders


def read(folder: Path, like: Any) -> Restored:
    """One checkpoint, if it is whole and unchanged.

    Raises:
      RewardJaxError: it is not, or is not of this structure; named with the reason.
    """
    record = _record(folder)
    with _reading(folder):
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        state: Any = ocp.load_checkpointables(str(folder.absolute()), {"state": abstract})["state"]
        if checksums(state) != record["checksums"]:
            raise ValueError("its arrays are not those that were written")
    return Restored(record["step"], state, record["note"])


def checksums(state: Any) -> list[int]:
    """A number for each array, whatever devices it lies on; it changes with any single bit."""
    return [int(value) for value in jax.device_get(_checksums(state))]


@jax.jit
def _checksums(state: Any) -> list[UInt32[Array, ""]]:
    return [_checksum(leaf) for leaf in jax.tree.leaves(state)]


def _checksum(x: Array) -> UInt32[Array, ""]:
    """Sum of the array's words, each times an odd number of its own, modulo 2**32."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    number, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        number, stride = number + place * jnp.uint32(stride % 2**32), stride * words.shape[axis]
    return jnp.sum(words * (2 * number + 1), dtype=jnp.uint32)


def _record(folder: Path) -> dict[str, Any]:
    """What `save` wrote beside the state, checked as far as it goes without the arrays."""
    with _reading(folder):
        metrics = folder / "metrics" / "metrics"
        if metrics.is_file():  # Orbax reads those of all checkpoints at once
            json.loads(metrics.read_bytes())
        record: Any = ocp.checkpointables_metadata(str(folder.absolute())).custom_metadata
        if not record:
            raise ValueError("its record is missing")
        record = dict(record)
        if record.pop("digest") != _digest(record):
            raise ValueError("its record is not the one that was written")
        if record["step"] != int(folder.name):
            raise ValueError(f"it holds step {record['step']}")
        return record


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RewardJaxError(
            f"checkpoint {str(folder)!r} is damaged, or not of this run: {_brief(error)}"
        ) from error


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unused(path: Path) -> Path:
    """The path, or with the first number behind it that is free."""
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in range(2, 10**6))
    return path if not path.exists() else next(name for name in names if not name.exists())
