"""`LM`: a loaded language model with its tokenizer, and its identity."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float

from rewardjax.errors import RewardJaxError
from rewardjax.hosts import fetch
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import Params, read, unembed
from rewardjax.lm.params import unstack_layers

FINGERPRINT_VALUES = 1024
# What a computation does not depend on, or what is a decoding default rather than the model.
_NOT_IDENTITY = ("scan_layers", "model_type", "bos_token_id", "eos_token_ids")
# Fields that came after version 0.1.0: left out where unset, so that older fingerprints hold.
_LATER = (
    "query_pre_attn_scalar",
    "rope_local_theta",
    "norm_offset",
    "post_norms",
    "scale_embeddings",
)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: LMConfig, params: Params, tokens, lengths):
    return unembed(config, params, read(config, params, tokens, lengths)[config.num_hidden_layers])


@dataclasses.dataclass(frozen=True)
class LM:
    """A frozen language model. `params` is ready for `lm.decoder.forward` with `config`."""

    config: LMConfig
    params: Params = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    source: str

    def logits(self, token_ids: Any, lengths: Any) -> Float[Array, "B T V"]:
        """float32 next-token logits at every position of right-padded texts.

        Args:
          token_ids: integers [B, T] (NumPy, JAX or nested lists); ids beyond a row's length are
            padding and may be any valid id.
          lengths: integers [B], each in 1..T.

        Raises RewardJaxError for wrong shapes, types, ids or lengths. Values at padded positions
        mean nothing.
        """
        tokens, lengths = check_tokens(self.config, token_ids, lengths)
        return _logits(self.config, self.params, tokens, lengths)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the architecture, tensor names and shapes, and ≤ 1024 evenly spaced values
        of each tensor rounded to bfloat16: equal for bfloat16 and float32 loads of one model."""
        return fingerprint(self.config, self.params)

    @functools.cached_property
    def vocab(self) -> dict[str, int]:
        """Token string → id, from the tokenizer."""
        return dict(self.tokenizer.get_vocab())


@dataclasses.dataclass(frozen=True)
class OpenedLM:
    """An LM whose description and tokenizer are read and checked, and whose weights are not yet."""

    config: LMConfig
    tokenizer: Any = dataclasses.field(repr=False)
    source: str
    read: Callable[[], Params] = dataclasses.field(repr=False)
    """reads the weights"""

    @functools.cached_property
    def vocab(self) -> dict[str, int]:
        """Token string → id, from the tokenizer."""
        return dict(self.tokenizer.get_vocab())

    def load(self) -> LM:
        """Read the weights. Raises RewardJaxError for tensors that do not fit the config."""
        return LM(self.config, self.read(), self.tokenizer, self.source)


def check_tokens(config: LMConfig, token_ids: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    """(int32[B, T], int32[B]) of valid ids and lengths, or RewardJaxError."""
    try:
        tokens, lens = np.asarray(token_ids), np.asarray(lengths)
    except ValueError as error:
        raise RewardJaxError(f"token_ids are not a rectangle of integers: {error}") from None
    if tokens.ndim != 2 or tokens.size == 0 or lens.shape != tokens.shape[:1]:
        raise RewardJaxError(
            f"token_ids have shape {tokens.shape} and lengths {lens.shape}: expected [B, T] and [B]"
        )
    if tokens.dtype.kind not in "iu" or lens.dtype.kind not in "iu":
        raise RewardJaxError(
            f"token_ids are {tokens.dtype} and lengths {lens.dtype}: expected integers"
        )
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        bad = tokens[(tokens < 0) | (tokens >= config.vocab_size)][0]
        raise RewardJaxError(f"token id {bad} is outside the vocabulary 0..{config.vocab_size - 1}")
    if lens.min() < 1 or lens.max() > tokens.shape[1]:
        raise RewardJaxError(
            f"lengths span {lens.min()}..{lens.max()}: expected 1..{tokens.shape[1]}, the width"
        )
    if lens.max() > config.max_position_embeddings:
        raise RewardJaxError(
            f"a text has {lens.max()} tokens: the model's context is "
            f"{config.max_position_embeddings}; shorten the text"
        )
    return tokens.astype(np.int32), lens.astype(np.int32)


def fingerprint(config: LMConfig, params: Params) -> str:
    """See `LM.fingerprint`. Stacked and canonical trees of one model give the same string."""
    described = {
        k: v
        for k, v in config.to_dict().items()
        if k not in _NOT_IDENTITY and (v or k not in _LATER)
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    leaves = jax.tree_util.tree_leaves_with_path(unstack_layers(params))
    names = {".".join(str(part.key) for part in path): leaf for path, leaf in leaves}
    samples = _sample({name: names[name] for name in sorted(names)})
    for name in sorted(names):
        digest.update(f"{name}{tuple(names[name].shape)}".encode())
        digest.update(fetch(samples[name]).astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()


@jax.jit
def _sample(leaves: dict[str, Array]) -> dict[str, Array]:
    def take(x):
        flat = x.reshape(-1)
        return flat[:: max(1, -(-flat.size // FINGERPRINT_VALUES))]

    return {name: take(leaf) for name, leaf in leaves.items()}
