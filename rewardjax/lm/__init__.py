"""The frozen language model: config, decoder, KV cache, loading, tokenizer."""

from rewardjax.lm.cache import KVCache
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import causal_mask, forward, output_embedding, read, unembed, unembed_with
from rewardjax.lm.model import LM, OpenedLM
from rewardjax.lm.params import first_layers, init_params, stack_layers, unstack_layers


def load_lm(*args, **kwargs):
    from rewardjax.lm.load import load_lm

    return load_lm(*args, **kwargs)


def open_lm(*args, **kwargs):
    from rewardjax.lm.load import open_lm

    return open_lm(*args, **kwargs)


__all__ = [
    "LM",
    "KVCache",
    "LMConfig",
    "OpenedLM",
    "causal_mask",
    "first_layers",
    "forward",
    "init_params",
    "load_lm",
    "open_lm",
    "output_embedding",
    "read",
    "stack_layers",
    "unembed",
    "unembed_with",
    "unstack_layers",
]
