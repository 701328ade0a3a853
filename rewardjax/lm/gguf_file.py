"""GGUF files: a bounds-checked reader of the header, and dequantised tensors one at a time.

Every count, length and offset in the header is checked against the bytes that are really there
before anything is allocated, so a truncated or lying file is refused at once.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import itertools
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rewardjax.errors import RewardJaxError, short

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4


class TensorInfo(NamedTuple):
    shape: tuple[int, ...]
    """Row-major, as NumPy has it: the reverse of the header's order."""
    kind: Any
    """`gguf.GGMLQuantizationType`."""
    start: int
    size: int


class GGUFFile:
    """`metadata` (name → Python value), `shapes` (name → tuple) and `read(name) -> float32`."""

    def __init__(self, path: str | Path):
        """Read and check the whole header. Raises RewardJaxError on anything malformed."""
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise RewardJaxError(f"{self.path}: the file is empty, expected a GGUF model") from None
        except OSError as error:
            raise RewardJaxError(f"{self.path}: cannot be read: {error.strerror}") from None
        self._at = 0
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            self._parse()
        except struct.error:
            raise self._bad("it ends inside the header; the file is truncated") from None
        except UnicodeDecodeError:
            raise self._bad("a name is not UTF-8 text; the file is corrupted") from None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """float32 values of one tensor, dequantised. Raises RewardJaxError where gguf cannot."""
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        info = self.tensors[name]
        rows = np.frombuffer(self._data, np.uint8, info.size, info.start)
        try:
            rows = rows.reshape(quant_shape_to_byte_shape(info.shape, info.kind))
            return np.asarray(dequantize(rows, info.kind), np.float32).reshape(info.shape)
        except NotImplementedError:
            raise self._bad(
                f"tensor {name[:100]} has type {info.kind.name}, which gguf cannot dequantise"
            ) from None

    def _bad(self, what: str) -> RewardJaxError:
        return RewardJaxError(f"{self.path}: not a usable GGUF file: {what}")

    def _parse(self) -> None:
        if self._data[:4] != b"GGUF":
            raise self._bad(f"it starts with {bytes(self._data[:4])!r}, expected b'GGUF'")
        self._at = 4
        (version,) = self._take("I")
        if version not in (2, 3):
            raise self._bad(f"version {version}, expected 2 or 3 (little endian)")
        tensors, pairs = self._take("QQ")
        # The smallest entry of each kind bounds the counts: no loop outlasts the file.
        self._check_count("metadata entries", pairs, 13)
        for _ in range(pairs):
            name = self._string()
            if name in self.metadata:
                raise self._bad(f"metadata key {short(name)} appears twice")
            (kind,) = self._take("I")
            self.metadata[name] = self._value(kind, name)
        self._check_count("tensors", tensors, 24)
        raw = [self._tensor_header() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._bad(f"general.alignment is {short(alignment)}, expected a power of two")
        base = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in raw:
            if offset % alignment:
                raise self._bad(
                    f"tensor {short(name)} begins at offset {offset}, expected a multiple of "
                    f"{alignment}"
                )
            self._add(name, shape, kind, base + offset)
        self._check_overlaps()

    def _add(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> None:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        if not name:
            raise self._bad("a tensor has no name")
        if name in self.tensors:
            raise self._bad(f"tensor {short(name)} appears twice")
        if kind not in GGMLQuantizationType._value2member_map_:
            raise self._bad(f"tensor {short(name)} has unknown type {kind}")
        kind = GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        elements = 1
        for n in shape:
            elements *= n
        if shape[-1] % block:
            raise self._bad(f"tensor {short(name)}: rows of {shape[-1]} are no multiple of {block}")
        size = elements // block * block_bytes
        if start + size > len(self._data):
            raise self._bad(
                f"tensor {short(name)} {shape} ends at byte {start + size} of {len(self._data)}; "
                "the file is truncated or corrupted"
            )
        self.tensors[name] = TensorInfo(shape, kind, start, size)

    def _check_overlaps(self) -> None:
        ordered = sorted(self.tensors.items(), key=lambda item: item[1].start)
        for (name, info), (following, after) in itertools.pairwise(ordered):
            if info.start + info.size > after.start:
                raise self._bad(f"tensors {short(name)} and {short(following)} overlap")

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _check_count(self, what: str, count: int, size: int) -> None:
        left = len(self._data) - self._at
        if count * size > left:
            raise self._bad(f"the header claims {count} {what}, but only {left} bytes are left")

    def _string(self) -> str:
        (length,) = self._take("Q")
        self._check_count("bytes of text", length, 1)
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8")

    def _value(self, kind: int, name: str) -> Any:
        if kind in _SCALARS:
            return self._take(_SCALARS[kind])[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._bad(f"metadata {short(name)} has unknown type {kind}")
        inner, count = self._take("IQ")
        if inner in _SCALARS:
            self._check_count(
                f"values in {short(name)}", count, struct.calcsize("<" + _SCALARS[inner])
            )
            return list(self._take(f"{count}{_SCALARS[inner]}"))
        if inner != _STRING:
            raise self._bad(
                f"metadata {short(name)} is an array of type {inner}, expected a simple type"
            )
        self._check_count(f"strings in {short(name)}", count, 8)
        return [self._string() for _ in range(count)]

    def _tensor_header(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (ndim,) = self._take("I")
        if not 1 <= ndim <= _MAX_DIMS:
            raise self._bad(f"tensor {short(name)} has {ndim} dimensions, expected 1..{_MAX_DIMS}")
        dims = self._take(f"{ndim}Q")
        if 0 in dims:
            raise self._bad(f"tensor {short(name)} has an empty dimension: {dims}")
        kind, offset = self._take("IQ")
        return name, tuple(reversed(dims)), kind, offset
