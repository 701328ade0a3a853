"""Safetensors files, one or many with an index, read tensor by tensor. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rewardjax.errors import RewardJaxError, short

_DTYPES = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
    """`shapes` (name → tuple) and `read(name) -> array` over the files of one model directory."""

    def __init__(self, path: str | Path):
        """`path`: a directory holding model.safetensors or model.safetensors.index.json.

        Opens every file and checks its header. Raises RewardJaxError naming the file.
        """
        self.path = Path(path)
        self._where: dict[str, tuple[Path, Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file, names in self._files().items():
            self._open(file, names)

    def read(self, name: str) -> np.ndarray:
        """One tensor in its stored dtype (bfloat16 through ml_dtypes)."""
        file, handle = self._where[name]
        try:
            return handle.get_tensor(name)
        except ValueError as error:  # an array of no values, but of too large a shape for NumPy
            raise RewardJaxError(f"{file}: tensor {short(name)} cannot be read: {error}") from None

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
            pairs = list(weight_map.items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RewardJaxError(f"{index}: not a safetensors index with a weight_map") from None
        files: dict[Path, set[str] | None] = {}
        for name, file in pairs:
            if not isinstance(file, str) or Path(file).name != file:
                raise RewardJaxError(
                    f"{index}: file {short(file)} lies outside the model's directory"
                )
            if not file.endswith(".safetensors") or len(file) > 200 or not file.isprintable():
                raise RewardJaxError(
                    f"{index}: file {short(file)} is no name of a safetensors file"
                )
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
                if name in self._where:
                    raise RewardJaxError(
                        f"{file}: tensor {short(name)} is in {self._where[name][0].name} too"
                    )
                described = handle.get_slice(name)
                if described.get_dtype() not in _DTYPES:
                    continue  # e.g. boolean mask buffers; reported later if it was wanted
                self._where[name] = file, handle
                self.shapes[name] = tuple(described.get_shape())
        except FileNotFoundError:
            raise RewardJaxError(f"{file}: missing, though the index names it") from None
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RewardJaxError(f"{file}: not a usable safetensors file: {reason}") from None
        if promised is not None and not promised <= names:
            lost = sorted(promised - names)
            raise RewardJaxError(
                f"{file}: lacks {len(lost)} tensors of the index, e.g. {short(lost[0])}"
            )
