"""Stored tensors → a parameter tree on the device, one tensor at a time."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from rewardjax import sharding
from rewardjax.errors import RewardJaxError
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import Params
from rewardjax.lm.gguf_file import GGUFFile
from rewardjax.lm.names import HF_PREFIXES, IGNORED_GGUF, IGNORED_HF, Path, Plan, gguf_plan, hf_plan
from rewardjax.lm.safetensors_file import SafetensorsFiles

_LISTED = 4
# What a file format offers: `path`, `shapes` (stored name → shape) and `read(name) -> array`.
Source = SafetensorsFiles | GGUFFile


def load_hf_params(config: LMConfig, source: Source, dtype: Any) -> Params:
    """Parameters from Hugging Face tensors, ready for `forward` with `config`."""
    _check_depth(config, source)
    actual: dict[str, str] = {}
    for name in source.shapes:
        short = next((name[len(p) :] for p in HF_PREFIXES if name.startswith(p)), name)
        # Tied checkpoints may carry a copy of the embedding.
        if not (config.tie_word_embeddings and short == "lm_head.weight"):
            actual[short] = name
    return _load(config, source, dtype, hf_plan(config), actual, IGNORED_HF)


def load_gguf_params(config: LMConfig, source: Source, dtype: Any) -> Params:
    """Parameters from a GGUF file's tensors, ready for `forward` with `config`."""
    _check_depth(config, source)
    actual = {name: name for name in source.shapes}
    return _load(config, source, dtype, gguf_plan(config), actual, IGNORED_GGUF)


def _load(
    config: LMConfig,
    source: Source,
    dtype: Any,
    plan: Plan,
    actual: dict[str, str],
    ignored: re.Pattern[str],
) -> Params:
    _check(config, source, plan, actual, ignored)
    params: Params = {}
    stacks: dict[Path, np.ndarray] = {}
    for name, stored in plan.items():
        value = source.read(actual[name])
        for path, convert in stored.parts:
            part = np.ascontiguousarray(convert(value)).astype(dtype, copy=False)
            if config.scan_layers and path[0] == "layers":
                _stack(stacks, config, path, part)
            else:
                _set(params, path, sharding.put(path, part))
    while stacks:  # handed over one by one, so that two copies never exist
        path, stack = stacks.popitem()
        _set(params, path, sharding.put(path, stack))
    return jax.block_until_ready(params)


def _stack(stacks: dict[Path, np.ndarray], config: LMConfig, path: Path, part: np.ndarray) -> None:
    key = ("layers", *path[2:])
    if key not in stacks:
        stacks[key] = np.empty((config.num_hidden_layers, *part.shape), part.dtype)
    stacks[key][int(path[1])] = part


def _set(tree: Params, path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _check_depth(config: LMConfig, source: Source) -> None:
    """A layer has tensors of its own: a config that claims more layers is not worth planning."""
    if config.num_hidden_layers > len(source.shapes):
        raise RewardJaxError(
            f"{source.path}: {config.num_hidden_layers} layers are claimed, but there are only "
            f"{len(source.shapes)} tensors"
        )


def _check(
    config: LMConfig,
    source: Source,
    plan: Plan,
    actual: dict[str, str],
    ignored: re.Pattern[str],
) -> None:
    """Raise one RewardJaxError that lists every missing, unknown and mis-shaped tensor."""
    shapes = source.shapes
    missing = [name for name in plan if name not in actual]
    unknown = [n for short, n in actual.items() if short not in plan and not ignored.search(n)]
    wrong = [
        f"{actual[name]} {list(shapes[actual[name]])} instead of {list(stored.shape)}"
        for name, stored in plan.items()
        if name in actual and shapes[actual[name]] != stored.shape
    ]
    found = (("missing", missing), ("unknown", unknown), ("wrong shape", wrong))
    problems = [f"{len(names)} {what} ({_some(names)})" for what, names in found if names]
    if problems:
        raise RewardJaxError(
            f"{source.path}: tensors do not fit a {config.model_type} model of "
            f"{config.num_hidden_layers} layers: {'; '.join(problems)}"
        )


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
