"""The canonical parameter tree: random initialisation, shapes, stacking, cutting.

    {"embed_tokens": {"embedding"}, "layers": {"0": {"self_attn": {"q_proj": {"kernel"}, …}, …}, …},
     "norm": {"scale"}, "lm_head": {"kernel"} if untied}

Kernels are [in, out]. Checkpoints, rules and fingerprints speak these names; stacking for scanned
layers is a view that `unstack_layers` undoes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rewardjax.errors import RewardJaxError
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import Decoder, Params, _abstract


def init_params(config: LMConfig, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Random canonical parameters: N(0, 0.02²) matrices, unit norm scales, zero biases."""

    # Eager on purpose: initialisers compile once per shape, a jitted whole once per model.
    params = nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(key)), nnx.Param))
    return jax.tree.map(lambda x: x.astype(dtype), params)


def param_shapes(config: LMConfig, dtype: Any = jnp.float32) -> Params:
    """Canonical tree of `jax.ShapeDtypeStruct`s; allocates nothing."""
    one = dataclasses.replace(config, num_hidden_layers=1, scan_layers=False)
    params = nnx.to_pure_dict(_abstract(one, Decoder)[1])
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), params)
    layer = params["layers"]["0"]
    return {**params, "layers": {str(i): layer for i in range(config.num_hidden_layers)}}


def stack_layers(params: Params) -> Params:
    """Canonical tree → the same with "layers" as one layer's tree, every leaf with axis 0 = L."""
    layers = params["layers"]
    ordered = [layers[str(i)] for i in range(len(layers))]
    return {**params, "layers": jax.tree.map(lambda *xs: jnp.stack(xs), *ordered)}


def unstack_layers(params: Params) -> Params:
    """Inverse of `stack_layers`; a canonical tree is returned unchanged."""
    if not is_stacked(params):
        return params
    layers = params["layers"]
    depth = jax.tree.leaves(layers)[0].shape[0]
    split = {str(i): jax.tree.map(lambda x, i=i: x[i], layers) for i in range(depth)}
    return {**params, "layers": split}


def is_stacked(params: Params) -> bool:
    """True for the output of `stack_layers`."""
    return "self_attn" in params["layers"]


def cut_config(config: LMConfig, n: int) -> LMConfig:
    """Config of the model made of the first `n` layers; RewardJaxError where there are fewer."""
    if not 1 <= n <= config.num_hidden_layers:
        raise RewardJaxError(
            f"num_layers is {n}; expected 1 to {config.num_hidden_layers}, as many as the LM has"
        )
    sliding = config.sliding_layers
    if sliding is not None:
        sliding = tuple(i for i in sliding if i < n)
    return dataclasses.replace(config, num_hidden_layers=n, sliding_layers=sliding)


def first_layers(config: LMConfig, params: Params, n: int) -> tuple[LMConfig, Params]:
    """The model made of the first `n` layers, the embeddings, the final norm and the head.

    Works on canonical and on stacked trees; arrays are shared or sliced, not changed.
    """
    config = cut_config(config, n)
    if is_stacked(params):
        layers = jax.tree.map(lambda x: x[:n], params["layers"])
    else:
        layers = {str(i): params["layers"][str(i)] for i in range(n)}
    return config, {**params, "layers": layers}
