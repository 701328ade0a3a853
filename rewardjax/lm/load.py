"""`load_lm` and `open_lm`: an alias, a Hugging Face directory, a GGUF file or a hub id → an LM."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rewardjax.cache import keep_compiled
from rewardjax.errors import RewardJaxError, short
from rewardjax.lm import aliases
from rewardjax.lm.aliases import ALIASES
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import Params
from rewardjax.lm.gguf_file import GGUFFile
from rewardjax.lm.json_file import read_json
from rewardjax.lm.model import LM, OpenedLM
from rewardjax.lm.safetensors_file import SafetensorsFiles
from rewardjax.lm.tokenizer import tokenizer_from_directory, tokenizer_from_gguf
from rewardjax.lm.weights import load_gguf_params, load_hf_params
from rewardjax.sharding import check_heads

Opened = tuple[LMConfig, Any, Callable[[], Params]]  # config, tokenizer, reader of the weights
DTYPES = ("float32", "bfloat16")
# Everything a model directory needs and nothing that could be a pickle.
HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def load_lm(
    source: str | os.PathLike[str],
    dtype: Any = "float32",
    revision: str | None = None,
    scan_layers: bool = False,
) -> LM:
    """Load a frozen language model and its tokenizer.

    Args:
      source: an alias (`smollm2-135m`, `gemma3-270m`), a directory with config.json and
        safetensors, a `.gguf` file (llama, gpt2 or gemma3 architecture), or a Hugging Face hub
        id. What looks like a path is never tried as a hub id.
      dtype: "float32" or "bfloat16", of the parameters.
      revision: commit, tag or branch of a hub id.
      scan_layers: stack the layers and run them with one `lax.scan` (faster to compile, slower on
        CPU).

    Raises RewardJaxError for a missing or malformed file, an unsupported architecture, or tensors
    that do not fit the config (all of them listed at once).
    """
    return open_lm(source, dtype, revision, scan_layers).load()


def open_lm(
    source: str | os.PathLike[str],
    dtype: Any = "float32",
    revision: str | None = None,
    scan_layers: bool = False,
) -> OpenedLM:
    """`load_lm` without its last step: everything is found, read and checked but the weights.

    Texts and settings can be checked against the config and the tokenizer before the slow part.
    """
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind.name not in DTYPES:
        raise RewardJaxError(f"dtype {dtype!r} is not supported: expected {' or '.join(DTYPES)}")
    keep_compiled()  # whatever is compiled here comes after an LM was opened
    path = resolve(source, revision)
    opened = _from_directory if path.is_dir() else _from_gguf
    config, tokenizer, read = opened(path, kind, scan_layers)
    names = ("num_attention_heads", "num_key_value_heads")
    check_heads({name: getattr(config, name) for name in names})
    return OpenedLM(config, tokenizer, str(source), read)


def resolve(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Directory or `.gguf` file that `source` names; downloads a hub id. Loads no weights."""
    name = os.fspath(source)
    if not name:
        raise RewardJaxError("the language model's name is empty: give an alias, path or hub id")
    try:
        path = Path(name).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long; no such user's ~
        reason = error.strerror if isinstance(error, OSError) else error
        raise RewardJaxError(f"{short(name)}: no usable path: {reason}") from None
    if revision is not None and (name in ALIASES or exists or looks_like_path(name)):
        raise RewardJaxError(f"revision {revision!r} was given, but {name!r} is not a hub id")
    if name in ALIASES:
        return aliases.find(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise RewardJaxError(f"{path}: no config.json: expected a Hugging Face model directory")
        return path
    if exists:
        if path.suffix == ".gguf":
            return path
        raise RewardJaxError(f"{path}: expected a .gguf file or a directory with config.json")
    if looks_like_path(name):
        raise RewardJaxError(f"{name}: no such file or directory")
    if not _HUB_ID.fullmatch(name):
        raise RewardJaxError(
            f"{name!r} is no alias ({', '.join(ALIASES)}), no existing path and no hub id"
        )
    return _download(name, revision)


def looks_like_path(name: str) -> bool:
    """True for what can only have been meant as a path."""
    return (
        name.startswith((os.sep, ".", "~"))
        or name.endswith((".gguf", ".safetensors", os.sep))
        or name.count("/") > 1
        or "\\" in name
    )


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=HUB_FILES)
    except Exception as error:  # its HTTP library's own errors (timeouts, cut transfers) too
        reason = " ".join(str(error).split())[:200]
        raise RewardJaxError(
            f"{name!r} is no alias ({', '.join(ALIASES)}) and no existing path, and the Hugging "
            f"Face hub did not give it: {reason}"
        ) from None
    if not (Path(folder) / "config.json").is_file():
        raise RewardJaxError(f"hub repository {name!r} has no config.json")
    return Path(folder)


def _from_directory(path: Path, dtype: Any, scan: bool) -> Opened:
    try:
        config = LMConfig.from_hf(_config_values(path))
    except RewardJaxError as error:
        raise RewardJaxError(f"{path / 'config.json'}: {error}") from None
    config = dataclasses.replace(config, scan_layers=scan)
    files = SafetensorsFiles(path)
    tokenizer = tokenizer_from_directory(path)
    return config, tokenizer, lambda: load_hf_params(config, files, dtype)


def _config_values(path: Path) -> dict[str, Any]:
    values = read_json(path / "config.json")
    extra = path / "generation_config.json"
    if extra.is_file():
        # Chat models name further end tokens only there.
        merged = []
        for ids in (values.get("eos_token_id"), read_json(extra).get("eos_token_id")):
            merged += ids if isinstance(ids, list) else [ids]
        values["eos_token_id"] = merged
    return values


def _from_gguf(path: Path, dtype: Any, scan: bool) -> Opened:
    gguf = GGUFFile(path)
    config = dataclasses.replace(LMConfig.from_gguf(gguf), scan_layers=scan)
    tokenizer = tokenizer_from_gguf(gguf)
    return config, tokenizer, lambda: load_gguf_params(config, gguf, dtype)
