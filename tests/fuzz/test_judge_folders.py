"""Judges and cached states, whatever is in their files: as written, or one line, or made again."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from rewardjax.data.features import load_or_compute
from rewardjax.metrics.judge import Judge, load_judge, save_judge
from rewardjax.metrics.scorers import load_scorer
from tests.fuzz.mutate import DEEP, alterations, mutations, plants
from tests.fuzz.promise import check, survey
from tests.soak import proved, times

PROMISE = "a damaged judge is read or refused in one line"


@pytest.fixture
def judge(tmp_path):
    encoder = {"spec": "no-such-encoder", "name": "e", "version": "1", "sha256": "0"}
    source = {"name": "a", "file": "a.jsonl", "sha256": "0", "texts": 4, "positive": 2}
    weights = np.arange(8.0)
    save_judge(Judge("mine", "sentiment", encoder, weights, 0.5, [source], "x"), tmp_path / "j")
    return tmp_path / "j"


def use(folder):
    """Whatever is believed is of the type that it is used as."""
    found = load_judge(folder)
    assert all(isinstance(x, str) for x in (found.name, found.note, found.version, found.remark))
    assert np.isfinite(found.scores(found.probability(np.zeros((2, len(found.weights)))))).all()


def test_judges(judge, record_property):
    use(judge)
    count, total = times(20, 500), 0
    for name in ("judge.json", "weights.safetensors"):
        path = judge / name
        good = path.read_bytes()
        cases = [*mutations(good, count, 1), *plants(judge).items(), ("deep", DEEP.encode())]
        if name == "judge.json":
            cases += alterations(json.loads(good), count, 2)
        assert survey(path, cases, lambda: use(judge)) > count // 2
        path.unlink()
        assert check(lambda: load_scorer(str(judge)), path)
        path.write_bytes(good)
        total += len(cases) + 1
    proved(record_property, PROMISE, total)


BIAS = np.ones(1)
WEIGHTS = {
    "a matrix": {"weights": np.ones((2, 2)), "bias": BIAS},
    "no bias": {"weights": np.ones(2), "bias": BIAS[:0]},
    "two biases": {"weights": np.ones(2), "bias": np.ones(2)},
    "integers": {"weights": np.ones(2, int), "bias": BIAS},
    "flags": {"weights": np.ones(2, bool), "bias": BIAS},
    "complex": {"weights": np.ones(2, np.complex64), "bias": BIAS},
    "not a number": {"weights": np.ones(2) * np.nan, "bias": BIAS},
    "other names": {"weight": np.ones(2), "bias": BIAS},
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_known_bad_weights(case, judge, record_property):
    path = judge / "weights.safetensors"
    assert survey(path, [(case, save(WEIGHTS[case]))], lambda: use(judge)) == 1
    proved(record_property, PROMISE, 1)


def test_damaged_cached_states_are_computed_again(tiny_lm, tmp_path, record_property):
    tokens = [np.array([3, 4, 5]), np.array([6])]

    def load():
        return load_or_compute(tiny_lm, tokens, [1], root=tmp_path / "cache")

    good = load()
    assert good.computed
    assert not load().computed
    path = good.directory / "layer_1.bin"
    values = np.array(good.layers[1])
    data = path.read_bytes()
    for damage in (data[:-1], data + b"\0", b"", None, "folder", plants(tmp_path)["pickle"]):
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage is not None:
            path.write_bytes(damage)
        assert check(load, tmp_path) is None
        np.testing.assert_array_equal(load().layers[1], values)
    proved(record_property, "damaged cached states are computed again", 6)
