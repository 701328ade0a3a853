"""Ranks against matrices whose rank or spectrum is known by construction."""

import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.rank import (
    cutoff,
    energy_rank,
    growth,
    numerical_rank,
    ranks,
    sizes,
    spectrum,
)


def with_spectrum(s, rows, columns, seed=0):
    """U diag(s) V^T with random orthonormal U and V."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(rows, len(s))))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(s))))[0]
    return (left * np.asarray(s)) @ right.T


@pytest.mark.parametrize("shape", [(12, 200), (200, 12), (12, 12), (1, 9), (9, 1)])
@pytest.mark.parametrize("block", [1, 5, 13, 1000])
def test_the_spectrum_is_the_known_one(shape, block):
    known = np.logspace(0, -9, min(shape))
    matrix = with_spectrum(known, *shape)
    np.testing.assert_allclose(spectrum(matrix, block=block), known, rtol=1e-5, atol=1e-15)
    plain = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(spectrum(matrix, block=block), plain, rtol=1e-5, atol=1e-15)


def test_float32_resolves_what_a_gram_matrix_would_lose():
    known = np.array([1.0, 1e-2, 1e-4, 1e-5])
    matrix = with_spectrum(known, 4, 3000).astype(np.float32)
    np.testing.assert_allclose(spectrum(matrix, "float32"), known, rtol=0.05)
    squares = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]  # what spectrum must not be made of
    assert not np.allclose(np.sqrt(np.abs(squares)), known, rtol=0.05)


def test_float32_and_float64_differ_where_float32_ends():
    matrix = with_spectrum([1.0, 1e-10], 2, 50)
    assert spectrum(matrix, "float64")[1] == pytest.approx(1e-10, rel=1e-4)
    assert spectrum(matrix, "float32")[1] > 1e-9


def test_rows_without_their_mean():
    rng = np.random.default_rng(1)
    baseline, part = rng.normal(size=(30, 1)), with_spectrum([3.0, 2.0], 30, 70)
    matrix = part - part.mean(axis=1, keepdims=True)
    raised = matrix + 100 * baseline
    assert numerical_rank(spectrum(raised), raised.shape, 1e-6) == 3
    centred = spectrum(raised, center_rows=True, block=7)
    np.testing.assert_allclose(centred[:2], np.linalg.svd(matrix, compute_uv=False)[:2], rtol=1e-9)
    assert numerical_rank(centred, raised.shape, 1e-6) == 2


def test_a_memory_mapped_file_gives_the_same(tmp_path):
    matrix = with_spectrum(np.logspace(0, -3, 6), 6, 2500).astype(np.float32)
    np.save(tmp_path / "m.npy", matrix)
    mapped = np.load(tmp_path / "m.npy", mmap_mode="r")
    np.testing.assert_array_equal(spectrum(mapped, block=600), spectrum(matrix, block=600))
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), matrix)  # nothing overwritten


@pytest.mark.parametrize("rank", [0, 1, 7, 20])
def test_numerical_rank_of_a_product(rank):
    rng = np.random.default_rng(rank)
    matrix = rng.normal(size=(20, rank)) @ rng.normal(size=(rank, 300))
    s = spectrum(matrix)
    for kind in ("float32", "float64", 1e-6):
        assert numerical_rank(s, matrix.shape, kind) == rank
    assert numerical_rank(s, matrix.shape, "float64") == np.linalg.matrix_rank(matrix)


def test_cutoffs():
    shape = (100, 49152)
    assert cutoff(shape, "float32") == pytest.approx(49152 * 2**-23)
    assert cutoff(shape, "float64") == pytest.approx(49152 * 2**-52)
    assert cutoff(shape, "bfloat16") == 2**-7
    assert cutoff(shape, 1e-3) == 1e-3
    s = np.array([2.0, 1e-2, 1e-3, 1e-5])
    found = ranks(s, shape)["numerical_rank"]
    assert found == {
        "float32": 1, "bfloat16": 1, "float64": 4, "0.01": 1, "0.001": 2, "0.0001": 3, "1e-06": 4
    }  # fmt: skip


def test_energy_rank():
    s = np.sqrt([90.0, 5.0, 4.0, 0.9, 0.1])
    found = [energy_rank(s, share) for share in (0.5, 0.9, 0.91, 0.95, 0.96, 0.99, 0.999, 1.0)]
    assert found == [1, 1, 2, 2, 3, 3, 4, 5]
    assert ranks(s, (5, 9))["energy_rank"] == {"0.9": 1, "0.95": 2, "0.99": 3, "0.999": 4}
    assert energy_rank(np.ones(1000), 0.9) == 900
    assert energy_rank(np.zeros(3)) == 0


def test_growth_of_leading_rows():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 12)) @ rng.normal(size=(12, 90))
    s, found = growth(matrix)
    np.testing.assert_allclose(s, np.linalg.svd(matrix, compute_uv=False), atol=1e-12)
    assert [g["rows"] for g in found] == [8, 16, 32, 40] == sizes(40)
    assert [g["numerical_rank"]["1e-06"] for g in found] == [8, 12, 12, 12]
    cut = growth(matrix, width=10**7)[1]  # a sample of so many columns: 1e7 eps > 1
    assert [g["numerical_rank"]["float32"] for g in cut] == [0, 0, 0, 0]
    assert [g["numerical_rank"]["1e-06"] for g in cut] == [8, 12, 12, 12]
    assert sizes(5) == [5]
    assert sizes(8) == [8]


def test_errors():
    with pytest.raises(RewardJaxError, match=r"shape \(0, 3\)"):
        spectrum(np.zeros((0, 3)))
    matrix = np.zeros((2, 10000))
    matrix[1, 9000] = np.nan
    for centred in (False, True):
        with pytest.raises(RewardJaxError, match=r"entry \[1, 9000\] of the matrix is nan"):
            spectrum(matrix, center_rows=centred)
    with pytest.raises(RewardJaxError, match="cut-off 'float16' is unknown"):
        cutoff((2, 2), "float16")
    with pytest.raises(RewardJaxError, match="between 0 and 1"):
        cutoff((2, 2), 2.0)
    with pytest.raises(RewardJaxError, match="energy share 0"):
        energy_rank(np.ones(2), 0.0)
