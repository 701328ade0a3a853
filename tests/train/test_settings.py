import dataclasses
from pathlib import Path

import pytest

from rewardjax import config as settings_file
from rewardjax.data.examples import DataConfig
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardModelConfig
from rewardjax.train import checks
from rewardjax.train.settings import (
    DistillConfig,
    DistillObjectiveConfig,
    EvalConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)

CONFIGS = Path(__file__).parents[2] / "configs"


def test_defaults_are_valid():
    checks.check(TrainConfig())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"optim": OptimConfig(batch_size=0)}, "optim.batch_size is 0; expected at least 1"),
        ({"optim": OptimConfig(learning_rate=float("nan"))}, "optim.learning_rate is nan"),
        ({"optim": OptimConfig(epochs=0.0)}, "optim.epochs is 0.0; expected more than 0"),
        ({"optim": OptimConfig(b2=1.0)}, "optim.b2 is 1.0; expected 0 <= b2 < 1"),
        ({"eval": EvalConfig(every=0)}, "eval.every is 0; expected at least 1"),
        ({"data": DataConfig(labels=("a", "b"))}, "expected as many outputs as label columns"),
        (
            {
                "reward_model": RewardModelConfig("rad", backbone="own"),
                "objective": ObjectiveConfig(prior_weight=1.0),
            },
            "'rad' has no prefix baseline",
        ),
    ],
)
def test_bad_settings(changes, expected):
    with pytest.raises(RewardJaxError, match=expected):
        checks.check(TrainConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher": ""}, "teacher is empty; expected the folder of a trained reward model"),
        (
            {"objective": DistillObjectiveConfig("candidates", 0)},
            "objective.num_candidates is 0; expected at least 1",
        ),
        (
            {"objective": DistillObjectiveConfig("delta", 1, False)},
            "delta compares candidates with each other, and there is 1",
        ),
        (
            {"objective": DistillObjectiveConfig(level_weight=float("nan"))},
            "objective.level_weight is nan; expected at least 0",
        ),
        (
            {"objective": DistillObjectiveConfig(num_random_tokens=0)},
            "objective.num_random_tokens is 0; expected at least 1",
        ),
        ({"data": DataConfig(labels=("a", "b"))}, "expected as many outputs as label columns"),
    ],
)
def test_bad_settings_of_distillation(changes, expected):
    with pytest.raises(RewardJaxError, match=expected):
        checks.check(DistillConfig(**{"teacher": "rm", **changes}))


def test_distillation_needs_no_labels():
    outputs = RewardModelConfig(outputs=2)
    checks.check(DistillConfig(teacher="rm", reward_model=outputs))
    assert not checks.labelled(DistillConfig())
    assert not checks.labelled(DistillConfig(data=DataConfig(constant_label=1.0)))
    assert checks.labelled(DistillConfig(data=DataConfig(labels=("a",))))
    assert checks.labelled(DistillConfig(data=DataConfig(dataset="sst2")))
    assert checks.labelled(TrainConfig())


def test_differences_ignore_what_may_change():
    old = TrainConfig()
    same = dataclasses.replace(old, resume=True, optim=OptimConfig(steps=7))
    assert checks.differences(old, same) == []
    other = dataclasses.replace(old, seed=1, optim=OptimConfig(learning_rate=1.0))
    assert checks.differences(old, other) == ["seed", "optim.learning_rate"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("sst2_*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_every_key_is_commented(path):
    values = settings_file.load_yaml(path)
    kind = DistillConfig if "teacher" in values else TrainConfig
    config = settings_file.from_dict(kind, values, source=str(path))
    checks.check(config)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        code, _, comment = line.partition("#")
        if ":" in code and code.split(":", 1)[1].strip():
            assert comment.strip(), f"{path}:{number} has no comment"


def test_settings_survive_yaml():
    config = TrainConfig(data=DataConfig(path="x", labels=("a",)), optim=OptimConfig(eps=1e-12))
    text = settings_file.to_yaml(config)
    values = settings_file.yaml.load(text, settings_file._Loader)
    assert settings_file.from_dict(TrainConfig, values) == config
