"""Runs whose numbers go wrong: stopped, left out or allowed, and always said."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.train import run as run_module
from rewardjax.train.reward_model import train
from rewardjax.train.settings import CheckpointConfig, EvalConfig, OptimConfig
from rewardjax.train.watch import LossWatch, dead_outputs


@pytest.fixture
def poisoned(monkeypatch):
    """The hidden states of two of the training texts are not numbers."""
    batch = run_module.features.Features.batch

    def spoil(self, ids, width):
        found = batch(self, ids, width)
        bad = np.isin(ids, (3, 40))[:, None, None]
        return {layer: np.where(bad, np.nan, value) for layer, value in found.items()}

    monkeypatch.setattr(run_module.features.Features, "batch", spoil)


def config_for(settings, **optim):
    values = {"batch_size": 16, "steps": 12, "learning_rate": 3e-3, **optim}
    return settings(optim=OptimConfig(**values), eval=EvalConfig(every=100))


def rows_with(result, name):
    return [row for row in result.history if name in row]


def test_skip_leaves_the_update_out(tiny_lm, settings, reviews, poisoned, capsys):
    """Twelve steps pass every text of an epoch of five or six batches twice."""
    config = config_for(settings, non_finite="skip")
    result = train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    bad = rows_with(result, "train/non_finite_texts")
    assert 2 <= len(bad) <= 6
    said = capsys.readouterr().out
    for row in bad:
        assert {"texts[3]", "texts[40]"} & set(row["train/non_finite_texts"])
        assert f"not finite at step {row['step']} " in said
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.reward_model.trainable))
    fine = [row["train/loss"] for row in rows_with(result, "train/loss")]
    assert sum(loss is not None for loss in fine) == 12 - len(bad)


def test_skip_has_a_limit(tiny_lm, settings, reviews, poisoned):
    config = config_for(settings, non_finite="skip", max_non_finite=2, steps=60)
    with pytest.raises(RewardJaxError, match="step number 3 of that kind"):
        train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])


def test_warn_applies_the_update(tiny_lm, settings, reviews, poisoned, capsys):
    config = config_for(settings, non_finite="warn", max_non_finite=100)
    result = train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    assert "the update was applied" in capsys.readouterr().out
    assert not all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.reward_model.trainable)
    )


def test_stop_says_how_to_go_on(tiny_lm, settings, reviews, poisoned):
    config = config_for(settings)
    with pytest.raises(RewardJaxError, match=r"--resume --optim\.non-finite skip"):
        train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    log = (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()
    assert "train/non_finite_texts" in json.loads(log[-1])


def test_a_stopped_run_goes_on_with_another_policy(tiny_lm, settings, reviews, poisoned):
    """As if it had skipped from the beginning; a checkpoint stands before every step."""
    data = {"lm": tiny_lm, "texts": reviews[0], "labels": reviews[1]}
    every = CheckpointConfig(every=1)
    config = dataclasses.replace(config_for(settings), checkpoint=every)
    with pytest.raises(RewardJaxError, match="not finite"):
        train(config, **data)
    optim = dataclasses.replace(config.optim, non_finite="skip")
    gone_on = train(dataclasses.replace(config, optim=optim, resume=True), **data)
    fresh = dataclasses.replace(config, optim=optim, run_dir=config.run_dir + "2")
    whole = train(fresh, **data)
    same = jax.tree.map(np.array_equal, *(r.reward_model.trainable for r in (gone_on, whole)))
    assert all(jax.tree.leaves(same))


def test_a_spike_is_noticed_and_noise_is_not():
    watch, rng = LossWatch(), np.random.default_rng(0)
    assert not any(watch.see(i, float(x)) for i, x in enumerate(rng.gamma(9, 0.1, 400)))
    assert "step 401: the loss jumped to 9, from a mean of" in watch.see(401, 9.0)


def test_a_falling_loss_is_no_spike():
    watch = LossWatch()
    assert not any(watch.see(i, 1 / (1 + i)) for i in range(200))


def test_dead_outputs_are_named():
    rng = np.random.default_rng(0)
    found = [
        (i, np.stack([[0.5, rng.random()]] * 3), rng.random(2).astype(np.float32))
        for i in range(10)
    ]
    (warning,) = dead_outputs(found, ("toxic", "insult"))
    assert "output 'toxic' gives all 10 held-out texts the same reward" in warning


def test_a_head_that_cannot_learn_is_called_dead(tiny_lm, settings, reviews, capsys):
    config = config_for(settings)
    frozen = dataclasses.replace(config.optim, learning_rate=0.0)
    config = dataclasses.replace(config, optim=frozen)
    train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    assert "output 'label' gives all" in capsys.readouterr().out
