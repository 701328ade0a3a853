"""Texts packed in shared rows are read as each in its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardjax.lm import init_params
from rewardjax.rewards import backbone
from rewardjax.rewards.packing import rows_needed
from tests.conftest import tiny_config

T = 16
BODIES = {
    "llama": tiny_config(),
    "sliding windows": tiny_config(sliding_window=3, sliding_layers=(0, 2)),
    "learned positions, layer norm": tiny_config(
        learned_positions=True, norm="layer", mlp_gated=False, attention_bias=True, mlp_bias=True,
        num_key_value_heads=4, tie_word_embeddings=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_packed_states_are_the_plain_ones(body, scan):
    config = BODIES[body]
    weights = init_params(config, jax.random.key(0))
    weights = jax.tree.map(lambda x: 5 * x if x.ndim == 2 else x, weights)  # norms stay 1
    if scan:
        from rewardjax.lm.params import stack_layers

        config, weights = dataclasses.replace(config, scan_layers=True), stack_layers(weights)
    rng = np.random.default_rng(0)
    lengths = np.array([16, 7, 8, 1, 0, 3, 15, 2, 5, 0], np.int32)
    tokens = jnp.asarray(rng.integers(3, 128, (len(lengths), T)), jnp.int32)
    rows = rows_needed(lengths, T + 1)
    assert rows < len(lengths) - 2
    plain = backbone.encode(config, weights, tokens, jnp.asarray(lengths))
    packed = backbone.encode(config, weights, tokens, jnp.asarray(lengths), rows)
    assert packed.shape == plain.shape
    assert jnp.isfinite(packed).all()
    for b, length in enumerate(lengths):
        if length:
            read = slice(0, length + 1)
            np.testing.assert_allclose(packed[b, read], plain[b, read], rtol=2e-5, atol=2e-5)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, T), min_size=1, max_size=12))
def test_the_host_and_the_program_place_texts_alike(lengths):
    """No text crosses the end of a row or another text, and the rows are as many as said."""
    from rewardjax.rewards.packing import _first_places

    lengths, width = np.array(lengths, np.int32), T + 1
    sizes = np.where(lengths > 0, lengths + 1, 0)
    begins = np.asarray(_first_places(jnp.asarray(sizes), width))
    taken = np.concatenate([np.arange(b, b + n) for b, n in zip(begins, sizes, strict=True)])
    assert len(set(taken.tolist())) == len(taken)
    for begin, size in zip(begins, sizes, strict=True):
        if size:
            assert begin // width == (begin + size - 1) // width
    assert max([1, *(int(i) // width + 1 for i in taken)]) == rows_needed(lengths, width)
