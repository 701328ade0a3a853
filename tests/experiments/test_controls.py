"""The two controls with n = 5: floors are reached and not passed; the page says what holds."""

import dataclasses
import json
import re

import numpy as np
import pytest

from rewardjax.cli import main
from rewardjax.experiments import controls
from rewardjax.experiments.control_fits import (
    Training,
    build_model,
    fit,
    floor,
    observed,
    power_mse,
    zero_mse,
)

SMALL = Training(steps=300, learning_rate=1e-2, width=16, layers=1)


@pytest.mark.parametrize(("rank", "left"), [(1, 3 / 25), (3, 1 / 25)])
def test_arm_of_rank_r_reaches_its_floor_and_no_lower(rank, left):
    for found in fit("identity", "arm_rank", rank, 5, [0, 1], SMALL):
        assert found.floor == pytest.approx(left)
        assert (1 - 1e-6) * left <= found.mse <= 1.05 * left
        assert found.relative == pytest.approx(5 * found.mse)
        assert found.matrix_rank == rank + 1


def test_no_matrix_of_that_rank_does_better():
    """The floor from NumPy: the best baseline and then the best rank r, for the 5 x 5 identity."""
    left = np.eye(5) - np.eye(5).mean(axis=1, keepdims=True)
    s = np.linalg.svd(left, compute_uv=False)
    for rank in range(1, 6):
        model = build_model("arm_rank", rank, 5, SMALL)
        assert floor("identity", 5, model) == pytest.approx(np.sum(s[rank:] ** 2) / 25, abs=1e-12)
        assert floor("triangle", 5, model) is None
    assert floor("identity", 5, build_model("rad", None, 5, SMALL)) is None


def test_zero_and_rank_one_errors():
    assert zero_mse("identity", 20) == 1 / 20
    assert zero_mse("triangle", 20) == pytest.approx(2 / 21)
    assert observed("triangle", 3).tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    # n = 2: one entry above the diagonal, of three observed, is a instead of 0
    assert power_mse(2, 0.1) == pytest.approx(0.01 / 3)
    errors = [power_mse(20, a) / zero_mse("triangle", 20) for a in (0.5, 0.1, 0.01, 1e-4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-7


def run(tmp_path, *rest):
    argv = ["--n", "5", "--width", "16", "--learning-rate", "0.01", "--out", str(tmp_path / "out")]
    return main(["analyze", "controls", *argv, *rest])


def test_the_command(tmp_path, capsys):
    status = run(tmp_path, "--ranks", "1", "4", "--seeds", "3", "--steps", "300")
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "holds: identity: ARM of rank r is not below its floor" in printed
    assert "DOES NOT HOLD" not in printed
    found = json.loads((tmp_path / "out" / "controls.json").read_text())
    assert found["settings"]["ranks"] == [1, 4]
    assert len(found["fits"]) == 2 * 4
    assert {fit["seed"] for fit in found["fits"]} == {3}
    assert all(found["checks"].values())
    enough = [fit for fit in found["fits"] if fit["model"] == "rad" or fit["rank"] == 4]
    assert {fit["task"] for fit in enough} == {"identity", "triangle"}
    assert len(enough) == 4
    assert all(fit["relative"] < 0.01 for fit in enough)
    assert found["zero_mse"] == {"identity": 0.2, "triangle": pytest.approx(1 / 3)}
    page = (tmp_path / "out" / "controls.html").read_text()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:|//)""", page)
    assert page.count("<svg") == 1
    assert "infimum of the loss is 0 at rank 1 already" in page


def test_a_failed_check_is_status_one(tmp_path, capsys, monkeypatch):
    def untrained(task, model, rank, n, seeds, training):
        return [controls.Fit(task, model, rank, s, zero_mse(task, n), 1.0, None, 0) for s in seeds]

    monkeypatch.setattr(controls, "fit", untrained)
    assert run(tmp_path, "--ranks", "1", "--seeds", "0") == 1
    printed = capsys.readouterr().out
    assert "DOES NOT HOLD: identity: RAD leaves under 1%" in printed
    assert (tmp_path / "out" / "controls.html").is_file()


def test_judge_sees_every_way_to_fail():
    config = controls.check(controls.ControlsConfig(n=5, ranks=(1, 4), seeds=(0,), width=16))
    low = 3 / 25

    def made(task, model, rank, mse, matrix_rank=2):
        left = {1: low, 4: 0.0}.get(rank) if task == "identity" else None
        zero = zero_mse(task, 5)
        return controls.Fit(task, model, rank, 0, mse, mse / zero, left, matrix_rank)

    good = [
        made("identity", "rad", None, 1e-5),
        made("identity", "arm", None, 1e-5),
        made("identity", "arm_rank", 1, low),
        made("identity", "arm_rank", 4, 1e-5, 5),
        made("triangle", "rad", None, 1e-5),
    ]
    assert all(controls.judge(good, config).values())
    bad = [(0, 0.01), (1, 0.01), (2, 1.06 * low), (2, low * (1 - 1e-5)), (3, 0.01), (4, 0.01)]
    failed = []
    for place, mse in bad:
        fits = list(good)
        fits[place] = made(good[place].task, good[place].model, good[place].rank, mse)
        checks = controls.judge(fits, config)
        failed.append([name for name, holds in checks.items() if not holds])
    assert [len(names) for names in failed] == [1] * 6
    assert len({names[0] for names in failed}) == 6
    fits = [*good, dataclasses.replace(good[2], matrix_rank=3)]
    wrong = [name for name, holds in controls.judge(fits, config).items() if not holds]
    assert len(wrong) == 1
    assert "numerical rank" in wrong[0]


def test_default_ranks_lie_below_at_and_above_n():
    assert controls.check(controls.ControlsConfig()).ranks == (1, 5, 10, 18, 19, 20, 24)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (["--n", "2"], "n is 2; expected at least 3"),
        (["--ranks", "17"], "ranks holds 17; expected 1 to 16, the width"),
        (["--n", "17"], "width is 16, less than n = 17"),
        (["--width", "20"], "expected a multiple of 8"),
        (["--seeds", "1", "1"], "expected different integers"),
        (["--seeds", "-1"], "seeds holds -1"),
        (["--steps", "0"], "steps is 0"),
        (["--learning-rate", "0"], "learning_rate is 0.0"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, capsys, rest, expected):
    assert run(tmp_path, *rest) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "out").exists()
