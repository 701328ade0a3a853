"""`rewardjax bench train`: both systems compute the same, and the page says what was measured."""

import json

import pytest

from rewardjax import cli
from rewardjax.train import bench_cases

SMALL = ["--layers", "2", "--lora-rank", "2", "--batch-size", "4", "--tokens", "8"]
SMALL += ["--repeats", "2", "--steps", "1"]


def run(out, lm, *more):
    return cli.main(["bench", "train", "--lm", str(lm), "--out", str(out), *SMALL, *more])


def test_ours_beside_pytorch(tmp_path, tiny_lm_dir, capsys):
    """Three steps of each system from the same weights give the same losses."""
    assert run(tmp_path, tiny_lm_dir) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    names = {"head", "lora", "full", "torch-head", "torch-lora", "torch-full"}
    assert set(results["first"]) == names
    assert [set(row["seconds"]) for row in results["rounds"]] == [names] * 2
    for kind in ("head", "lora", "full"):
        ours, theirs = results["first"][kind]["loss"], results["first"][f"torch-{kind}"]["loss"]
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert 2 * results["flops"]["full"] == pytest.approx(3 * results["flops"]["lora"])
    page = (tmp_path / "README.md").read_text()
    assert "all of a backbone (RAD)" in page
    assert str(tmp_path) not in page.replace(results["command"], "")
    (tmp_path / "notes.md").write_text("What it means.")
    assert run(tmp_path, tiny_lm_dir, "--page-only") == 0
    assert (tmp_path / "README.md").read_text().endswith("What it means.\n")
    capsys.readouterr()
    assert run(tmp_path, tiny_lm_dir) == 2
    assert "holds results; pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["head", "lora", "full"])
def test_several_steps_are_the_same(tiny_lm, kind):
    """Not the loss alone: clipping, moments, decay and what trains."""
    from rewardjax.train.bench import TrainBenchConfig
    from rewardjax.train.bench_torch import peer

    config = TrainBenchConfig("", layers=2, lora_rank=2, batch_size=4, tokens=8)
    case = bench_cases.make(config, tiny_lm, kind)
    ours = bench_cases.stepper(case, config, kind)
    theirs = peer(case, config, bench_cases.OPTIM)
    for _ in range(4):
        assert ours(1) == pytest.approx(theirs(1), rel=2e-3)


def test_systems_that_differ_are_not_timed(tmp_path, tiny_lm_dir, monkeypatch, capsys):
    monkeypatch.setattr(bench_cases, "PARITY", -1.0)
    assert run(tmp_path, tiny_lm_dir) == 2
    assert "they do not compute the same" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_settings_that_mean_nothing(tmp_path, tiny_lm_dir, capsys):
    for flags, expected in (
        (["--layers", "9"], "layers is 9; expected at most 3, the LM's"),
        (["--tokens", "1"], "tokens is 1; expected at least 2"),
        (["--page-only"], "holds no results.json; run without --page-only first"),
    ):
        assert run(tmp_path, tiny_lm_dir, *flags) == 2
        assert expected in capsys.readouterr().err
