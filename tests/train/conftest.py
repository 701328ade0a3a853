import pytest

from rewardjax.train.settings import (
    CheckpointConfig,
    EvalConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Hidden states of these tests go to a folder of their own."""
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def settings(tmp_path):
    """Settings of a short run in a fresh directory, with changes."""

    def make(**changes):
        values = {
            "run_dir": str(tmp_path / "run"),
            "optim": OptimConfig(batch_size=16, steps=30, learning_rate=3e-3),
            "objective": ObjectiveConfig(prior_weight=1.0),
            "eval": EvalConfig(every=10),
            "checkpoint": CheckpointConfig(),
        }
        return TrainConfig(**{**values, **changes})

    return make
