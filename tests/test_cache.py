import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

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


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_compiled_is_kept(tiny_lm_dir, tmp_path, enabled):
    environment = os.environ | {
        "REWARDJAX_CACHE": str(tmp_path),
        "JAX_ENABLE_COMPILATION_CACHE": str(enabled).lower(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    argv = [sys.executable, "-c", COMPILE, str(tiny_lm_dir)]
    subprocess.run(argv, check=True, env=environment)
    kept = list(tmp_path.glob("compiled/jit__lambda*"))
    assert bool(kept) == enabled


def test_a_folder_of_the_users_own_wins(monkeypatch, tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        keep_compiled()
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
