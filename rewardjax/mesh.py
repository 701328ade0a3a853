"""Settings of the device mesh; what is done with it is in `sharding.py`. Imports no JAX."""

from __future__ import annotations

from dataclasses import dataclass

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 on one of them takes what the others leave."""

    data: int = 1
    """copies of the model, each with rows of its own"""
    fsdp: int = 1
    """parts that parameters are stored in; the batch is split over them too"""
    tensor: int = 1
    """parts that heads, feed-forward features and vocabulary are split into"""
