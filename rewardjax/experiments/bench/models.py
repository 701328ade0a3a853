"""The models of a benchmark: a language model as loaded or of a given shape, reward models on it.

Speed does not depend on the weights' values, so reward heads are random; their scale is such that
RAD's clip changes some rewards and not others.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rewardjax.lm import (
    LMConfig,
    first_layers,
    init_params,
    load_lm,
    output_embedding,
    stack_layers,
    unstack_layers,
)
from rewardjax.rewards import RewardModel, RewardModelConfig, RewardParams, build

PyTree = Any
BETA = 10.0
"""Guidance strength of every guided run."""


def _gpt2(width: int, depth: int, heads: int) -> LMConfig:
    return LMConfig(
        model_type="gpt2",
        vocab_size=50257,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attention_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        mlp_gated=False,
        norm="layer",
        activation="gelu_tanh",
        learned_positions=True,
        bos_token_id=50256,
    )


def _llama(width: int, hidden: int, depth: int, heads: int, kv_heads: int) -> LMConfig:
    return LMConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
        max_position_embeddings=2048,
        bos_token_id=1,
    )


SHAPES = {
    "gpt2-large": (_gpt2(1280, 36, 20), _gpt2(768, 12, 12)),
    "llama-7b": (_llama(4096, 11008, 32, 32, 32), _llama(2048, 5632, 22, 32, 4)),
}
"""(LM, reward model): GPT-2 large and small; Llama 7B and TinyLlama 1.1B."""


@dataclass(frozen=True, eq=False)
class Models:
    """A language model, and the transformer that reward models of their own are made of."""

    name: str
    lm: LMConfig
    lm_params: PyTree
    """as `lm` wants them: stacked if it scans its layers"""
    own: LMConfig
    own_weights: PyTree
    """canonical, in memory of their own even where they are the LM's"""

    @property
    def dtype(self) -> str:
        return self.lm_params["embed_tokens"]["embedding"].dtype.name

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize

    def shortened(self, layers: int) -> Models:
        """The first layers of both models in float32, for comparisons of values."""
        lm = dataclasses.replace(self.lm, scan_layers=False)
        lm, params = _cut(lm, unstack_layers(self.lm_params), layers)
        own, weights = _cut(self.own, self.own_weights, layers)
        return Models(f"{self.name}, {layers} layers", lm, params, own, weights)


def load_models(
    source: str, shape: str | None, dtype: str, reward_layers: int | None, scan_layers: bool
) -> Models:
    """The LM `source`, or random weights of a named shape; reward models take their first layers.

    Raises:
      RewardJaxError: as `load_lm`; more layers wanted than there are.
    """
    if shape is None:
        loaded = load_lm(source, dtype=dtype)
        name, lm, params = source, loaded.config, loaded.params
        own, weights = lm, jax.tree.map(jnp.copy, params)
    else:
        lm, own = SHAPES[shape]
        name = f"{shape} shape, random weights"
        params = init_params(lm, jax.random.key(0), dtype)
        weights = init_params(own, jax.random.key(1), dtype)
    if reward_layers is not None:
        own, weights = first_layers(own, weights, reward_layers)
    if scan_layers:
        lm, params = dataclasses.replace(lm, scan_layers=True), stack_layers(params)
    return Models(name, lm, params, own, weights)


@functools.lru_cache(maxsize=8)
def make_reward_model(
    models: Models, parametrization: str, backbone: Literal["base", "own"]
) -> tuple[RewardModel, RewardParams]:
    """A reward model with a random head; a backbone of its own runs in the LM's dtype."""
    config = RewardModelConfig(parametrization, backbone)
    own = backbone == "own"
    model = build(config, models.lm, models.own if own else None)
    weights = models.own_weights if own else models.lm_params
    # What the model's own `init` puts where, without its float32 copy of the weights.
    places = jax.eval_shape(model.init, jax.random.key(0), weights)
    head = _random_head(places.trainable["head"], models.own if own else models.lm, weights)
    trainable, frozen = ({k: weights[k] for k in p.get("backbone", ())} for p in places)
    if not own:
        return model, RewardParams({"head": head}, model.freeze(weights))
    return model, RewardParams(
        {"head": head, "backbone": trainable}, {"backbone": frozen} if frozen else {}
    )


def _random_head(shapes: PyTree, config: LMConfig, weights: PyTree) -> PyTree:
    """Normal numbers, scaled so that rewards are about as large as 1."""
    scale = weights["norm"]["scale"].astype(jnp.float32) + config.norm_offset
    embedding = output_embedding(config, weights)
    state = float(jnp.linalg.norm(scale))  # about the length of a final hidden state
    token = float(jnp.linalg.norm(embedding[:1024].astype(jnp.float32), axis=1).mean())
    key, head = jax.random.key(2), {}
    for i, (name, leaf) in enumerate(sorted(shapes.items())):
        size = state * token if name == "projection" else state
        head[name] = jax.random.normal(jax.random.fold_in(key, i), leaf.shape) / size
    return head


def _cut(config: LMConfig, weights: PyTree, layers: int) -> tuple[LMConfig, PyTree]:
    config, weights = first_layers(config, weights, min(layers, config.num_hidden_layers))
    return config, jax.tree.map(lambda x: x.astype(jnp.float32), weights)
