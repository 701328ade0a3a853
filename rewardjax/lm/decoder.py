"""One decoder-only transformer for GPT-2, Llama, Mistral, Qwen2 and Qwen3.

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
from rewardjax.lm.rope import cos_sin, rotate

Params = dict[str, Any]
Part = Callable[[LMConfig, nnx.Rngs], nnx.Module]

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def _linear(features_in: int, features_out: int, bias: bool, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(0.02)
    return nnx.Linear(features_in, features_out, use_bias=bias, kernel_init=init, rngs=rngs)


def _norm(config: LMConfig, features: int, rngs: nnx.Rngs) -> nnx.RMSNorm | nnx.LayerNorm:
    # dtype float32: statistics and scaling in float32 whatever the weights' dtype.
    kind = nnx.RMSNorm if config.norm == "rms" else nnx.LayerNorm
    return kind(
        features, epsilon=config.norm_eps, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )


class Attention(nnx.Module):
    """Grouped-query attention over the tokens themselves or over a cache."""

    def __init__(self, config: LMConfig, rngs: nnx.Rngs):
        d, n, k, h = (
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.head_dim = h
        self.q_proj = _linear(d, n * h, config.attention_bias, rngs)
        self.k_proj = _linear(d, k * h, config.attention_bias, rngs)
        self.v_proj = _linear(d, k * h, config.attention_bias, rngs)
        self.o_proj = _linear(n * h, d, config.attention_out_bias, rngs)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = _norm(config, h, rngs)
            self.k_norm = _norm(config, h, rngs)

    def __call__(self, x, rope, mask, store):
        """x [B,T,D], mask bool[B,T,S]; `store(k, v)` puts new keys and values where they belong
        and returns all that may be looked at, [B,S,K,H] each."""
        batch, time = x.shape[:2]
        q, k, v = (
            proj(x).reshape(batch, time, -1, self.head_dim)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.qk_norm:
            q, k = self.q_norm(q).astype(x.dtype), self.k_norm(k).astype(x.dtype)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        k, v = store(k, v)
        out = jax.nn.dot_product_attention(
            q, k.astype(q.dtype), v.astype(q.dtype), mask=mask[:, None]
        )
        return self.o_proj(out.reshape(batch, time, -1))


class MLP(nnx.Module):
    """Feed-forward block, gated (Llama) or plain (GPT-2)."""

    def __init__(self, config: LMConfig, rngs: nnx.Rngs):
        d, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gated = config.mlp_gated
        if config.mlp_gated:
            self.gate_proj = _linear(d, f, bias, rngs)
        self.up_proj = _linear(d, f, bias, rngs)
        self.down_proj = _linear(f, d, bias, rngs)

    def __call__(self, x):
        act = ACTIVATIONS[self.activation]
        if self.gated:
            return self.down_proj(act(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(act(self.up_proj(x)))


class Layer(nnx.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LMConfig, rngs: nnx.Rngs):
        self.input_layernorm = _norm(config, config.hidden_size, rngs)
        self.self_attn = Attention(config, rngs)
        self.post_attention_layernorm = _norm(config, config.hidden_size, rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x, rope, mask, store):
        x = x + self.self_attn(self.input_layernorm(x).astype(x.dtype), rope, mask, store)
        return x + self.mlp(self.post_attention_layernorm(x).astype(x.dtype))


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
        self.norm = _norm(config, config.hidden_size, rngs)
        if not config.tie_word_embeddings:
            self.lm_head = _linear(config.hidden_size, config.vocab_size, False, rngs)


@functools.lru_cache(maxsize=64)
def _abstract(config: LMConfig, part: Part) -> tuple[Any, Any]:
    """(graph definition, abstract parameters) of a module; no arrays are made."""
    return nnx.split(nnx.eval_shape(lambda: part(config, nnx.Rngs(0))))


def _apply(config: LMConfig, part: Part, params: Params) -> Any:
    return nnx.merge(_abstract(config, part)[0], params)


def _final_norm(config: LMConfig, rngs: nnx.Rngs) -> nnx.Module:
    return _norm(config, config.hidden_size, rngs)


def _narrow(mask, positions, window: int):
    """Hide keys that lie `window` or more positions behind the query (key slot = position)."""
    slots = jnp.arange(mask.shape[-1])
    return mask & (slots > positions[:, :, None] - window)


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
      params: canonical tree, or stacked (`lm.params.stack_layers`) when `config.scan_layers`.
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

    x = jnp.take(params["embed_tokens"]["embedding"], tokens, axis=0, mode="clip")
    rope = None
    if config.learned_positions:
        x = x + jnp.take(params["embed_positions"]["embedding"], positions, axis=0, mode="clip")
    else:
        rope = cos_sin(config, positions)
    window = config.sliding_window
    masks = (mask, mask if window is None else _narrow(mask, positions, window))
    slots = positions if slots is None else slots
    run = _run_scanned if config.scan_layers else _run_unrolled
    hidden, x, cache = run(config, params["layers"], x, rope, masks, cache, slots, wanted, last)
    if depth in wanted:
        hidden[depth] = _apply(config, _final_norm, params["norm"])(x).astype(x.dtype)
    return hidden, cache


def _run_unrolled(config, layers, x, rope, masks, cache, slots, wanted, last):
    hidden = {0: x} if 0 in wanted else {}
    rows = jnp.arange(x.shape[0])[:, None]
    keys, values = ([], []) if cache is None else (list(cache.keys), list(cache.values))
    for i in range(last):

        def store(k, v, i=i):
            if cache is None:
                return k, v
            keys[i] = keys[i].at[rows, slots].set(k.astype(keys[i].dtype), mode="drop")
            values[i] = values[i].at[rows, slots].set(v.astype(values[i].dtype), mode="drop")
            return keys[i], values[i]

        mask = masks[config.window(i) is not None]
        x = _apply(config, Layer, layers[str(i)])(x, rope, mask, store)
        if i + 1 in wanted and i + 1 < config.num_hidden_layers:
            hidden[i + 1] = x
    return hidden, x, None if cache is None else KVCache(tuple(keys), tuple(values))


def _run_scanned(config, layers, x, rope, masks, cache, slots, wanted, last):
    depth = config.num_hidden_layers
    hidden = {0: x} if 0 in wanted else {}
    if last == 0:
        return hidden, x, cache
    inner = sorted(wanted - {0, depth})
    rows = jnp.arange(x.shape[0])[:, None]
    windowed = jnp.array([config.window(i) is not None for i in range(last)], bool)
    # place[i]: where the state after layer i is kept; out of range (dropped) if not captured.
    place = jnp.array([inner.index(i + 1) if i + 1 in inner else depth for i in range(last)], int)
    layers = jax.tree.map(lambda a: a[:last], layers) if last < depth else layers

    def body(carry, xs):
        # The cache travels in the carry: as a scanned input and output it would be copied.
        x, kv, kept = carry
        layer, params, windowed_here, place_here = xs
        box = [kv]

        def store(k, v):
            if kv is None:
                return k, v
            where = (layer, rows, slots)
            box[0] = KVCache(
                kv.keys.at[where].set(k.astype(kv.keys.dtype), mode="drop"),
                kv.values.at[where].set(v.astype(kv.values.dtype), mode="drop"),
            )
            return box[0].keys[layer], box[0].values[layer]

        mask = masks[0]
        if config.sliding_window is not None:
            mask = jnp.where(windowed_here, masks[1], masks[0])
        x = _apply(config, Layer, params)(x, rope, mask, store)
        if inner:
            kept = kept.at[place_here].set(x, mode="drop")
        return (x, box[0], kept), None

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


def causal_mask(lengths: Int[Array, " B"], T: int) -> Bool[Array, "B T T"]:
    """mask[b, t, s] = s <= t and s < lengths[b] (right padding)."""
    steps = jnp.arange(T)
    causal = steps[None, :] <= steps[:, None]
    return causal[None] & (steps[None, None, :] < lengths[:, None, None])
