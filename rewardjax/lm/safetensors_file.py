"""Safetensors files, one or many with an index, read tensor by tensor. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rewardjax.errors import RewardJaxError

_DTYPES = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
    """`shapes` (name → tuple) and `read(name) -> array` over the files of one model directory."""

    def __init__(self, path: str | Path):
        """`path`: a directory holding model.safetensors or model.safetensors.index.json.

        Opens every file and checks its header. Raises RewardJaxError naming the file.
        """
        self.path = Path(path)
        self._where: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file, names in self._files().items():
            self._open(file, names)

    def read(self, name: str) -> np.ndarray:
        """One tensor in its stored dtype (bfloat16 through ml_dtypes)."""
        return self._where[name].get_tensor(name)

    def _files(self) -> dict[Path, set[str] | None]:
        """File → the names the index promises in it (None: no index, whatever is there)."""
        index, single = self.path / "model.safetensors.index.json", self.path / "model.safetensors"
        if single.is_file():
            return {single: None}
        if not index.is_file():
            legacy = [p.name for p in self.path.glob("pytorch_model*.bin")]
            hint = f" ({legacy[0]} is a pickle, which is never loaded)" if legacy else ""
            raise RewardJaxError(
                f"{self.path}: no model.safetensors or model.safetensors.index.json{hint}; "
                "save the model with safetensors"
            )
        try:
            weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
            pairs = [(str(name), str(file)) for name, file in weight_map.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RewardJaxError(f"{index}: not a safetensors index with a weight_map") from None
        files: dict[Path, set[str] | None] = {}
        for name, file in pairs:
            if Path(file).name != file:
                raise RewardJaxError(f"{index}: file {file!r} lies outside the model's directory")
            names = files.setdefault(self.path / file, set())
            assert names is not None
            names.add(name)
        return files

    def _open(self, file: Path, promised: set[str] | None) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            handle = safe_open(file, framework="np")
            names = set(handle.keys())
            for name in sorted(names):
                described = handle.get_slice(name)
                if described.get_dtype() not in _DTYPES:
                    continue  # e.g. boolean mask buffers; reported later if it was wanted
                self._where[name] = handle
                self.shapes[name] = tuple(described.get_shape())
        except FileNotFoundError:
            raise RewardJaxError(f"{file}: missing, though the index names it") from None
        except (SafetensorError, OSError) as error:
            raise RewardJaxError(f"{file}: not a usable safetensors file: {error}") from None
        if promised is not None and not promised <= names:
            lost = sorted(promised - names)
            raise RewardJaxError(f"{file}: lacks {len(lost)} tensors of the index, e.g. {lost[0]}")
