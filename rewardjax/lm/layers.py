"""The parts of a decoder layer: norms, attention, feed-forward block, and the layer itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from rewardjax.lm.config import LMConfig
from rewardjax.lm.rope import rotate

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


@jax.custom_vjp
def product(x: Float[Array, "*N I"], kernel: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    """x @ kernel, whose gradient with respect to the kernel is written as x^T g.

    JAX itself writes (g^T x)^T, for which XLA on CPU copies every g: a quarter of a training step.
    """
    return x @ kernel


def _product_gradients(kept, g):
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    return g @ kernel.T, jax.lax.dot_general(x, g, ((rows, rows), ((), ())))


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_gradients)


class Linear(nnx.Linear):
    """x kernel + bias; `adapted`: + (x a) b, which LoRA trains (`lm.lora`)."""

    def __init__(
        self, features_in: int, features_out: int, bias: bool, rngs: nnx.Rngs, adapted: bool = False
    ):
        super().__init__(
            features_in,
            features_out,
            use_bias=bias,
            kernel_init=nnx.initializers.normal(0.02),
            dot_general=lambda x, kernel, *_, **__: product(x, kernel),
            rngs=rngs,
        )
        self.adapted = adapted
        if adapted:  # of whatever rank: a module is only merged with parameters, never made
            self.a = nnx.Param(jnp.zeros((features_in, 1)))
            self.b = nnx.Param(jnp.zeros((1, features_out)))

    def __call__(self, x):
        if not self.adapted:
            return super().__call__(x)
        return super().__call__(x) + product(product(x, self.a[...]), self.b[...])


class OffsetRMSNorm(nnx.Module):
    """x / rms(x) * (1 + scale), in float32 (Gemma; 1 + scale would lose digits in bfloat16)."""

    def __init__(self, features: int, epsilon: float):
        self.scale = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon

    def __call__(self, x):
        x = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        scale = 1.0 + self.scale[...].astype(jnp.float32)
        return x * jax.lax.rsqrt(variance + self.epsilon) * scale


def norm(
    config: LMConfig, features: int, rngs: nnx.Rngs
) -> nnx.RMSNorm | nnx.LayerNorm | OffsetRMSNorm:
    """The config's kind of norm; it gives float32 whatever the weights' and the input's dtype."""
    if config.norm_offset:
        return OffsetRMSNorm(features, config.norm_eps)
    kind = nnx.RMSNorm if config.norm == "rms" else nnx.LayerNorm
    return kind(
        features, epsilon=config.norm_eps, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )


class Attention(nnx.Module):
    """Projections and rotation of grouped-query attention; what is looked at is the caller's."""

    def __init__(self, config: LMConfig, rngs: nnx.Rngs, adapted: bool = False):
        d, n, k, h = (
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.head_dim = h
        self.scale = (config.query_pre_attn_scalar or h) ** -0.5
        self.q_proj = Linear(d, n * h, config.attention_bias, rngs, adapted)
        self.k_proj = Linear(d, k * h, config.attention_bias, rngs, adapted)
        self.v_proj = Linear(d, k * h, config.attention_bias, rngs, adapted)
        self.o_proj = Linear(n * h, d, config.attention_out_bias, rngs, adapted)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = norm(config, h, rngs)
            self.k_norm = norm(config, h, rngs)

    def __call__(self, x, rope, attend):
        """x [B,T,D]; `attend(q, k, v, scale)` looks at these keys and values [B,T,K,H], and at
        those that a cache holds."""
        batch, time = x.shape[:2]
        q, k, v = (
            proj(x).reshape(batch, time, -1, self.head_dim)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.qk_norm:
            q, k = self.q_norm(q).astype(x.dtype), self.k_norm(k).astype(x.dtype)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        out = attend(q, k, v, self.scale)
        return self.o_proj(out.reshape(batch, time, -1))


def attend_cached(
    q: Float[Array, "B T N H"],
    keys: Float[Array, "B K H S"],
    values: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
    scale: float,
) -> Float[Array, "B T N H"]:
    """`jax.nn.dot_product_attention` over a cache as it lies (`KVCache`); softmax in float32."""
    batch, time, heads, width = q.shape
    kv_heads = keys.shape[1]
    # [B, K, G T, H]: the queries of a group are rows of one product; as the first operand, for XLA
    # on CPU reads a cache that comes first against its order.
    rows = jnp.moveaxis(q.reshape(batch, time, kv_heads, -1, width), 1, 3)
    rows = rows.reshape(batch, kv_heads, -1, width)
    scores = jnp.matmul(rows, keys.astype(q.dtype), preferred_element_type=jnp.float32) * scale
    scores = scores.reshape(batch, kv_heads, -1, time, keys.shape[3])
    # Finite: a query that may look at nothing gets a mean and no NaN.
    scores = jnp.where(mask[:, None, None], scores, -0.7 * jnp.finfo(jnp.float32).max)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    out = jnp.matmul(weights.reshape(*rows.shape[:3], -1), values.astype(q.dtype))
    out = jnp.moveaxis(out.reshape(batch, kv_heads, -1, time, width), 3, 1)
    return out.reshape(batch, time, heads, width)


class MLP(nnx.Module):
    """Feed-forward block, gated (Llama) or plain (GPT-2)."""

    def __init__(self, config: LMConfig, rngs: nnx.Rngs, adapted: bool = False):
        d, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gated = config.mlp_gated
        if config.mlp_gated:
            self.gate_proj = Linear(d, f, bias, rngs, adapted)
        self.up_proj = Linear(d, f, bias, rngs, adapted)
        self.down_proj = Linear(f, d, bias, rngs, adapted)

    def __call__(self, x):
        act = ACTIVATIONS[self.activation]
        if self.gated:
            return self.down_proj(act(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(act(self.up_proj(x)))


class Layer(nnx.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    With `config.post_norms`, what attention and MLP give is normed too before it is added. Names
    are Hugging Face's, where `post_attention_layernorm` stands before the MLP in the first form
    and after the attention in the second.
    """

    def __init__(self, config: LMConfig, rngs: nnx.Rngs, adapted: bool = False):
        self.post_norms = config.post_norms
        self.input_layernorm = norm(config, config.hidden_size, rngs)
        self.self_attn = Attention(config, rngs, adapted)
        self.post_attention_layernorm = norm(config, config.hidden_size, rngs)
        if config.post_norms:
            self.pre_feedforward_layernorm = norm(config, config.hidden_size, rngs)
            self.post_feedforward_layernorm = norm(config, config.hidden_size, rngs)
        self.mlp = MLP(config, rngs, adapted)

    def __call__(self, x, rope, attend):
        attended = self.self_attn(self.input_layernorm(x).astype(x.dtype), rope, attend)
        if not self.post_norms:
            x = x + attended
            return x + self.mlp(self.post_attention_layernorm(x).astype(x.dtype))
        x = x + self.post_attention_layernorm(attended).astype(x.dtype)
        fed = self.mlp(self.pre_feedforward_layernorm(x).astype(x.dtype))
        return x + self.post_feedforward_layernorm(fed).astype(x.dtype)
