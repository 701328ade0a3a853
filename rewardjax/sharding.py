"""One mesh, one rule table: how parameters and batches lie on many devices.

The mesh in use is JAX's own (`with use_mesh(MeshConfig(data=4, tensor=2)):`), so nothing is passed
around. Loading puts each tensor where its rule says; XLA's partitioner (GSPMD) derives the rest,
helped by `constrain` at a few activations. Without a mesh every function here gives back what it
was given.

Axes: `data` splits the batch; `fsdp` splits the batch and stores a part of every matrix, which is
gathered when it is used; `tensor` splits heads, feed-forward features and the vocabulary, and
gathers no weights.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardjax import hosts
from rewardjax.errors import RewardJaxError
from rewardjax.mesh import AXES, MeshConfig

Tree = TypeVar("Tree")
BATCH = ("data", "fsdp")
"""Axes that split the rows of a batch."""

RULES: tuple[tuple[str, P], ...] = (
    (r"embed_tokens/embedding", P("tensor", "fsdp")),
    (r"embed_positions/embedding", P(None, "fsdp")),
    (r"lm_head/kernel", P("fsdp", "tensor")),
    (r"frozen/embedding", P("tensor", "fsdp")),
    (r"(q|k|v|gate|up)_proj/kernel", P("fsdp", "tensor")),
    (r"(q|k|v|gate|up)_proj/bias", P("tensor")),
    (r"(o|down)_proj/kernel", P("tensor", "fsdp")),
    (r"(o|down)_proj/bias", P()),
    (r"\w*norm/(scale|bias)", P()),
    (r"head/vocabulary", P(None, "tensor", "fsdp")),
    # Other heads are small, and read by every device. So are LoRA's factors.
    (r"head/(level/)?\w+", P()),
    (r"lora/.+", P()),
)
"""End of a parameter's path → how its axes lie on the mesh; the first that fits counts."""


def make_mesh(config: MeshConfig, devices: Any = None, *, local: bool = False) -> Mesh:
    """The devices as a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
      devices: by default all, of every process.
      local: this process works for itself, on devices of its own.

    Raises:
      RewardJaxError: sizes that are not 1 or more (or one -1), or that need other devices than
        there are.
    """
    if devices is None:
        devices = jax.local_devices() if local else jax.devices()
    devices = list(devices)
    sizes = {axis: getattr(config, axis) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise RewardJaxError(
            f"mesh is {_words(sizes)}; expected sizes of at least 1, or -1 for one of them"
        )
    taken = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = max(len(devices) // taken, 1)
    count = math.prod(sizes.values())
    if len({device.process_index for device in devices[:count]}) < hosts.count() and not local:
        raise RewardJaxError(
            f"mesh {_words(sizes)} takes {count} of the {len(devices)} devices of {hosts.count()}"
            " processes, which leaves some process none; set one of its axes to -1"
        )
    if count > len(devices) or (free and count != len(devices)):
        raise RewardJaxError(
            f"mesh {_words(sizes)} takes {count} devices and there are {len(devices)}; lower a"
            " size, or set one to -1"
        )
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:count]
    )


@contextlib.contextmanager
def use_mesh(config: MeshConfig, *, local: bool = False) -> Iterator[Mesh | None]:
    """Everything inside lies on this mesh; of one device there is none. `local`: as `make_mesh`."""
    if config == MeshConfig() and (local or hosts.count() == 1):
        yield None
        return
    mesh = make_mesh(config, local=local)
    with jax.set_mesh(mesh):
        yield mesh


def current() -> Mesh | None:
    """The mesh in use, or None."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else mesh


def batch_parts() -> int:
    """Parts that a batch is split into on the mesh in use: its rows are a multiple of that."""
    mesh = jax.sharding.get_abstract_mesh()  # known inside a compiled program too
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """How a parameter lies on a mesh. A stacked layer's leading axis is split over nothing.

    Args:
      path: its names joined by slashes, layers/0/self_attn/q_proj/kernel.

    Raises:
      RewardJaxError: no rule for it, or an axis whose size does not divide its.
    """
    if not shape:  # a step's number, a key
        return P()
    fitting = (found for pattern, found in RULES if re.search(rf"(^|/){pattern}$", path))
    found = next(fitting, None)
    if found is None:
        raise RewardJaxError(f"sharding: no rule for parameter {path!r} of shape {list(shape)}")
    names = (*(None,) * (len(shape) - len(found)), *found) if found else ()
    for dimension, (size, axis) in enumerate(zip(shape, names, strict=False)):
        if axis is not None and size % mesh.shape[axis]:
            raise RewardJaxError(
                f"sharding: dimension {dimension} of {path!r}, {size}, is not divisible by mesh"
                f" axis {axis!r} of size {mesh.shape[axis]}; choose a size that divides it"
            )
    return P(*names)


def place(tree: Tree) -> Tree:
    """Parameters, or a state that holds them, on the mesh in use, each as its rule says."""
    mesh = current()
    if mesh is None:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: _spread(x, NamedSharding(mesh, spec(_name(path), x.shape, mesh))),
        tree,
    )


def _spread(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, each giving its own devices their parts."""
    if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _spread(jax.random.key_data(x), NamedSharding(sharding.mesh, P()))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def constrain_params(tree: Tree) -> Tree:
    """`place` inside a compiled program: what a step gives back lies as what it was given."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.with_sharding_constraint(x, spec(_name(path), x.shape, mesh)), tree
    )


def _name(path: tuple[Any, ...]) -> str:
    """layers/0/… from the keys, fields and places of a tree's path."""
    parts = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
    return "/".join(map(str, parts))


def put(path: tuple[str, ...], value: np.ndarray) -> jax.Array:
    """One parameter from the host to its place: each device gets its own part and no more."""
    mesh = current()
    if mesh is None:
        return jax.numpy.asarray(value)
    return _spread(value, NamedSharding(mesh, spec("/".join(path), value.shape, mesh)))


def own_rows(size: int) -> slice:
    """Those rows of a batch that this process's devices hold: all, where there is one process."""
    mesh = current()
    if mesh is None:
        return slice(0, size)
    spread = _batch_sharding(mesh, size).addressable_devices_indices_map((size,))
    parts = [index[0].indices(size) for index in spread.values() if index is not None]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def place_batch(tree: Tree, size: int | None = None) -> Tree:
    """Arrays whose first axis is the batch, split over `data` and `fsdp` where these divide it.

    Args:
      tree: `own_rows` of each array.
      size: rows of the whole batch; unset: as many as the arrays have, in every process.
    """
    mesh = current()
    if mesh is None:
        return tree

    def lay(x: Any) -> jax.Array:
        total = len(x) if size is None else size
        sharding = _batch_sharding(mesh, total)
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        own, values = own_rows(total), np.asarray(x)
        values = values[own] if size is None else values

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(total)
            return values[start - own.start : stop - own.start]

        return jax.make_array_from_callback((total, *values.shape[1:]), sharding, part)

    return jax.tree.map(lay, tree)


def _batch_sharding(mesh: Mesh, size: int) -> NamedSharding:
    return NamedSharding(mesh, P() if size % batch_parts() else P(BATCH))


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Where an array inside a compiled program is to lie on the mesh in use.

    An axis that does not divide its dimension (the few rows of a refill) is left out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x

    def fits(size: int, axis: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        names = (axis,) if isinstance(axis, str) else axis or ()
        return axis if size % math.prod(mesh.shape[name] for name in names) == 0 else None

    names = [fits(size, axis) for size, axis in zip(x.shape, axes, strict=False)]
    return jax.lax.with_sharding_constraint(x, P(*names))


def check_heads(heads: Mapping[str, int]) -> None:
    """Refuse a split of attention through the middle of a head.

    Args:
      heads: name of a config's field → its number of heads.

    Raises:
      RewardJaxError: naming the field.
    """
    mesh = current()
    size = 1 if mesh is None else mesh.shape["tensor"]
    for name, count in heads.items():
        if count % size:
            raise RewardJaxError(
                f"sharding: {name} is {count}, which mesh axis 'tensor' of size {size} does not"
                " divide; choose a size that does"
            )


def _words(sizes: Mapping[str, int]) -> str:
    return "{" + ", ".join(f"{axis}: {size}" for axis, size in sizes.items()) + "}"
