from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.checkpoint import Checkpoints
from rewardjax.errors import RewardJaxError


class State(NamedTuple):
    step: Any
    tree: Any
    key: Any


def state(step: int) -> State:
    tree = {"a": jnp.arange(4.0) * step, "b": {"c": jnp.full((2, 2), step, jnp.bfloat16)}}
    return State(jnp.int32(step), tree, jax.random.fold_in(jax.random.key(0), step))


def note(step: int) -> dict[str, Any]:
    return {"iterator": {"next_index": step, "inner": ["x", None]}}


def test_restored_state_is_bit_identical(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.save(3, state(3), note=note(3))
        checkpoints.wait()
        step, restored, found = checkpoints.restore(state(0))
    assert step == 3
    assert found == note(3)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(state(3)), strict=True):
        assert got.dtype == want.dtype
        if jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_newest_three_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, every=2, keep=3) as checkpoints:
        saved = [
            checkpoints.save(
                n, state(n), note=note(n), metrics={"eval/squared_error": abs(n - 4.0)}
            )
            for n in range(1, 13)
        ]
    assert saved == [n % 2 == 0 for n in range(1, 13)]
    with Checkpoints(tmp_path, every=2) as checkpoints:
        assert checkpoints.steps == [4, 8, 10, 12]
        assert checkpoints.best == 4
        assert int(checkpoints.restore(state(0), 4)[1].step) == 4
        assert checkpoints.restore(state(0))[0] == 12


def test_larger_is_better(tmp_path):
    options = {"keep": 1, "metric": "auc", "larger_is_better": True}
    with Checkpoints(tmp_path, **options) as checkpoints:
        for n, auc in enumerate([0.5, 0.9, 0.7, 0.8], 1):
            checkpoints.save(n, state(n), note={}, metrics={"auc": auc})
        assert checkpoints.best == 2
    with Checkpoints(tmp_path, **options) as checkpoints:
        assert checkpoints.steps == [2, 4]


def test_force_saves_off_the_interval_and_never_twice(tmp_path):
    with Checkpoints(tmp_path, every=10) as checkpoints:
        assert not checkpoints.save(3, state(3), note={})
        assert checkpoints.save(3, state(3), note={}, force=True)
        assert not checkpoints.save(3, state(99), note={}, force=True)
        checkpoints.wait()
        assert int(checkpoints.restore(state(0))[1].step) == 3


def test_unfinished_checkpoint_is_not_used(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), note=note(1))
    # What a killed process leaves: orbax writes into a temporary name and renames at the end.
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [1]
        assert checkpoints.restore(state(0))[0] == 1


def test_nothing_to_restore_and_wrong_structure(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(RewardJaxError, match="holds no checkpoint"):
            checkpoints.restore(state(0))
        checkpoints.save(1, state(1), note={})
        checkpoints.wait()
        other = state(0)._replace(tree={"elsewhere": jnp.zeros(3)})
        with pytest.raises(RewardJaxError, match=r"checkpoint 1 .* does not fit"):
            checkpoints.restore(other)


def test_saving_does_not_alias_a_donated_state(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    tree = {"w": jnp.arange(100_000.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, note={})
        tree = bump(tree)  # while the write is under way
        checkpoints.wait()
        restored = checkpoints.restore(tree)[1]["w"]
    np.testing.assert_array_equal(np.asarray(restored), np.arange(100_000.0, dtype=np.float32))
