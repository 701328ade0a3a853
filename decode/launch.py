"""Starts a command of decoding on the devices and hosts that its settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rewardjax import hosts
from rewardjax.hosts import HostsConfig
from rewardjax.mesh import MeshConfig

from .settings import GuidedConfig

Config = TypeVar("Config", bound=GuidedConfig)


def launch(command: Callable[[Config], None], config: Config) -> int:
    """Runs the command. Returns 0; raises RewardJaxError on bad input."""
    if config.mesh == MeshConfig() and config.hosts == HostsConfig():
        command(config)  # prompts are looked at before JAX is imported
        return 0
    from rewardjax.sharding import use_mesh

    hosts.join(config.hosts)
    # Each process decodes prompts of its own: they share no batch.
    with use_mesh(config.mesh, local=True):
        command(config)
    return 0
