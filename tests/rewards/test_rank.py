"""The rank of the raw reward matrix that each parametrization can have (methods.md §2)."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.export import start
from rewardjax.rewards import RewardModelConfig
from tests.rewards.calls import all_rows, prefilled
from tests.rewards.conftest import noisy

N, V, D = 120, 128, 32
BASE, OWN = {}, {"backbone": "own", "num_layers": 1}


def ranks(lm, config):
    """Numerical rank of each output's N x V matrix: SVD in float64 of the raw rows."""
    prefixes = jnp.asarray(np.random.default_rng(3).integers(3, V, (N, 6)), jnp.int32)
    lengths = jnp.full(N, 6, jnp.int32)
    model, params = noisy(*start(config, lm)[:2])
    cache, hidden = prefilled(lm, model, params, prefixes, lengths, 0, 64)
    rows = np.asarray(all_rows(model, params, cache, hidden, N, 64), np.float64)
    spectra = np.linalg.svd(np.moveaxis(rows, -1, 0), compute_uv=False)
    return [int((s > 1e-5 * s[0]).sum()) for s in spectra]


@pytest.mark.parametrize(
    ("kind", "where"), [("arm_rank", BASE), ("arm_rank", OWN), ("arm_factors", BASE)]
)
def test_an_explicit_rank_bounds_the_matrix(tiny_lm, kind, where):
    """min(r + 1, D) with the baseline and r without; random heads reach the bound."""
    with_baseline = RewardModelConfig(kind, rank=3, outputs=2, **where)
    assert ranks(tiny_lm, with_baseline) == [4, 4]
    without = RewardModelConfig(kind, rank=3, baseline=False, **where)
    assert ranks(tiny_lm, without) == [3]


def test_the_width_bounds_an_explicit_rank_and_arm(tiny_lm):
    """The baseline adds no rank to a full one: <w, h> is one of the D functions of h."""
    for config in (RewardModelConfig("arm_rank", rank=D), RewardModelConfig()):
        (rank,) = ranks(tiny_lm, config)
        assert D - 2 <= rank <= D


def test_arm_of_its_own_is_bounded_and_rad_is_not(tiny_lm):
    assert ranks(tiny_lm, RewardModelConfig(**OWN))[0] <= D
    assert ranks(tiny_lm, RewardModelConfig("rad", **OWN))[0] > D


@pytest.mark.parametrize("baseline", [True, False])
def test_the_perceptron_exceeds_its_number_of_scores(tiny_lm, baseline):
    """r = 8 products would give rank 8 (9): gelu is what makes the rest."""
    (rank,) = ranks(tiny_lm, RewardModelConfig("mlp", rank=8, baseline=baseline))
    assert rank > D
