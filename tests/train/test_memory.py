"""What a training step is said to need, beside what XLA says of the compiled program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rewardjax import rewards
from rewardjax.errors import RewardJaxError
from rewardjax.lm.params import param_shapes
from rewardjax.rewards import RewardModelConfig
from rewardjax.train import memory, step
from rewardjax.train.losses import Inputs, LabelLoss
from rewardjax.train.memory import Need, training_need
from rewardjax.train.reward_model import train
from rewardjax.train.settings import ComputeConfig, ObjectiveConfig, OptimConfig
from tests.conftest import tiny_config

LM = tiny_config(
    vocab_size=512, hidden_size=128, intermediate_size=384, num_hidden_layers=4, head_dim=32
)
CASES = {
    "rad": (RewardModelConfig("rad", "own", num_layers=4), 16, 48, 1),
    "arm": (RewardModelConfig("arm", "own", num_layers=4), 32, 32, 1),
    "long texts": (RewardModelConfig("arm", "own", num_layers=4), 8, 128, 1),
    "lora": (RewardModelConfig("arm", "own", num_layers=4, lora_rank=4), 16, 48, 1),
    "in parts": (RewardModelConfig("rad", "own", num_layers=4), 64, 48, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_about_what_xla_says(case):
    config, batch, width, accumulate = CASES[case]
    model = rewards.build(config, LM, dataclasses.replace(LM, num_hidden_layers=4))
    weights = param_shapes(LM, "float32")
    params = jax.eval_shape(lambda w: model.init(jax.random.key(0), w), weights)
    objective = LabelLoss(ObjectiveConfig("mse", 0.0))
    optim, shape = OptimConfig(batch_size=batch), jax.ShapeDtypeStruct
    tokens, lengths = shape((batch, width), jnp.int32), shape((batch,), jnp.int32)
    inputs = Inputs(tokens, lengths, shape((batch, 1), jnp.float32), {})

    def state(trainable):
        moments = step.optimizer(optim, 10).init(trainable)
        return step.TrainState(jnp.int32(0), trainable, moments, jax.random.key(0), jnp.bool_(True))

    update = step.Update(model, objective, optim, 10, accumulate)
    states = (jax.eval_shape(state, params.trainable),)
    lowered = step._steps.lower(states, (params.frozen,), (inputs,), hows=(update,))
    compiled = lowered.compile().memory_analysis()
    how = ComputeConfig(accumulate=accumulate)
    need = training_need(model, params, how, batch, width, objective.candidates)
    measured = compiled.temp_size_in_bytes + compiled.alias_size_in_bytes
    assert 0.8 < sum(need) / measured < 1.3


def test_recomputing_needs_less_where_xla_does_it(monkeypatch):
    model = rewards.build(CASES["arm"][0], LM, LM)
    weights = param_shapes(LM, "float32")
    params = jax.eval_shape(lambda w: model.init(jax.random.key(0), w), weights)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    none, dots, layers = (
        training_need(model, params, ComputeConfig(remat=remat), 64, 64).step
        for remat in ("none", "dots", "layers")
    )
    assert layers < dots < none


def test_what_does_not_fit_is_refused_with_what_would():
    need = Need(10**9, 8 * 10**9)
    assert "1.0 GB for parameters" in memory.check(need, 32, ComputeConfig(), 10**10)
    assert memory.check(need, 32, ComputeConfig(), None)
    with pytest.raises(RewardJaxError, match=r"5\.0 GB is free; set compute\.accumulate to 2,"):
        memory.check(need, 32, ComputeConfig(), 5 * 10**9)
    with pytest.raises(RewardJaxError, match=r"compute\.accumulate to 8,"):
        memory.check(need, 32, ComputeConfig(accumulate=2), 35 * 10**8)
    with pytest.raises(RewardJaxError, match=r"or LoRA \(reward_model\.lora_rank\)"):
        memory.check(need, 32, ComputeConfig(), 5 * 10**8)


def test_a_run_says_and_refuses_before_it_compiles(tiny_lm, settings, reviews, monkeypatch, capsys):
    data = {"lm": tiny_lm, "texts": reviews[0], "labels": reviews[1]}
    monkeypatch.setattr("rewardjax.train.memory.available_memory", lambda: 1000)
    monkeypatch.setattr("rewardjax.train.trainer.train_step", lambda *a, **k: pytest.fail("ran"))
    with pytest.raises(RewardJaxError, match=r"training takes about .*; 1\.0 kB is free"):
        train(settings(), **data)
    monkeypatch.undo()
    train(settings(optim=OptimConfig(batch_size=16, steps=2)), **data)
    assert "Training takes about" in capsys.readouterr().out
