"""A language model as files that others read: a Hugging Face directory, or a PEFT adapter.

    config.json, model.safetensors, tokenizer files        weights whole, float32
    adapter_config.json, adapter_model.safetensors         what LoRA added, for Hugging Face PEFT

A directory appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rewardjax.hosts import fetch
from rewardjax.lm.config import LMConfig
from rewardjax.lm.hf_config import config_to_hf
from rewardjax.lm.lora import Lora
from rewardjax.lm.model import LM
from rewardjax.lm.names import Stored, hf_plan
from rewardjax.lm.params import unstack_layers

PyTree = Any


def save_lm(directory: str | Path, lm: LM) -> Path:
    """Write an LM as a Hugging Face directory, which `load_lm` and transformers read.

    Raises:
      RewardJaxError: an architecture that no config.json describes.
    """
    config, params = config_to_hf(lm.config), unstack_layers(lm.params)
    tensors = {}
    for name, stored in hf_plan(lm.config).items():
        parts = [_float32(_at(params, path)) for path, _ in stored.parts]
        tensors[_full(lm.config, name)] = _laid(stored, np.concatenate(parts, axis=-1))
    with new_folder(Path(directory)) as folder:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", config)
        lm.tokenizer.save_pretrained(folder)
    return Path(directory)


def save_adapter(
    directory: str | Path, config: LMConfig, lora: Lora, adapters: PyTree, base: str
) -> Path:
    """Write LoRA's factors (`lm.lora`) as an adapter that PEFT loads on the base model.

    PEFT's delta is alpha / r (B A) with A: [r, in] and B: [out, r]. GPT-2 keeps q, k and v in one
    kernel: its factors are theirs side by side, of three times the rank (and alpha).

    Args:
      adapters: as `lora.init` makes them.
      base: what PEFT is told the base model is called.
    """
    from scipy.linalg import block_diag  # slow to import: at first use

    tensors, modules, wide = {}, set(), {}
    for name, stored in hf_plan(config).items():
        pairs = [pair for path, _ in stored.parts if (pair := _pair(adapters, path))]
        if not pairs:
            continue
        module = name.removesuffix(".weight")
        a = np.concatenate([_float32(pair["a"]) for pair in pairs], axis=1)
        place = f"base_model.model.{_full(config, module)}"
        tensors[f"{place}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"{place}.lora_B.weight"] = block_diag(*(_float32(pair["b"]).T for pair in pairs))
        last = module.rsplit(".", 1)[-1]
        modules.add(last)
        if len(pairs) > 1:
            wide[last] = len(pairs)
    with new_folder(Path(directory)) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        description = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted(modules),
            "rank_pattern": {name: count * lora.rank for name, count in wide.items()},
            "alpha_pattern": {name: count * lora.alpha for name, count in wide.items()},
            "bias": "none",
            "fan_in_fan_out": config.model_type == "gpt2",  # its kernels lie [in, out]
            "inference_mode": True,
        }
        _write_json(folder / "adapter_config.json", description)
    return Path(directory)


@contextlib.contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `directory` once the block has filled it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        yield new
        if directory.exists():
            os.replace(directory, Path(scratch) / "old")
        os.replace(new, directory)


def _full(config: LMConfig, name: str) -> str:
    if name.split(".", 1)[0] == "lm_head":
        return name
    return f"{'transformer' if config.model_type == 'gpt2' else 'model'}.{name}"


def _laid(stored: Stored, value: np.ndarray) -> np.ndarray:
    """As it lies in the file: the inverse of `names._convert`."""
    value = np.ascontiguousarray(value.T if stored.flip else value)
    assert value.shape == stored.shape
    return value


def _at(tree: PyTree, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _pair(adapters: PyTree, path: tuple[str, ...]) -> PyTree:
    """The adapter beside a kernel; None where there is none."""
    if path[0] != "layers" or path[-1] != "kernel":
        return None
    return adapters.get(path[1], {}).get(path[2], {}).get(path[3])


def _float32(x: Any) -> np.ndarray:
    return np.asarray(fetch(x), np.float32)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
