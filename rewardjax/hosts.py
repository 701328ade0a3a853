"""Several processes that run one job together, one on each host. The engine is JAX's own.

Every process is given the same command and settings. `join` comes before anything uses a device;
a process alone need not call it, and everything here then does nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardjax import progress
from rewardjax.errors import RewardJaxError

SHUTDOWN = 60
"""Seconds that a process which failed waits for the others before they are all ended."""


@dataclass(frozen=True)
class HostsConfig:
    """Processes that run one job together, one on each host, all with the same settings."""

    join: bool = False
    """Join the others. What is unset below comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID, or from SLURM, Open MPI or the TPU runtime."""
    coordinator: str | None = None
    """host:port of process 0"""
    count: int | None = None
    """number of processes"""
    index: int | None = None
    """this one's number, 0 to count - 1"""


def join(config: HostsConfig) -> None:
    """Join the other processes of this job, if told to; waits until all are there.

    Raises:
      RewardJaxError: how they find each other is not known, or they do not.
    """
    if not config.join:
        if (config.coordinator, config.count, config.index) != (None, None, None):
            raise RewardJaxError(
                "hosts.coordinator, count and index say how processes find each other, but"
                " hosts.join is false; set it"
            )
        return
    import jax

    numbers = _number("count", config.count), _number("index", config.index)
    try:
        jax.distributed.initialize(config.coordinator, *numbers, shutdown_timeout_seconds=SHUTDOWN)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RewardJaxError(
            f"hosts.join: the processes of this job did not find each other:"
            f" {' '.join(str(error).split())[:200]}; set hosts.coordinator to host:port of process"
            " 0, hosts.count and hosts.index, or start them with srun or on a TPU pod"
        ) from error
    if not is_first():
        progress.silence()


def _number(name: str, value: int | None) -> int | None:
    """A setting, or what the environment says."""
    variable = {"count": "JAX_NUM_PROCESSES", "index": "JAX_PROCESS_ID"}[name]
    text = os.environ.get(variable)
    if value is not None or text is None:
        return value
    if not text.isdecimal():
        raise RewardJaxError(f"{variable} is {text!r}; expected a number")
    return int(text)


def count() -> int:
    """Processes that run this job."""
    import jax

    return jax.process_count()


def index() -> int:
    """This process's number, from 0."""
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Whether this process is the one that writes what there is one of, and speaks."""
    return index() == 0


def wait(name: str) -> None:
    """Until all processes are here.

    Args:
      name: of the place, the same for all.
    """
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def all_agree(value: bool) -> bool:
    """Whether it is true in every process."""
    if count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def fetch(x: Any) -> np.ndarray:
    """An array's values, whatever processes hold its parts; all processes must call it."""
    if getattr(x, "is_fully_addressable", True):
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def asked_to_stop(step: int) -> bool:
    """Whether some process got SIGTERM and this is the step at which all of them stop."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
