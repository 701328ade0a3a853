"""Which stored tensor becomes which canonical parameter, and how.

A plan is {stored name: Stored(shape, [(canonical path, conversion), …])}. Llama-like names are
mechanical; GPT-2's are a table, because its q, k and v share one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from rewardjax.lm.config import LMConfig
from rewardjax.lm.params import param_shapes

Path = tuple[str, ...]
Convert = Callable[[np.ndarray], np.ndarray]


class Stored(NamedTuple):
    shape: tuple[int, ...]
    parts: list[tuple[Path, Convert]]
    """what it holds, side by side along our last axis"""
    flip: bool
    """[out, in], where kernels are [in, out]"""


Plan = dict[str, Stored]

# Buffers that old checkpoints carry and no model needs.
IGNORED_HF = re.compile(r"(rotary_emb\.inv_freq|attn\.(bias|masked_bias))$")
IGNORED_GGUF = re.compile(r"^rope_freqs\.weight$")
HF_PREFIXES = ("model.", "transformer.")

_GPT2_HF = {
    "embed_tokens": "wte",
    "embed_positions": "wpe",
    "norm": "ln_f",
    "lm_head": "lm_head",
    "layers": "h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
    "qkv": "attn.c_attn",
}
_GGUF = {
    "embed_tokens": "token_embd",
    "embed_positions": "position_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "qkv": "attn_qkv",
}
# Gemma's four norms: what Llama calls post-attention stands before the MLP there.
_GGUF_GEMMA = {
    **_GGUF,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def hf_plan(config: LMConfig) -> Plan:
    """Names without the `model.` or `transformer.` prefix."""
    gpt2 = config.model_type == "gpt2"
    table = _GPT2_HF if gpt2 else {}
    plan: Plan = {}
    for path, shape in leaves(param_shapes(config)):
        module, kind = path[:-1], path[-1]
        # GPT-2's Conv1D stores kernels [in, out]; nn.Linear stores [out, in].
        flip = kind == "kernel" and (not gpt2 or module == ("lm_head",))
        _place(plan, table, path, shape, flip, gpt2, np.asarray)
    return plan


def gguf_plan(config: LMConfig) -> Plan:
    """Names of llama.cpp's llama, gpt2 and gemma3 architectures."""
    gpt2, gemma = config.model_type == "gpt2", config.model_type == "gemma3_text"
    table = _GGUF_GEMMA if gemma else _GGUF
    plan: Plan = {}
    for path, shape in leaves(param_shapes(config)):
        restore: Convert = np.asarray
        if gemma and path[-1] == "scale":
            restore = _minus_one
        elif not (gpt2 or gemma) and path[-2] in ("q_proj", "k_proj"):
            query = path[-2] == "q_proj"
            heads = config.num_attention_heads if query else config.num_key_value_heads
            restore = partial(unpermute, heads=heads)
        _place(plan, table, path, shape, path[-1] == "kernel", gpt2, restore)
    return plan


def _minus_one(w: np.ndarray) -> np.ndarray:
    """llama.cpp stores Gemma's norm weights with the 1 that the model adds to them."""
    return w - np.float32(1)


def unpermute(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k from GGUF's interleaved rotary pairs back to Hugging Face's two halves.

    w: [heads * head_dim, …]; the same for a bias [heads * head_dim].
    """
    split = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:])
    return split.swapaxes(1, 2).reshape(w.shape)


def _place(
    plan: Plan,
    table: dict[str, str],
    path: Path,
    shape: tuple[int, ...],
    flip: bool,
    fused: bool,
    restore: Convert,
) -> None:
    """Add one canonical parameter to the plan. `restore` works on the stored layout."""
    suffix = "bias" if path[-1] == "bias" else "weight"
    part = "qkv".find(path[-2][0]) if fused and path[-2] in ("q_proj", "k_proj", "v_proj") else -1
    module = list(path[:-1])
    if part >= 0:
        # Fused q, k, v side by side along the output axis (which is the last one of ours).
        shape = (*shape[:-1], 3 * shape[-1])
        module = [*module[:-2], "qkv"]

    stored = tuple(reversed(shape)) if flip else shape
    name = f"{_module_name(module, table)}.{suffix}"
    parts = plan.setdefault(name, Stored(stored, [], flip)).parts
    parts.append((path, partial(_convert, restore, flip, part)))
    if part >= 0:
        parts.sort(key=lambda found: "qkv".find(found[0][-2][0]))


def _convert(restore: Convert, flip: bool, part: int, w: np.ndarray) -> np.ndarray:
    w = restore(w)
    w = w.T if flip else w
    return np.split(w, 3, axis=-1)[part] if part >= 0 else w


def _module_name(module: list[str], table: dict[str, str]) -> str:
    if module[0] != "layers":
        return table.get(module[0], module[0])
    inner = ".".join(module[2:])
    return f"{table.get('layers', 'layers')}.{module[1]}.{table.get(inner, inner)}"


def leaves(tree: dict, prefix: Path = ()) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """(path, shape) of every leaf of a nested dict."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), tuple(value.shape)
