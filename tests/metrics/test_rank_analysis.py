"""Rank analysis of tiny reward models against `rj.reward_rows`, NumPy's SVD and known bounds."""

import dataclasses
import json

import numpy as np
import pytest

import rewardjax as rj
from rewardjax.errors import RewardJaxError
from rewardjax.metrics import rank_analysis, reward_rows
from rewardjax.metrics.rank import growth, ranks
from rewardjax.metrics.rank_analysis import (
    RankSettings,
    analyze_rank,
    choose_columns,
    num_entries,
    rank_bound,
)
from rewardjax.metrics.rank_result import RankResult
from rewardjax.metrics.reward_rows import plan
from rewardjax.rewards import RewardModelConfig
from tests.conftest import tiny_config
from tests.trained import save_random

CONFIGS = {
    "arm": RewardModelConfig(layer=2, outputs=2),
    "arm_rank": RewardModelConfig("arm_rank", layer=2, rank=3),
    "arm_rank-no-baseline": RewardModelConfig("arm_rank", rank=3, baseline=False),
    "rad": RewardModelConfig("rad", "own", num_layers=1),
}


@pytest.fixture(scope="module")
def trained(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward_models")
    return {
        name: rj.load_reward_model(save_random(folder / name, tiny_lm, config, scale=0.5))
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="module")
def prefixes():
    rng = np.random.default_rng(0)
    return [rng.integers(3, 128, n).tolist() for n in rng.integers(1, 24, 40)]


@pytest.mark.parametrize(("name", "output"), [("arm", 1), ("arm_rank", 0), ("rad", 0)])
def test_raw_rows_are_the_facades(tiny_lm, trained, prefixes, tmp_path, name, output):
    some = prefixes[:11]
    settings = RankSettings(columns="50", output=output, batch_size=4, chunk=16, check_prefixes=5)
    result = analyze_rank(tiny_lm, trained[name], some, settings, folder=tmp_path)
    columns, sampled = choose_columns(trained[name].bind(tiny_lm)[0], 11, "50", 0)
    assert sampled
    oracle = np.asarray(rj.reward_rows(tiny_lm, trained[name], some))[..., output]
    kept = np.fromfile(tmp_path / "rows.f32", np.float32).reshape(11, 50)
    np.testing.assert_allclose(kept, oracle[:, columns], rtol=1e-4, atol=1e-4)
    checked = np.fromfile(tmp_path / "check.f32", np.float32).reshape(5, 128)
    np.testing.assert_allclose(checked, oracle[:5], rtol=1e-4, atol=1e-4)
    # Figures: NumPy's SVD of the same matrices.
    wide = kept.astype(np.float64)
    plain = np.linalg.svd(wide, compute_uv=False)
    np.testing.assert_allclose(result.analysis.raw.singular_values, plain, atol=1e-9 * plain[0])
    middle = np.linalg.svd(wide - wide.mean(1, keepdims=True), compute_uv=False)
    found = result.analysis.centered.singular_values
    np.testing.assert_allclose(found, middle, atol=1e-9 * plain[0])
    full = np.linalg.svd(checked.astype(np.float64), compute_uv=False)
    assert result.check_full is not None
    assert result.check_sample is not None
    np.testing.assert_allclose(result.check_full.raw.singular_values, full, atol=1e-9 * full[0])
    assert result.check_sample.raw.shape == (5, 50)
    assert (result.prefixes, result.columns, result.vocabulary) == (11, 50, 128)


def test_cutoffs_of_a_sample_are_those_of_the_whole_vocabulary(
    tiny_lm, trained, prefixes, monkeypatch
):
    widths = []

    def spy(matrix, *args, width=None, **how):
        widths.append((matrix.shape, width or matrix.shape[1]))
        return growth(matrix, *args, width=width, **how)

    monkeypatch.setattr(rank_analysis, "growth", spy)
    settings = RankSettings(columns="50", check_prefixes=5)
    analyze_rank(tiny_lm, trained["rad"], prefixes[:11], settings)
    raw_and_centered = [((11, 50), 128), ((5, 128), 128), ((5, 50), 128)]
    assert widths == [one for one in raw_and_centered for _ in range(2)]


@pytest.mark.parametrize(
    ("name", "bound", "centered"),
    [("arm", 32, 32), ("arm_rank", 4, 3), ("arm_rank-no-baseline", 3, 3), ("rad", None, None)],
)
def test_rank_of_raw_rows_keeps_the_bound(tiny_lm, trained, prefixes, name, bound, centered):
    """rank of ARM's rows <= D, of ARM_r's <= min(r + 1, D); RAD has no such bound."""
    result = analyze_rank(tiny_lm, trained[name], prefixes, RankSettings(batch_size=16))
    assert not result.sampled
    assert result.columns == 128
    assert result.check_full is None
    rank = result.analysis.raw.numerical_rank["float32"]
    assert result.bound == bound
    if bound is None:
        assert rank == 40  # more than D = 32
        assert result.within_bound is None
    else:
        assert rank == bound  # random heads use all they may
        assert result.within_bound
        assert result.analysis.centered.numerical_rank["float32"] == centered
    few = analyze_rank(tiny_lm, trained[name], prefixes[: bound or 1], RankSettings())
    assert few.within_bound is None  # so few rows cannot break it
    if bound is not None:  # one direction too many is seen, however weak it is beside the others
        raw = result.analysis.raw
        growth_beyond = ranks(
            np.append(raw.singular_values[:bound], 3e-6 * raw.singular_values[0]), raw.shape
        )
        broken = dataclasses.replace(raw, growth=[{"rows": 40, **growth_beyond}])
        analysis = dataclasses.replace(result.analysis, raw=broken)
        assert dataclasses.replace(result, analysis=analysis).within_bound is False
    again = RankResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.to_dict() == result.to_dict()


def test_bound_follows_the_config():
    body = tiny_config()
    assert rank_bound(RewardModelConfig("arm_rank", rank=32), body) == 32
    assert rank_bound(RewardModelConfig("arm_factors", rank=5), body) == 6
    assert rank_bound(RewardModelConfig("arm_factors", rank=99), body) == 32
    assert rank_bound(RewardModelConfig("nado"), body) == 33
    assert rank_bound(RewardModelConfig("nado_norm"), body) is None
    assert rank_bound(RewardModelConfig("mlp", rank=4), body) is None


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["arm", "rad"])
def test_a_killed_run_goes_on(tiny_lm, trained, prefixes, tmp_path, monkeypatch, name):
    monkeypatch.setattr(reward_rows, "COLUMNS_AT_ONCE", 64)  # RAD: two units a batch
    settings = RankSettings(batch_size=8, chunk=32)
    calls = []

    def stop(n=1):
        calls.append(n)
        if len(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        analyze_rank(tiny_lm, trained[name], prefixes, settings, folder=tmp_path, progress=stop)
    seen = []
    compute = reward_rows._compute
    monkeypatch.setattr(reward_rows, "_compute", lambda *a: seen.append(a[3]) or compute(*a))
    total = []
    resumed = analyze_rank(
        tiny_lm, trained[name], prefixes, settings, folder=tmp_path, resume=True,
        progress=lambda n=1: total.append(n),
    )  # fmt: skip
    model = trained[name].bind(tiny_lm)[0]
    assert sum(total) == num_entries(model, len(prefixes), settings) == 40 * 128
    units = plan([len(p) for p in prefixes], 128, 8, 64 if name == "rad" else None)
    assert len(seen) == len(units) - 2
    whole = analyze_rank(tiny_lm, trained[name], prefixes, settings, folder=tmp_path / "whole")
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "rows.f32"), np.fromfile(tmp_path / "whole" / "rows.f32")
    )
    assert resumed.analysis.to_dict() == whole.analysis.to_dict()
    with pytest.raises(RewardJaxError, match=r"cannot resume.*identity"):
        analyze_rank(tiny_lm, trained[name], prefixes[::-1], settings, folder=tmp_path, resume=True)


def test_work_is_bounded():
    """No unit holds more than batch_size prefixes and the asked columns; together they are all."""
    lengths = [5, 40, 3, 17, 2, 16, 33]
    units = plan(lengths, 100, 2, 32)
    seen = np.zeros((7, 100), int)
    for unit in units:
        assert len(unit.rows) <= 2
        assert unit.columns.stop - unit.columns.start <= 32
        seen[unit.rows, unit.columns] += 1
    assert (seen == 1).all()
    assert len(plan(lengths, 100, 7, None)) == 3  # lengths of 16, 32 and 64


def test_columns(tiny_lm, trained):
    arm, rad = (trained[name].bind(tiny_lm)[0] for name in ("arm", "rad"))
    for model in (arm, rad):  # of so small a vocabulary auto takes all
        columns, sampled = choose_columns(model, 9, "auto", 0)
        assert columns.tolist() == list(range(128))
        assert not sampled
    columns, sampled = choose_columns(rad, 9, "30", 1)
    assert sampled
    assert len(set(columns.tolist())) == 30
    assert columns.tolist() == sorted(columns.tolist())
    assert columns.tolist() != choose_columns(rad, 9, "30", 2)[0].tolist()
    big = type(rad)(rad.config, tiny_config(vocab_size=50000), rad.transformer)
    assert len(choose_columns(big, 64, "auto", 0)[0]) == 4096
    assert len(choose_columns(big, 512, "auto", 0)[0]) == 4096
    assert len(choose_columns(big, 512, "all", 0)[0]) == 50000
    with pytest.raises(RewardJaxError, match=r"513 prefixes for 'rad'.*at most 512"):
        choose_columns(big, 513, "auto", 0)
    for wrong in ("0", "129", "-1", "many", "1.5", ""):
        with pytest.raises(RewardJaxError, match="expected auto, all, or a number from 1 to 128"):
            choose_columns(arm, 9, wrong, 0)


def test_errors(tiny_lm, trained, prefixes):
    with pytest.raises(RewardJaxError, match="output is 2; the reward model has outputs 0 to 1"):
        analyze_rank(tiny_lm, trained["arm"], prefixes, RankSettings(output=2))
    with pytest.raises(RewardJaxError, match="chunk is 0"):
        analyze_rank(tiny_lm, trained["arm"], prefixes, RankSettings(chunk=0))
    for none in ([], [[1], []]):
        with pytest.raises(RewardJaxError, match="no prefix, or an empty one"):
            analyze_rank(tiny_lm, trained["arm"], none)
