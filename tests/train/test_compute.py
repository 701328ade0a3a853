"""How a step is computed changes its cost and its rounding, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax import rewards
from rewardjax.data.batches import Batch
from rewardjax.errors import RewardJaxError
from rewardjax.lm import read
from rewardjax.rewards import RewardModelConfig, RewardParams
from rewardjax.train import compute, step
from rewardjax.train.losses import Inputs, LabelLoss, TeacherLoss
from rewardjax.train.reward_model import train
from rewardjax.train.settings import (
    ComputeConfig,
    DistillObjectiveConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)

B, T, C, V = 8, 12, 3, 128
RNG = np.random.default_rng(0)
LENGTHS = jnp.array([12, 3, 7, 1, 9, 2, 0, 0], jnp.int32)  # a leftover batch, unevenly spread
TOKENS = jnp.asarray(RNG.integers(0, V, (B, T)), jnp.int32)
OPTIM = OptimConfig(learning_rate=1e-2)
OWN = RewardModelConfig("arm", "own", num_layers=1)
LOSSES = {
    "labels": LabelLoss(ObjectiveConfig("mse", 0.7)),
    "several random tokens": LabelLoss(ObjectiveConfig("bce", 0.7, num_random_tokens=3)),
    "a teacher": TeacherLoss(DistillObjectiveConfig("candidates", 3, prior_weight=0.7), 1),
}
HEADS = {
    "arm": RewardModelConfig(layer=2),
    "arm own": OWN,
    "rad": RewardModelConfig("rad", "own", num_layers=1),
    "lora": RewardModelConfig("arm", "own", num_layers=1, lora_rank=2),
}


def start(lm, config):
    """A reward model with noise in its head, so that its gradients are not zero."""
    own = config.backbone == "own"
    body = dataclasses.replace(lm.config, num_hidden_layers=1) if own else None
    weights = {**lm.params, "layers": {"0": lm.params["layers"]["0"]}} if own else lm.params
    model = rewards.build(config, lm.config, body)
    params = model.init(jax.random.key(0), weights)
    noisy = jax.tree.map(
        lambda x: x + 0.05 * jnp.asarray(np.random.default_rng(1).normal(size=x.shape), x.dtype),
        params.trainable,
    )
    return model, RewardParams(noisy, params.frozen)


def inputs_for(lm, model):
    rng = np.random.default_rng(2)
    hidden = read(lm.config, lm.params, TOKENS, jnp.maximum(LENGTHS, 1), (2,))
    return Inputs(
        TOKENS,
        LENGTHS,
        jnp.asarray(rng.integers(0, 2, (B, 1)), jnp.float32),
        {layer: hidden[layer] for layer in model.layers},
        jnp.asarray(rng.integers(0, V, (B, T, C)), jnp.int32),
        jnp.asarray(rng.random((B, T, C, 1)), jnp.float32),
    )


def three_steps(lm, config, objective, how=None, accumulate=1, rows=None):
    model, params = start(lm, config)
    inputs = inputs_for(lm, model)
    model = compute.training_form(model, how or ComputeConfig(), rows)
    state = step.new_state(params.trainable, step.optimizer(OPTIM, 10), seed=0)
    seen = []
    for _ in range(3):
        state, metrics = step.train_step(
            state, params.frozen, inputs, model=model, objective=objective, optim=OPTIM, steps=10,
            accumulate=accumulate,
        )  # fmt: skip
        seen.append(jax.tree.map(float, metrics._replace(finite=True)))
    return jax.tree.map(np.asarray, state.trainable), np.array(seen)


def assert_close(got, want, rtol):
    np.testing.assert_allclose(got[1], want[1], rtol=rtol, atol=1e-7)
    scale = {"rtol": rtol, "atol": rtol}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **scale), got[0], want[0])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulated_parts_equal_the_whole_batch(tiny_lm, name, accumulate):
    """Also where parts hold unequal numbers of texts and positions, or none, and with the prior."""
    whole = three_steps(tiny_lm, HEADS["arm"], LOSSES[name])
    parts = three_steps(tiny_lm, HEADS["arm"], LOSSES[name], accumulate=accumulate)
    assert_close(parts, whole, 2e-5)


@pytest.mark.parametrize("head", ["arm own", "rad", "lora"])
def test_accumulation_in_a_backbone(tiny_lm, head):
    objective = LabelLoss(ObjectiveConfig("mse", 0.0 if head == "rad" else 0.7))
    whole = three_steps(tiny_lm, HEADS[head], objective)
    assert_close(three_steps(tiny_lm, HEADS[head], objective, accumulate=4), whole, 5e-5)


@pytest.mark.parametrize("remat", ["dots", "layers"])
@pytest.mark.parametrize("head", ["arm own", "rad", "lora"])
def test_rematerialisation_gives_the_same_steps(tiny_lm, remat, head):
    objective = LabelLoss(ObjectiveConfig("mse", 0.0 if head == "rad" else 0.7))
    kept = three_steps(tiny_lm, HEADS[head], objective)
    assert_close(
        three_steps(tiny_lm, HEADS[head], objective, ComputeConfig(remat=remat)), kept, 5e-5
    )


def residuals(lm, remat):
    """Elements that a gradient keeps between its forward and its backward pass."""
    model, params = start(lm, OWN)
    form = compute.training_form(model, ComputeConfig(remat=remat))
    inputs = inputs_for(lm, model)
    keys = jax.random.split(jax.random.key(0), B)

    def loss(trainable):
        return step.loss(
            form, LOSSES["labels"], RewardParams(trainable, params.frozen), inputs, keys
        )

    _, backward = jax.eval_shape(lambda t: jax.vjp(lambda x: loss(x)[0], t), params.trainable)
    return sum(leaf.size for leaf in jax.tree.leaves(backward))


def test_rematerialisation_keeps_less(tiny_lm):
    none, dots, layers = (residuals(tiny_lm, remat) for remat in ("none", "dots", "layers"))
    assert layers < dots < none


def test_bfloat16_computes_in_bfloat16_and_trains_float32(tiny_lm):
    objective = LOSSES["labels"]
    exact = three_steps(tiny_lm, OWN, objective)
    rough = three_steps(tiny_lm, OWN, objective, ComputeConfig(dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(rough[0])} == {np.dtype(np.float32)}
    np.testing.assert_allclose(rough[1], exact[1], rtol=0.1, atol=0.02)
    assert not np.array_equal(rough[1], exact[1])
    model, params = start(tiny_lm, OWN)
    form = compute.training_form(model, ComputeConfig(dtype="bfloat16"))
    text = str(jax.make_jaxpr(lambda p: form.token_rewards(p, TOKENS, LENGTHS, {}))(params))
    assert "bf16[8,13,64] = dot_general" in text  # feed-forward, of B x (BOS + T)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"compute": ComputeConfig(accumulate=0)}, "compute.accumulate is 0; expected a divisor"),
        ({"compute": ComputeConfig(accumulate=3)}, "accumulate is 3; .* optim.batch_size, 32"),
        ({"compute": ComputeConfig(remat="dots")}, "compute.remat is 'dots', but a head on the"),
        ({"compute": ComputeConfig(dtype="bfloat16")}, "compute.dtype is 'bfloat16', but a head"),
    ],
)
def test_what_cannot_be_followed_is_refused(settings, expected):
    with pytest.raises(RewardJaxError, match=expected):
        compute.check(TrainConfig(**settings))


@pytest.mark.parametrize("head", ["arm own", "rad", "lora"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_packed_rows_give_the_same_steps(tiny_lm, head, accumulate):
    objective = LabelLoss(ObjectiveConfig("mse", 0.0 if head == "rad" else 0.7))
    plain = three_steps(tiny_lm, HEADS[head], objective, accumulate=accumulate)
    rows = 4 if accumulate == 1 else 3
    assert_close(three_steps(tiny_lm, HEADS[head], objective, None, accumulate, rows), plain, 5e-5)


def test_packing_orders_a_batch(tiny_lm):
    """Six texts of 1 to 12 tokens and their BOS fill three rows of 13, where eight were read."""
    lengths = np.asarray(LENGTHS)
    tokens = np.asarray(TOKENS) * (np.arange(T) < lengths[:, None])
    rows = np.arange(B)
    batch = Batch(tokens, lengths, lengths * 0, np.zeros((B, 1), np.float32), rows, rows)
    for accumulate, expected in ((1, 4), (2, 3)):
        got, needed = compute.packed(batch, ComputeConfig(accumulate=accumulate, packing=True))
        assert sorted(got.ids.tolist()) == rows.tolist()
        np.testing.assert_array_equal(got.tokens, tokens[got.ids])
        np.testing.assert_array_equal(got.lengths, lengths[got.ids])
        assert needed == expected
    assert sum(lengths[lengths > 0] + 1) > 3 * 13  # no order fills fewer


def test_training_with_packing(tiny_lm, settings, reviews, cache):
    """Another order of the texts, as good a model."""
    config = settings(reward_model=OWN, compute=ComputeConfig(packing=True))
    result = train(config, lm=tiny_lm, texts=reviews[0], labels=reviews[1])
    assert result.metrics["eval/auc"] > 0.95
