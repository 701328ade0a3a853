"""Reward models, whatever is in their files: as written, or one line."""

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from rewardjax.export import load_reward_model
from rewardjax.rewards import RewardModelConfig
from tests.fuzz.mutate import alterations, mutations, plants
from tests.fuzz.promise import check, survey
from tests.soak import proved, times
from tests.trained import save_random

PROMISE = "a damaged reward model is read or refused in one line"
CONFIGS = {
    "arm": RewardModelConfig(),
    "arm_rank": RewardModelConfig("arm_rank", rank=3),
    "nado_norm": RewardModelConfig("nado_norm"),
    "own": RewardModelConfig(backbone="own", num_layers=1),
    "lora": RewardModelConfig("rad", "own", num_layers=1, lora_rank=2),
}
FILES = ("config.json", "model.safetensors")


@pytest.fixture(scope="module")
def saved(tiny_lm, tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    return {name: save_random(root / name, tiny_lm, config) for name, config in CONFIGS.items()}


@pytest.fixture
def folder(saved, tmp_path, request):
    return shutil.copytree(saved[request.param], tmp_path / "rm")


def header_end(data):
    return 8 + struct.unpack("<Q", data[:8])[0]


@pytest.mark.parametrize("folder", CONFIGS, indirect=True)
def test_reward_models(folder, tiny_lm, record_property):
    """Read, and where that succeeds fitted to the LM: that names no file, but is no crash."""
    count, bound = times(16, 400), 0
    config, tensors = ((folder / name).read_bytes() for name in FILES)
    load_reward_model(folder).bind(tiny_lm)
    configs = [*mutations(config, count // 2, 1), *alterations(json.loads(config), count, 2)]
    end = header_end(tensors)
    weights = [*mutations(tensors, count // 2, 3, until=end), *mutations(tensors, count // 8, 4)]
    for name, good, cases in (
        (FILES[0], config, [*configs, *plants(folder).items()]),
        (FILES[1], tensors, [*weights, *plants(folder).items()]),
    ):
        path = folder / name
        for case in cases:
            if not survey(path, [case], lambda: load_reward_model(folder)):
                model = load_reward_model(folder)
                bound += 1
                if bound <= times(4, 100):
                    check(
                        lambda model=model: model.shapes(tiny_lm.config, "float32"),
                        path,
                        names=(),
                    )
                    check(lambda model=model: model.bind(tiny_lm), path, names=())
        path.write_bytes(good)
    assert 0 < bound < len(configs) + len(weights)
    proved(record_property, PROMISE, len(configs) + len(weights) + 10)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("folder", ["arm", "own"], indirect=True)
def test_missing_and_swapped_files(folder, name, saved, tiny_lm, record_property):
    path = folder / name
    for other in ("arm_rank", "lora"):
        shutil.copy(saved[other] / name, path)
        error = check(lambda: load_reward_model(folder).bind(tiny_lm), path, names=["config.json"])
        assert "do not fit its config.json" in str(error)
    path.write_bytes((folder / FILES[name == FILES[0]]).read_bytes())
    assert check(lambda: load_reward_model(folder), path)
    path.unlink()
    assert check(lambda: load_reward_model(folder), path)
    path.mkdir()
    assert check(lambda: load_reward_model(folder), path)
    proved(record_property, PROMISE, 5)


def changed(section, **values):
    def change(description):
        inner = description[section] if section else description
        inner.update(values)

    return change


LINEAR = {"rope_type": "linear", "factor": 2.0}
DAMAGE = {
    "a size as text": (changed("transformer", hidden_size="32"), "transformer: hidden_size"),
    "half a layer": (changed("transformer", num_hidden_layers=1.5), "num_hidden_layers: got 1.5"),
    "layers": (changed("transformer", num_hidden_layers=2**31), "expected 1 to 10000"),
    "no heads": (changed("transformer", num_key_value_heads=0), "num_key_value_heads is 0"),
    "an odd head": (changed("transformer", head_dim=7), "expected a multiple and an even"),
    "a list for a flag": (changed("transformer", qk_norm=[]), "transformer: qk_norm: got []"),
    "an activation": (changed("transformer", activation="mish"), "activation is 'mish'"),
    "a norm": (changed("transformer", norm="batch"), "norm is 'batch'"),
    "a window in no layer": (changed("transformer", sliding_layers=[3]), "sliding_layers are (3,)"),
    "a window below 0": (changed("transformer", sliding_window=-1), "sliding_window is -1"),
    "an endless norm": (changed("transformer", norm_eps=float("nan")), "norm_eps is nan"),
    "no RoPE base": (changed("transformer", rope_theta=0), "rope_theta is 0"),
    "rope as a list": (changed("transformer", rope_scaling=[1]), "rope_scaling is [1]"),
    "rope of lists": (
        changed("transformer", rope_scaling={**LINEAR, "x": [[1]]}),
        "'x' is no setting of 'linear'",
    ),
    "rope without factor": (
        changed("transformer", rope_scaling={"rope_type": "linear"}),
        "is None",
    ),
    "rope of few factors": (
        changed("transformer", rope_scaling={"rope_type": "factors", "factors": [1.0]}),
        "expected 4 factors",
    ),
    "outputs": (changed("reward_model", outputs=2**63), "reward_model.outputs is out of range"),
    "a negative rank": (changed("reward_model", rank=-1), "reward_model.rank is out of range"),
    "a key of another version": (changed("transformer", new=1), "unknown key 'new'"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("folder", ["own"], indirect=True)
def test_known_bad_descriptions(case, folder, record_property):
    change, expected = DAMAGE[case]
    path = folder / "config.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))
    assert expected in str(check(lambda: load_reward_model(folder), path))
    proved(record_property, PROMISE, 1)


def test_what_is_computed_how_is_not_the_files_to_say(saved, tmp_path):
    folder = shutil.copytree(saved["own"], tmp_path / "rm")
    path = folder / "config.json"
    description = json.loads(path.read_text())
    changed("transformer", remat="x", compute_dtype="float8")(description)
    path.write_text(json.dumps(description))
    assert load_reward_model(folder).transformer == load_reward_model(saved["own"]).transformer


ONES = np.ones(2, np.float32)
TENSORS = {
    "integers": save({"head.w": np.ones(2, np.int32)}),
    "halves": save({"head.w": np.ones(2, np.float16)}),
    "bytes": save({"head.w": ONES}).replace(b'"F32"', b'"U64"').replace(b"[2]", b"[1]"),
    "an eight-bit float": save({"head.w": ONES}).replace(b'"F32"', b'"F8_E4M3"'),
    "empty, but huge": save({"head.w": ONES[:0]}).replace(b"[0]", b"[0,4611686018427387904]"),
    "no name": save({"": ONES}),
    "a name of dots": save({"..": ONES}),
    "a name with an escape": save({"\x1b[31m": ONES}),
    "a group that is an array": save({"head": ONES, "head.w": ONES}),
    "many groups": save({"a." * 3000 + "a": ONES}),
    "an endless name": save({"a" * 3000: ONES}),
}


@pytest.mark.parametrize("case", TENSORS)
@pytest.mark.parametrize("folder", ["arm"], indirect=True)
def test_known_bad_tensors(case, folder, record_property):
    path = folder / "model.safetensors"
    assert survey(path, [(case, TENSORS[case])], lambda: load_reward_model(folder)) == 1
    proved(record_property, PROMISE, 1)
