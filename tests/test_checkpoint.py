import os
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.checkpoint import DAMAGED, Checkpoints, checksums, newest
from rewardjax.errors import RewardJaxError
from rewardjax.mesh import MeshConfig
from rewardjax.sharding import use_mesh
from tests.soak import proved, times


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
    step, restored, found = newest(tmp_path / "c", state(0))
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
        assert int(checkpoints.restore(state(0), 4).state.step) == 4
    assert newest(tmp_path, state(0)).step == 12


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
        assert int(checkpoints.restore(state(0), 3).state.step) == 3


def test_nothing_to_continue_from(tmp_path):
    assert newest(tmp_path, state(0)) is None
    assert newest(tmp_path / "missing", state(0)) is None


def test_wrong_structure(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), note={})
    other = state(0)._replace(tree={"elsewhere": jnp.zeros(3)})
    with pytest.raises(RewardJaxError, match=r"checkpoint .*1' is damaged, or not of this run"):
        newest(tmp_path, other)


def test_saving_does_not_alias_a_donated_state(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    tree = {"w": jnp.arange(100_000.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, note={})
        tree = bump(tree)  # while the write is under way
        checkpoints.wait()
        restored = checkpoints.restore(tree, 1).state["w"]
    np.testing.assert_array_equal(np.asarray(restored), np.arange(100_000.0, dtype=np.float32))


def leaves_equal(a, b):
    def raw(x):
        keys = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if keys else x)

    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(raw(x), raw(y)) for x, y in pairs)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Three checkpoints, of steps 1, 2 and 3."""
    path = tmp_path_factory.mktemp("good")
    with Checkpoints(path) as checkpoints:
        for n in (1, 2, 3):
            checkpoints.save(n, state(n), note=note(n), metrics={"eval/squared_error": 1 / n})
    return path


DAMAGE = {
    "no record": lambda path: (path / "3/_CHECKPOINT_METADATA").unlink(),
    "record cut short": lambda path: os.truncate(path / "3/_CHECKPOINT_METADATA", 100),
    "no manifest": lambda path: (path / "3/state/manifest.ocdbt").unlink(),
    "metrics cut short": lambda path: os.truncate(path / "3/metrics/metrics", 5),
    "no arrays": lambda path: shutil.rmtree(path / "3/state"),
    "arrays cut short": lambda path: cut(largest(path / "3")),
    "one bit of an array": lambda path: flip(largest(path / "3"), 0.9),
    "an empty newer folder": lambda path: (path / "9").mkdir(),
    "a newer folder of another step": lambda path: shutil.copytree(path / "2", path / "9"),
}


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path, share):
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_set_aside(name, good, tmp_path, capsys):
    path = shutil.copytree(good, tmp_path / "c")
    DAMAGE[name](path)
    bad = "9" if (path / "9").exists() else "3"
    want = 3 if bad == "9" else 2
    found = newest(path, state(0))
    assert found.step == want
    assert found.note == note(want)
    assert leaves_equal(found.state, state(want))
    said = capsys.readouterr().out
    assert f"{bad}' is damaged" in said
    assert f"set aside as '{bad}{DAMAGED}', continuing from step {want}" in said
    # The run that continues comes to the same step again, and writes it.
    with Checkpoints(path) as checkpoints:
        assert checkpoints.save(int(bad), state(int(bad)), note=note(int(bad)))
    assert newest(path, state(0)).step == int(bad)
    assert (path / f"{bad}{DAMAGED}").is_dir()


@pytest.mark.parametrize("name", ["half-written", "no folder", "another name", "a file"])
def test_what_is_no_checkpoint_is_named(name, good, tmp_path, capsys):
    path = shutil.copytree(good, tmp_path / "c")
    junk = {"half-written": "9.orbax-checkpoint-tmp", "another name": "009"}.get(name, "9")
    if name in ("no folder", "a file"):
        (path / junk).write_text("x")
    else:
        shutil.copytree(path / "3", path / junk)
    assert newest(path, state(0)).step == 3
    assert f"{junk}' is no complete checkpoint; it is not used" in capsys.readouterr().out
    with Checkpoints(path) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]


def test_all_damaged_is_an_error_and_changes_nothing(good, tmp_path):
    path = shutil.copytree(good, tmp_path / "c")
    for step in (1, 2, 3):
        cut(largest(path / str(step)))
    before = contents(path)
    with pytest.raises(RewardJaxError, match=r"no checkpoint .* can be read, and nothing was cha"):
        newest(path, state(0))
    assert contents(path) == before


def contents(path):
    files = (p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def test_whatever_is_changed_the_state_is_right_or_refused(good, tmp_path, record_property):
    """Every file of a checkpoint, cut, emptied, removed or changed in one byte at random."""
    cases = times(20, 600)
    rng, files = np.random.default_rng(0), sorted(contents(good / "3"))
    refused = 0
    for _ in range(cases):
        path = shutil.copytree(good, tmp_path / "c")
        file = path / "3" / files[rng.integers(len(files))]
        act = rng.choice(["cut", "empty", "remove", "change"])
        if act == "remove":
            file.unlink()
        elif act == "change":
            data = bytearray(file.read_bytes())
            data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
            file.write_bytes(data)
        else:
            os.truncate(file, 0 if act == "empty" else rng.integers(file.stat().st_size))
        found = newest(path, state(0))
        assert found.step in (2, 3)
        assert leaves_equal(found.state, state(found.step))
        assert found.note == note(found.step)
        refused += found.step == 2
        shutil.rmtree(path)
    assert 0.2 * cases < refused < cases
    proved(record_property, "a damaged checkpoint is refused, never read wrongly", cases)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_checksums_see_any_bit_and_any_exchange(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2 if dtype == "bool" else 100, (7, 5)).astype(jnp.dtype(dtype))
    (want,) = checksums(jnp.asarray(x))
    raw = x.tobytes()
    for i in range(0, len(raw), 3):
        for bit in (0,) if dtype == "bool" else range(8):
            changed = bytearray(raw)
            changed[i] ^= 1 << bit
            y = np.frombuffer(bytes(changed), x.dtype).reshape(x.shape)
            assert checksums(jnp.asarray(y)) != [want]
    assert checksums(jnp.asarray(np.roll(x, 1, axis=1))) != [want]


def test_checksums_do_not_depend_on_the_mesh():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16)), jnp.float32)
    with use_mesh(MeshConfig(fsdp=4, tensor=2)) as mesh:
        spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P("fsdp", "tensor")))
        assert checksums(spread) == checksums(x)
