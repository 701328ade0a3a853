"""Counters, exact where times are noisy: tokens read, programs compiled, arrays fetched."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import monitoring

PyTree = Any
_COMPILED = "/jax/core/compile/backend_compile_duration"
_PASSED_ON = frozenset(
    ("convert_element_type", "reshape", "transpose", "squeeze", "broadcast_in_dim", "copy", "slice")
)
"""What may stand between a parameter and the product it enters."""


@dataclass
class Products:
    """Matrix products of a traced function; the body of a `while` loop counts once."""

    flops: float = 0.0
    """2 per multiplication, of all products"""
    tokens: dict[str, float] = field(default_factory=dict)
    """parameter's path → rows that were multiplied with it"""

    def tokens_through(self, prefix: str) -> float:
        """Tokens that a transformer reads: rows that enter the last product of each of its layers.

        Args:
          prefix: how the paths of its parameters begin.
        """
        name = "'mlp']['down_proj']['kernel']"
        found = [n for path, n in self.tokens.items() if path.startswith(prefix) and name in path]
        return sum(found) / len(found) if found else 0.0


def products(function: Any, *arguments: PyTree, **named: PyTree) -> Products:
    """The matrix products of one call, from its trace alone: nothing is compiled or run.

    Args:
      function: takes pytrees of arrays (or of `jax.ShapeDtypeStruct`).
    """
    traced = jax.make_jaxpr(function)(*arguments, **named)
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path((arguments, named))
    ]
    found = Products()
    known = [_Known(path, 1.0) for path in paths]
    _walk(traced.jaxpr, dict(zip(traced.jaxpr.invars, known, strict=True)), 1.0, found)
    return found


class _Known(NamedTuple):
    """What a variable is: a parameter, or the slice of it that one turn of a scan sees."""

    path: str
    share: float
    """of a loop's turns that see this slice"""


def _walk(jaxpr: Any, names: dict[Any, _Known], times: float, found: Products) -> None:
    """Adds a jaxpr's products; `names` says which of its variables are parameters."""
    for eqn in jaxpr.eqns:
        known = [None if hasattr(v, "val") else names.get(v) for v in eqn.invars]
        kind, p = eqn.primitive.name, eqn.params
        if kind == "dot_general":
            _count(eqn, known, times, found)
        elif kind in _PASSED_ON and known[0] is not None:
            names[eqn.outvars[0]] = known[0]
        elif kind == "while":
            skip, body = p["cond_nconsts"], p["body_jaxpr"].jaxpr
            _walk(body, _named(body, known[skip:]), times, found)
        elif kind == "scan":
            body, turns = p["jaxpr"].jaxpr, p["length"]
            # What is scanned over has one axis more outside than inside.
            known = [
                one
                and (one if v.aval.ndim == w.aval.ndim else one._replace(share=one.share / turns))
                for one, v, w in zip(known, eqn.invars, body.invars, strict=True)
            ]
            _walk(body, _named(body, known), times * turns, found)
        elif kind == "cond":
            body = max((b.jaxpr for b in p["branches"]), key=lambda b: len(b.eqns))
            _walk(body, _named(body, known[1:]), times, found)
        else:
            for inner in jax.tree.leaves(
                list(p.values()), is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
            ):
                body = getattr(inner, "jaxpr", inner)
                # Others (the sum inside a reduction) take other arguments, and hold no product.
                if hasattr(body, "eqns") and len(body.invars) == len(known):
                    _walk(body, _named(body, known), times, found)


def _named(body: Any, known: list[_Known | None]) -> dict[Any, _Known]:
    return {v: one for v, one in zip(body.invars, known, strict=True) if one is not None}


def _count(eqn: Any, known: list[_Known | None], times: float, found: Products) -> None:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left, right = (v.aval.shape for v in eqn.invars)
    width = math.prod(left[i] for i in contracted)
    found.flops += 2.0 * times * width * math.prod(eqn.outvars[0].aval.shape)
    for one, other in zip(known, (right, left), strict=True):
        if one is not None:
            rows = times * one.share * math.prod(other) / width
            found.tokens[one.path] = found.tokens.get(one.path, 0.0) + rows


@dataclass
class Count:
    """How often something happened inside a block."""

    value: int = 0


@contextlib.contextmanager
def compilations() -> Iterator[Count]:
    """Counts the programs that XLA compiles (or fetches from the persistent cache) in a block."""
    count = Count()

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        count.value += event == _COMPILED

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def transfers() -> Iterator[Count]:
    """Counts the arrays whose values the host asks for in a block.

    On CPU nothing is moved, but the host waits there as it does elsewhere. JAX counts no transfers,
    so the two ways to a value are watched: NumPy's conversions, and `_value`, which bool(), int(),
    `device_get` and, on accelerators, the conversions go through.
    """
    count = Count()
    kind: Any = type(jnp.zeros(()))
    value, asarray, array = kind._value, np.asarray, np.array
    inside = False

    def fetch(call: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal inside
        if inside:
            return call(*arguments, **named)
        inside = True
        try:
            count.value += 1
            return call(*arguments, **named)
        finally:
            inside = False

    def convert(call: Any) -> Any:
        def converted(x: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(x, kind):
                return fetch(call, x, *arguments, **named)
            return call(x, *arguments, **named)

        return converted

    watched = property(lambda self: fetch(value.fget, self))
    with (
        mock.patch.object(kind, "_value", watched),
        mock.patch.object(np, "asarray", convert(asarray)),
        mock.patch.object(np, "array", convert(array)),
    ):
        yield count
