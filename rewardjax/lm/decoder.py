"""One decoder-only transformer for GPT-2, Llama, Mistral, Qwen2, Qwen3 and Gemma 3.

`Decoder` is a Flax NNX module and defines names, shapes and initialisation. At run time only pure
functions are used: `forward(config, params, …)` merges a parameter tree into the module while
tracing, so parameters and caches are ordinary pytrees for `jit`, `scan`, donation and sharding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rewardjax.lm.cache import KVCache
from rewardjax.lm.config import LMConfig
from rewardjax.lm.layers import Layer, Linear, attend_cached, norm
from rewardjax.lm.rope import cos_sin
from rewardjax.sharding import BATCH, constrain

Params = dict[str, Any]
REMAT: dict[str, Any] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "layers": jax.checkpoint_policies.nothing_saveable,
}
"""What is kept of a layer for its gradient beside its input: products with weights, or nothing."""
Part = Callable[[LMConfig, nnx.Rngs], nnx.Module]


class Decoder(nnx.Module):
    """The whole model. Its pure state is the canonical parameter tree (`lm.params`)."""

    def __init__(self, config: LMConfig, rngs: nnx.Rngs):
        self.config = config
        embed = functools.partial(nnx.Embed, features=config.hidden_size, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.embed_tokens = embed(config.vocab_size, embedding_init=init)
        if config.learned_positions:
            self.embed_positions = embed(config.max_position_embeddings, embedding_init=init)
        layers = range(config.num_hidden_layers)
        self.layers = nnx.Dict({str(i): Layer(config, rngs) for i in layers})
        self.norm = norm(config, config.hidden_size, rngs)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, False, rngs)


@functools.lru_cache(maxsize=64)
def _abstract(config: LMConfig, part: Part) -> tuple[Any, Any]:
    """(graph definition, abstract parameters) of a module; no arrays are made."""
    return nnx.split(nnx.eval_shape(lambda: part(config, nnx.Rngs(0))))


def _apply(config: LMConfig, part: Part, params: Params) -> Any:
    return nnx.merge(_abstract(config, part)[0], params)


def _adapted_layer(config: LMConfig, rngs: nnx.Rngs) -> nnx.Module:
    return Layer(config, rngs, adapted=True)


def _final_norm(config: LMConfig, rngs: nnx.Rngs) -> nnx.Module:
    return norm(config, config.hidden_size, rngs)


def _narrow(mask, positions, keys, window: int):
    """Hide keys that lie `window` or more positions behind the query's own."""
    return mask & (keys > positions[:, :, None] - window)


def _view(config: LMConfig, positions, keys, mask, windowed: bool):
    """(rotation, mask) of the layers that have the sliding window, or of those that have not."""
    rope = None if config.learned_positions else cos_sin(config, positions, windowed)
    window = config.sliding_window if windowed else None
    return rope, mask if window is None else _narrow(mask, positions, keys, window)


def forward(
    config: LMConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    mask: Bool[Array, "B T S"],
    *,
    cache: KVCache | None = None,
    slots: Int[Array, "B T"] | None = None,
    capture: Iterable[int] = (),
) -> tuple[dict[int, Array], KVCache | None]:
    """Run the decoder. Pure; call it inside a jitted function with `config` static.

    Args:
      params: canonical tree, or stacked (`lm.params.stack_layers`) when `config.scan_layers`;
        LoRA's factors may stand beside the kernels (`lm.lora.beside`).
      tokens: ids in [0, V).
      positions: position of each token in its own text.
      mask: True where token t may look at key s. Without a cache S = T and the keys are the
        tokens themselves; with one the keys are the cache's S slots.
      cache: new keys and values of token t in row b are written at slot `slots[b, t]` first.
      slots: default `positions`; slots out of range are dropped. Only RAD's candidate queries
        need others (same position, different slots).
      capture: which hidden states to return.

    Returns:
      hidden: {l: [B, T, D]} for l in `capture`, numbered like Hugging Face's
        `output_hidden_states`: 0 = embeddings, l = residual stream after l layers, L = after the
        final norm. Without a cache no layer after max(capture) runs.
      cache: the updated cache, or None.
    """
    wanted = set(capture)
    depth = config.num_hidden_layers
    if not wanted <= set(range(depth + 1)):
        raise ValueError(f"capture {sorted(wanted)} outside 0..{depth}")
    last = depth if cache is not None else max(wanted, default=0)

    if config.compute_dtype is not None:
        params = jax.tree.map(lambda w: w.astype(config.compute_dtype), params)
    x = jnp.take(params["embed_tokens"]["embedding"], tokens, axis=0, mode="clip")
    if config.scale_embeddings:
        x = x * jnp.asarray(config.hidden_size**0.5, x.dtype)
    if config.learned_positions:
        x = x + jnp.take(params["embed_positions"]["embedding"], positions, axis=0, mode="clip")
    x = constrain(x, BATCH)
    # Positions of the keys. In a cache that is a key's slot; without one the keys are the tokens.
    keys = positions[:, None, :] if cache is None else jnp.arange(mask.shape[-1])
    views = tuple(_view(config, positions, keys, mask, windowed) for windowed in (False, True))
    slots = positions if slots is None else slots
    run = _run_scanned if config.scan_layers else _run_unrolled
    hidden, x, cache = run(config, params["layers"], x, views, cache, slots, wanted, last)
    if depth in wanted:
        hidden[depth] = _apply(config, _final_norm, params["norm"])(x).astype(x.dtype)
    return hidden, cache


def read(
    config: LMConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    capture: Iterable[int] | None = None,
) -> dict[int, Array]:
    """Hidden states of right-padded texts, each read from its beginning without a cache.

    Args:
      lengths: each in 1..T; states at padded positions mean nothing.
      capture: as `forward` takes it; None: the final states alone, {L: [B, T, D]}.

    Pure, like `forward`; the result is its `hidden`.
    """
    capture = (config.num_hidden_layers,) if capture is None else capture
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = causal_mask(lengths, tokens.shape[1])
    return forward(config, params, tokens, positions, mask, capture=capture)[0]


def _run_unrolled(config, layers, x, views, cache, slots, wanted, last):
    hidden = {0: x} if 0 in wanted else {}
    for i in range(last):
        rope, mask = views[config.window(i) is not None]
        x, cache = _layer(config, layers[str(i)], i, x, rope, mask, cache, slots)
        if i + 1 in wanted and i + 1 < config.num_hidden_layers:
            hidden[i + 1] = x
    return hidden, x, cache


def _layer(config, params, i, x, rope, mask, cache, slots):
    """The state after layer i, and the cache with its keys and values in it."""
    run = functools.partial(_run_layer, config, i)
    if config.remat != "none" and cache is None:
        run = jax.checkpoint(run, policy=REMAT[config.remat])
    return run(params, x, rope, mask, cache, slots)


def _run_layer(config, i, params, x, rope, mask, cache, slots):

    def attend(q, k, v, scale):
        nonlocal cache
        if cache is None:
            return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale)
        cache = cache.write(i, slots, k, v)
        return attend_cached(q, cache.keys[i], cache.values[i], mask, scale)

    part = _adapted_layer if "a" in params["self_attn"]["q_proj"] else Layer
    return _apply(config, part, params)(x, rope, attend), cache


def _run_scanned(config, layers, x, views, cache, slots, wanted, last):
    depth = config.num_hidden_layers
    hidden = {0: x} if 0 in wanted else {}
    if last == 0:
        return hidden, x, cache
    inner = sorted(wanted - {0, depth})
    windowed = jnp.array([config.window(i) is not None for i in range(last)], bool)
    # place[i]: where the state after layer i is kept; out of range (dropped) if not captured.
    place = jnp.array([inner.index(i + 1) if i + 1 in inner else depth for i in range(last)], int)
    layers = jax.tree.map(lambda a: a[:last], layers) if last < depth else layers

    def body(carry, xs):
        # The cache travels in the carry: as a scanned input and output it would be copied.
        x, kv, kept = carry
        i, params, windowed_here, place_here = xs
        rope, mask = views[0]
        if config.sliding_window is not None:
            choose = functools.partial(jnp.where, windowed_here)
            rope, mask = jax.tree.map(choose, views[1], views[0])
        x, kv = _layer(config, params, i, x, rope, mask, kv, slots)
        if inner:
            kept = kept.at[place_here].set(x, mode="drop")
        return (x, kv, kept), None

    kept = jnp.zeros((len(inner), *x.shape), x.dtype)
    xs = (jnp.arange(last), layers, windowed, place)
    (x, cache, kept), _ = jax.lax.scan(body, (x, cache, kept), xs, length=last)
    hidden.update({layer: kept[i] for i, layer in enumerate(inner)})
    return hidden, x, cache


def output_embedding(config: LMConfig, params: Params) -> Float[Array, "V D"]:
    """e(v) for every token v: the tied input embedding or the transposed `lm_head`."""
    if config.tie_word_embeddings:
        return params["embed_tokens"]["embedding"]
    return params["lm_head"]["kernel"].T


def unembed(config: LMConfig, params: Params, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
    """float32 logits ⟨hidden, e(v)⟩ of final-norm hidden states."""
    if config.tie_word_embeddings:
        table, axis = params["embed_tokens"]["embedding"], 1
    else:
        table, axis = params["lm_head"]["kernel"], 0
    contract = (((hidden.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(hidden, table, contract, preferred_element_type=jnp.float32)


def unembed_with(
    config: LMConfig,
    params: Params,
    hidden: Float[Array, "B D"],
    queries: Float[Array, "B A D"],
) -> tuple[Float[Array, "B V"], Float[Array, "B V A"]]:
    """`unembed(hidden)` and <queries, e(v)> (float32), with the embedding read once for both.

    In half precision a query is two rows of the product, what that type holds of it and the rest,
    so that rewards keep more digits than logits do.
    """
    batch, outputs = queries.shape[:2]
    high = queries.astype(hidden.dtype)
    parts = [high]
    if high.dtype != queries.dtype:
        parts.append((queries - high.astype(queries.dtype)).astype(hidden.dtype))
    rows = [hidden[None], *(jnp.moveaxis(part, 1, 0) for part in parts)]
    with jax.default_matmul_precision("highest"):
        scores = unembed(config, params, jnp.concatenate(rows))
    products = scores[1:].reshape(len(parts), outputs, batch, -1).sum(axis=0)
    return scores[0], jnp.moveaxis(products, 0, -1)


def causal_mask(lengths: Int[Array, " B"], T: int) -> Bool[Array, "B T T"]:
    """mask[b, t, s] = s <= t and s < lengths[b] (right padding)."""
    steps = jnp.arange(T)
    causal = steps[None, :] <= steps[:, None]
    return causal[None] & (steps[None, None, :] < lengths[:, None, None])
