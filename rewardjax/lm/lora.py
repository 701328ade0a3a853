"""LoRA (arXiv 2106.09685): frozen weights, and trained products of low rank beside their kernels.

    kernel' = kernel + (alpha / rank) a b        a: [in, rank],  b: [rank, out]

Adapters stand beside every attention and feed-forward kernel. While training, a layer adds
(x a) b to x kernel (`beside`), so that no gradient as large as a kernel is computed, a third of a
step. For decoding the sum is taken once and for all (`add`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

PyTree = Any
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """How adapters are made and added."""

    rank: int
    alpha: float


def init(lora: Lora, key: Array, weights: PyTree) -> PyTree:
    """Adapters (float32) for canonical weights: a random, b zero, so their product is 0.

    {"0": {"self_attn": {"q_proj": {"a", "b"}, …}, "mlp": …}, "1": …}: the layers' tree, adapted
    kernels only.
    """
    rank, adapters = lora.rank, {}
    for i, (number, block, name) in enumerate(_kernels(weights)):
        kernel = weights["layers"][number][block][name]["kernel"]
        fan_in, fan_out = kernel.shape
        a = jax.random.normal(jax.random.fold_in(key, i), (fan_in, rank)) / jnp.sqrt(fan_in)
        pair = {"a": a, "b": jnp.zeros((rank, fan_out))}
        adapters.setdefault(number, {}).setdefault(block, {})[name] = pair
    return adapters


def add(lora: Lora, weights: PyTree, adapters: PyTree) -> PyTree:
    """Canonical weights with every adapter's product in them; all else is passed on."""

    def added(module: PyTree, a: Array, b: Array) -> PyTree:
        with jax.default_matmul_precision("highest"):
            return {**module, "kernel": module["kernel"] + a @ b}

    return _adapted(lora, weights, adapters, added)


def beside(lora: Lora, weights: PyTree, adapters: PyTree) -> PyTree:
    """Weights with the adapters' factors beside their kernels, as `decoder.forward` reads them."""
    return _adapted(lora, weights, adapters, lambda module, a, b: {**module, "a": a, "b": b})


def _adapted(
    lora: Lora, weights: PyTree, adapters: PyTree, how: Callable[[PyTree, Array, Array], PyTree]
) -> PyTree:
    """Weights whose adapted modules are `how(module, a, scaled b)`."""
    scale = lora.alpha / lora.rank
    layers = {number: dict(layer) for number, layer in weights["layers"].items()}
    for number, blocks in adapters.items():
        for block, modules in blocks.items():
            layers[number][block] = dict(layers[number][block])
            for name, pair in modules.items():
                module = layers[number][block][name]
                layers[number][block][name] = how(module, pair["a"], scale * pair["b"])
    return {**weights, "layers": layers}


def _kernels(weights: PyTree) -> list[tuple[str, str, str]]:
    """(layer, block, module) of every kernel that is adapted, in the order of the layers."""
    return [
        (number, block, name)
        for number in sorted(weights["layers"], key=int)
        for block, modules in weights["layers"][number].items()
        for name in ADAPTED
        if name in modules
    ]
