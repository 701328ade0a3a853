"""LoRA: nothing at the start, merged = unmerged, and only adapters and head train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.export import start
from rewardjax.lm import init_params, lora
from rewardjax.rewards import RewardModelConfig, backbone, build
from tests.conftest import tiny_config
from tests.rewards.calls import LENGTHS, TOKENS, TOLERANCE, compiled, score
from tests.rewards.conftest import noisy

CONFIGS = {
    "arm": RewardModelConfig("arm", "own", num_layers=2, lora_rank=2, outputs=2),
    "rad": RewardModelConfig("rad", "own", num_layers=2, lora_rank=2, lora_alpha=5.0, outputs=2),
}
KERNELS = {"self_attn": ["q_proj", "k_proj", "v_proj", "o_proj"]}
KERNELS["mlp"] = ["gate_proj", "up_proj", "down_proj"]


@pytest.fixture(params=CONFIGS)
def started(request, tiny_lm):
    return start(CONFIGS[request.param], tiny_lm)[:2]


def test_an_adapter_is_the_formula(tiny_lm):
    """kernel + (alpha / rank) a b, on every kernel of every layer; the given tree is not changed"""
    config = CONFIGS["rad"]
    _, weights, _ = start(config, tiny_lm)
    adapters = lora.init(config.lora, jax.random.key(0), weights)
    adapters = jax.tree.map(lambda x: x + 0.5, adapters)
    before = jax.tree.map(np.array, weights)
    got = lora.add(config.lora, weights, adapters)
    assert sorted(got["layers"]) == sorted(adapters) == ["0", "1"]
    for number, layer in before["layers"].items():
        for block, names in KERNELS.items():
            assert sorted(adapters[number][block]) == sorted(names)
            for name in names:
                pair = adapters[number][block][name]
                a, b = np.asarray(pair["a"]), np.asarray(pair["b"])
                assert a.shape[1] == b.shape[0] == 2
                expected = layer[block][name]["kernel"] + 5.0 / 2 * (a @ b)
                kernel = got["layers"][number][block][name]["kernel"]
                np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-5)
        norm = got["layers"][number]["input_layernorm"]["scale"]
        np.testing.assert_array_equal(norm, layer["input_layernorm"]["scale"])
    jax.tree.map(np.testing.assert_array_equal, before, weights)


def test_biases_stay_and_plain_feed_forwards_are_adapted():
    """GPT-2 has biases, no gate and learned positions."""
    config = tiny_config(
        norm="layer", mlp_gated=False, mlp_bias=True, attention_bias=True, attention_out_bias=True,
        learned_positions=True, activation="gelu_tanh",
    )  # fmt: skip
    weights = init_params(config, jax.random.key(0))
    model, params = noisy(build(CONFIGS["rad"], config, config), weights)
    assert sorted(params.trainable["lora"]["0"]["mlp"]) == ["down_proj", "up_proj"]
    merged, plain = model.merge(params)
    bias = plain.trainable["backbone"]["layers"]["0"]["mlp"]["up_proj"]["bias"]
    np.testing.assert_array_equal(bias, weights["layers"]["0"]["mlp"]["up_proj"]["bias"])
    first = compiled("token_rewards", model, params, TOKENS, LENGTHS, {})
    second = compiled("token_rewards", merged, plain, TOKENS, LENGTHS, {})
    np.testing.assert_allclose(first, second, **TOLERANCE)


def test_fresh_adapters_change_nothing(tiny_lm, started):
    """With one head: the states of the adapted backbone are the frozen weights' own."""
    model, weights = started
    params = model.init(jax.random.key(1), weights)
    head = jax.tree.map(lambda x: x + 0.1, params.trainable["head"])
    params = params._replace(trainable={**params.trainable, "head": head})
    config = RewardModelConfig(model.config.parametrization, "own", num_layers=2, outputs=2)
    full = build(config, tiny_lm.config, model.transformer)
    plain = full.init(jax.random.key(1), weights)
    plain = plain._replace(trainable={**plain.trainable, "head": head})
    first = score(tiny_lm, model, params, TOKENS, LENGTHS)
    np.testing.assert_array_equal(first, score(tiny_lm, full, plain, TOKENS, LENGTHS))


def test_merged_is_unmerged(tiny_lm, started):
    """All functions of the merged model, of lora_rank 0, give what the adapted one gives."""
    model, params = noisy(*started)
    merged, plain = model.merge(params)
    assert merged.config.lora_rank == 0
    assert set(plain.trainable) == {"head", "backbone"}
    expected = jax.tree.structure(jax.eval_shape(merged.init, jax.random.key(0), started[1]))
    assert jax.tree.structure(plain) == expected  # as if all of it had been trained
    candidates = jnp.stack([TOKENS, TOKENS[:, ::-1]], axis=-1)
    for name, more in (("token_rewards", ()), ("position_rewards", (candidates,))):
        first = compiled(name, model, params, TOKENS, LENGTHS, {}, *more)
        second = compiled(name, merged, plain, TOKENS, LENGTHS, {}, *more)
        np.testing.assert_allclose(first, second, **TOLERANCE)
    fresh = params._replace(trainable=model.init(jax.random.key(5), started[1]).trainable)
    adapted = params.trainable | {"lora": fresh.trainable["lora"]}
    without = score(tiny_lm, model, params._replace(trainable=adapted), TOKENS, LENGTHS)
    assert np.abs(first[..., 0, :] - without).max() > 0.01  # the adapters do something
    assert merged.merge(plain) == (merged, plain)


def test_only_adapters_and_head_train(tiny_lm, started):
    model, weights = started
    params = noisy(model, weights)[1]
    assert set(params.trainable) == {"lora", "head"}
    kept = {"embed_tokens", "layers", "norm"} | (
        {"lm_head"} if model.config.parametrization == "arm" else set()
    )
    assert set(params.frozen["backbone"]) == kept
    jax.tree.map(
        np.testing.assert_array_equal,
        params.frozen["backbone"],
        backbone.as_float32({name: weights[name] for name in kept}),
    )

    def loss(trainable):
        new = params._replace(trainable=trainable)
        return jnp.square(model.token_rewards(new, TOKENS, LENGTHS, {}) - 1).sum()

    grads = jax.jit(jax.grad(loss))(params.trainable)
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.abs(gradient).max()) > 0, jax.tree_util.keystr(path)


def test_a_step_computes_no_gradient_of_a_whole_kernel(started, monkeypatch):
    """That is one product in three, which the sum W + a b would need."""
    model, weights = started
    params = noisy(model, weights)[1]

    def products():
        """Multiplications and additions of the gradient of the trainable parameters."""

        def loss(trainable):
            new = params._replace(trainable=trainable)
            return jnp.square(model.token_rewards(new, TOKENS, LENGTHS, {}) - 1).sum()

        return jax.jit(jax.grad(loss)).lower(params.trainable).compile().cost_analysis()["flops"]

    as_it_is = products()
    monkeypatch.setattr(lora, "beside", lora.add)
    assert as_it_is < 0.85 * products()


def test_frozen_weights_are_the_lms_own_arrays(tiny_lm):
    model, weights, _ = start(RewardModelConfig("arm", "own", lora_rank=2), tiny_lm)
    frozen = model.freeze(weights)["backbone"]["layers"]["1"]["mlp"]["up_proj"]["kernel"]
    assert frozen is tiny_lm.params["layers"]["1"]["mlp"]["up_proj"]["kernel"]
