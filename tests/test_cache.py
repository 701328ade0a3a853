import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import rewardjax as rj
from rewardjax.cache import cache_dir, keep_compiled


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("REWARDJAX_CACHE", raising=False)
    assert cache_dir() == tmp_path / "xdg" / "rewardjax"
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("REWARDJAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_dir() == tmp_path / ".cache" / "rewardjax"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "rewardjax"


COMPILE = """
import sys, jax, rewardjax as rj
rj.load_lm(sys.argv[1])
jax.jit(lambda x: x + 1)(1.0)
"""


def test_what_is_compiled_is_kept(tiny_lm_dir, tmp_path):
    environment = os.environ | {
        "REWARDJAX_CACHE": str(tmp_path),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    argv = [sys.executable, "-c", COMPILE, str(tiny_lm_dir)]
    subprocess.run(argv, check=True, env=environment)
    assert list(tmp_path.glob("compiled/jit__lambda*"))


@pytest.fixture
def folder():
    """What JAX's setting of the folder is, put back afterwards."""
    before = jax.config.values["jax_compilation_cache_dir"]
    yield before
    jax.config.update("jax_compilation_cache_dir", before)


def test_nothing_is_kept_where_jax_is_told_so(tiny_lm_dir, tmp_path, monkeypatch, folder):
    """By JAX_ENABLE_COMPILATION_CACHE=false, as in every process of these tests."""
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    rj.load_lm(tiny_lm_dir)
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        jax.jit(lambda x: x + 1)(1.0)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    assert not list(tmp_path.rglob("jit__lambda*"))


def test_a_folder_of_the_users_own_wins(tmp_path, folder):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
