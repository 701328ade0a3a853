"""How many directions a matrix has: spectrum, numerical rank, energy rank, growth with its rows.

Singular values are always those of the matrix itself. Its Gram matrix would be cheaper, but squares
the condition number: in float32 every singular value below 3e-4 of the largest would be noise.
A wide matrix is first reduced to its triangular QR factor, which has the same singular values; the
factor is built from blocks of columns (QR of the old factor on top of a new block; Demmel et al.
2012, arXiv 0808.2664, §2), so memory is O(N^2 + N * block) whatever the width, also for a matrix
that lies in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
import scipy.linalg
from jaxtyping import Float

from rewardjax.errors import RewardJaxError

Matrix = Float[np.ndarray, "N V"]
Spectrum = Float[np.ndarray, "R"]
SVDType = Literal["float32", "float64"]
Cutoff = float | str

DTYPE_CUTOFFS = ("float32", "bfloat16", "float64")
RELATIVE_CUTOFFS = (1e-2, 1e-3, 1e-4, 1e-6)
ENERGY_SHARES = (0.9, 0.95, 0.99, 0.999)
FIRST_SIZE = 8
"""Smallest leading part whose growth is reported."""


def spectrum(
    matrix: Matrix,
    dtype: SVDType = "float64",
    *,
    center_rows: bool = False,
    block: int | None = None,
) -> Spectrum:
    """All min(N, V) singular values of `matrix`, descending, as float64.

    Args:
        matrix: any real floating dtype; a memory-mapped one is read block by block.
        dtype: in which the QR and the SVD run.
        center_rows: subtract each row's mean first: what is left tells the columns of a row apart.
        block: columns read at once; unset: 2 N, at least 8192.

    Raises:
        RewardJaxError: an empty matrix, or an entry that is not finite.
    """
    _check(matrix)
    rows, columns = matrix.shape
    width = max(2 * rows, 8192) if block is None else block
    means = _row_means(matrix, width) if center_rows else None
    if rows >= columns:  # tall: a QR of the columns would not make it smaller
        whole = next(_blocks(matrix, columns, means, dtype))[1]
        return _singular_values(whole)
    factor = np.zeros((0, rows), dtype)
    for _, part in _blocks(matrix, width, means, dtype):
        stacked = np.concatenate([factor, part.T])
        factor = scipy.linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0]
        factor = np.asarray(factor)[: min(rows, len(stacked))]
    return _singular_values(factor)


def cutoff(shape: tuple[int, int], kind: Cutoff) -> float:
    """The cut-off relative to the largest singular value, below which one counts as zero.

    float32 and float64: NumPy's rule (`numpy.linalg.matrix_rank`), max(N, V) * eps. bfloat16: its
    eps alone, 2^-7, since max(N, V) * eps would exceed 1. A number is taken as it is.

    Raises:
        RewardJaxError: another name, or a number outside (0, 1).
    """
    if isinstance(kind, str):
        if kind == "bfloat16":
            return float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
        if kind not in DTYPE_CUTOFFS:
            raise RewardJaxError(
                f"rank cut-off {kind!r} is unknown; expected {', '.join(DTYPE_CUTOFFS)} or a number"
            )
        return max(shape) * float(np.finfo(kind).eps)
    if not 0 < kind < 1:
        raise RewardJaxError(f"rank cut-off {kind} is relative; expected a number between 0 and 1")
    return kind


def numerical_rank(s: Spectrum, shape: tuple[int, int], kind: Cutoff = "float32") -> int:
    """Number of singular values above `cutoff(shape, kind)` times the largest; 0 of a zero matrix.

    Args:
        s: singular values, descending.
        shape: of the matrix they belong to.
    """
    return int(np.sum(s > cutoff(shape, kind) * s[0]))


def energy_rank(s: Spectrum, share: float = 0.99) -> int:
    """Smallest r with sum_{i<=r} s_i^2 >= share * sum_i s_i^2; 0 of a zero matrix.

    Raises:
        RewardJaxError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise RewardJaxError(f"energy share {share}; expected a number above 0, up to 1")
    energy = np.square(s, dtype=np.float64)
    # What is left out, summed from the small end: exact where 1 - share is near rounding.
    left = np.cumsum(energy[::-1])[::-1]
    if left[0] == 0:
        return 0
    rounding = 4 * np.finfo(np.float64).eps  # 1 - 0.9 is not quite 0.1
    return 1 + int(np.sum(left[1:] > (1 - share + rounding) * left[0]))


def ranks(s: Spectrum, shape: tuple[int, int]) -> dict[str, dict[str, int]]:
    """Numerical ranks at every cut-off and energy ranks at every share, by name."""
    kinds: Mapping[str, Cutoff] = {name: name for name in DTYPE_CUTOFFS}
    kinds = {**kinds, **{f"{value:g}": value for value in RELATIVE_CUTOFFS}}
    return {
        "numerical_rank": {name: numerical_rank(s, shape, kind) for name, kind in kinds.items()},
        "energy_rank": {f"{share:g}": energy_rank(s, share) for share in ENERGY_SHARES},
    }


def sizes(rows: int) -> list[int]:
    """8, 16, 32 … below `rows`, then `rows` itself."""
    found = []
    size = FIRST_SIZE
    while size < rows:
        found.append(size)
        size *= 2
    return [*found, rows]


def growth(
    matrix: Matrix,
    dtype: SVDType = "float64",
    *,
    center_rows: bool = False,
    width: int | None = None,
) -> tuple[Spectrum, list[dict[str, Any]]]:
    """The spectrum of the matrix, and the ranks of its first 8, 16, 32 … and all N rows.

    Args:
        width: columns of the matrix that these are a sample of, so that its cut-offs are those of
            the whole; unset: these are all.

    Returns:
        The spectrum of the whole, and for each size {"rows", "numerical_rank", "energy_rank"}.
    """
    out, s = [], np.zeros(0)
    for size in sizes(len(matrix)):
        part = matrix[:size]
        s = spectrum(part, dtype, center_rows=center_rows)
        out.append({"rows": size, **ranks(s, (size, width or part.shape[1]))})
    return s, out


def _check(matrix: Matrix) -> None:
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise RewardJaxError(f"a matrix of shape {matrix.shape}; expected at least one row, column")


def _singular_values(matrix: np.ndarray) -> Spectrum:
    s = scipy.linalg.svdvals(matrix, overwrite_a=True, check_finite=False)
    return np.asarray(s, np.float64)


def _blocks(
    matrix: Matrix, block: int, means: np.ndarray | None, dtype: SVDType
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of columns as owned arrays of `dtype`; the mean is subtracted in float64."""
    for start in range(0, matrix.shape[1], block):
        part = np.array(
            matrix[:, start : start + block], np.float64 if means is not None else dtype
        )
        if not np.isfinite(part).all():
            row, column = np.argwhere(~np.isfinite(part))[0]
            raise RewardJaxError(
                f"entry [{row}, {start + column}] of the matrix is {part[row, column]}; expected"
                " finite numbers: the weights are damaged, or the rewards overflow"
            )
        if means is not None:
            part = (part - means[:, None]).astype(dtype, copy=False)
        yield start, part


def _row_means(matrix: Matrix, block: int) -> Float[np.ndarray, "N"]:
    total = np.zeros(len(matrix))
    for _, part in _blocks(matrix, block, None, "float64"):
        total += part.sum(axis=1)
    return total / matrix.shape[1]
