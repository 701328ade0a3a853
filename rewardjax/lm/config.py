"""The one description of a decoder-only language model: a frozen, hashable dataclass.

The dataclass is static: it is passed to `jax.jit` as a static argument and decides shapes and
branches. Field names follow Hugging Face's `config.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

RopeScaling = tuple[tuple[str, Any], ...]  # sorted (name, value) pairs; hashable


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Architecture of one decoder. Every field is read by `lm.decoder`, `lm.load` or decoding."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    model_type: str = "llama"
    """Hugging Face family name; decides only how tensors are named in files."""
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    """None, or sorted pairs such as (("factor", 8.0), ("rope_type", "llama3"), …)."""
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """Bias on q, k and v."""
    attention_out_bias: bool = False
    mlp_bias: bool = False
    mlp_gated: bool = True
    """True: down(act(gate(x)) * up(x)); False: down(act(up(x))) (GPT-2)."""
    qk_norm: bool = False
    """RMSNorm over each head of q and k before the rotation (Qwen3, Gemma 3)."""
    sliding_window: int | None = None
    """A query looks at this many latest positions, itself included."""
    sliding_layers: tuple[int, ...] | None = None
    """Layers that use the window; None means all of them."""
    query_pre_attn_scalar: float | None = None
    """Attention scores are divided by its square root; None means `head_dim`."""
    rope_local_theta: float | None = None
    """RoPE base, without scaling, of the layers that use the window (Gemma 3); None: as all."""
    norm: str = "rms"
    """`rms` (RMSNorm) or `layer` (LayerNorm with bias)."""
    norm_eps: float = 1e-5
    norm_offset: bool = False
    """RMSNorm multiplies by 1 + scale in place of scale (Gemma)."""
    post_norms: bool = False
    """What attention and MLP give is normed too before it is added (Gemma 3)."""
    scale_embeddings: bool = False
    """Embeddings times sqrt(hidden_size) rounded to their dtype (Gemma)."""
    activation: str = "silu"
    """`silu`, `gelu` (exact), `gelu_tanh` or `relu`."""
    learned_positions: bool = False
    """Learned absolute positions (GPT-2) in place of rotary ones."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    scan_layers: bool = False
    """False: layers unrolled (faster on CPU). True: one `lax.scan` over stacked layers."""
    remat: str = "none"
    """What a gradient computes again in place of keeping it (`lm.decoder.REMAT`)."""
    compute_dtype: str | None = None
    """Weights are used in this type; None: in their own."""

    def window(self, layer: int) -> int | None:
        """Sliding window of `layer`, or None where the layer looks at everything."""
        if self.sliding_layers is not None and layer not in self.sliding_layers:
            return None
        return self.sliding_window

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible dict; `from_dict` inverts it."""
        out = dataclasses.asdict(self)
        del out["remat"], out["compute_dtype"]  # how it is computed at the moment
        if self.rope_scaling is not None:
            out["rope_scaling"] = dict(self.rope_scaling)
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LMConfig:
        """Inverse of `to_dict`, also after a trip through JSON (lists become tuples)."""
        out = dict(values)
        for name in ("eos_token_ids", "sliding_layers"):
            if out.get(name) is not None:
                out[name] = tuple(out[name])
        if out.get("rope_scaling") is not None:
            out["rope_scaling"] = freeze(out["rope_scaling"])
        return cls(**out)

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> LMConfig:
        """From a Hugging Face `config.json` (old or transformers-5 style).

        Raises RewardJaxError for an unsupported architecture or option, by name.
        """
        from rewardjax.lm.families import config_from_hf

        return config_from_hf(values)

    @classmethod
    def from_gguf(cls, gguf: Any) -> LMConfig:
        """From an opened `lm.gguf_file.GGUFFile` (llama, gpt2 or gemma3 architecture)."""
        from rewardjax.lm.families import config_from_gguf

        return config_from_gguf(gguf)


def freeze(mapping: Mapping[str, Any]) -> RopeScaling:
    """A dict as sorted pairs, lists as tuples, so that the config stays hashable."""
    pairs = ((k, tuple(v) if isinstance(v, (list, tuple)) else v) for k, v in dict(mapping).items())
    return tuple(sorted(pairs))
