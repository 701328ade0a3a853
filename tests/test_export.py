"""A saved reward model comes back the same, belongs to one LM, and says so when it does not fit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardjax as rj
from rewardjax.export import compare_vocabularies, context, save_reward_model, start
from rewardjax.lm import LM, init_params
from rewardjax.rewards import RewardModelConfig
from tests.conftest import tiny_config, tiny_tokenizer
from tests.trained import random_params, save_random

token_rewards = jax.jit(lambda model, *args: model.token_rewards(*args, {}), static_argnums=0)
CONFIGS = {
    "arm-base": RewardModelConfig(layer=2, outputs=2),
    "arm-own": RewardModelConfig(backbone="own", num_layers=2),
    "rad": RewardModelConfig("rad", "own"),
    "arm-no-baseline": RewardModelConfig(baseline=False),
    "arm_rank": RewardModelConfig("arm_rank", rank=3),
    "arm_factors": RewardModelConfig("arm_factors", "own", num_layers=1, rank=3, outputs=2),
    "mlp": RewardModelConfig("mlp", rank=3),
}
LORA = {
    "arm-lora": RewardModelConfig(backbone="own", num_layers=2, lora_rank=2),
    "rad-lora": RewardModelConfig("rad", "own", num_layers=1, lora_rank=2, lora_alpha=4.0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_loaded_is_what_was_in_memory(tiny_lm, tmp_path, name):
    config = CONFIGS[name]
    model, params, fingerprint = random_params(tiny_lm, config)
    saved = {"transformer": model.transformer, "backbone_fingerprint": fingerprint}
    save_reward_model(tmp_path / "rm", config, params.trainable, tiny_lm, link="sigmoid", **saved)
    loaded = rj.load_reward_model(tmp_path / "rm")
    assert (loaded.config, loaded.link) == (config, "sigmoid")
    assert [p.name for p in tmp_path.iterdir()] == ["rm"]  # no scratch is left
    bound = loaded.bind(tiny_lm)
    assert bound[0] == model
    jax.tree.map(np.testing.assert_array_equal, tuple(bound[1]), tuple(params))


@pytest.mark.parametrize("name", LORA)
def test_adapters_are_saved_alone_and_bound_merged(tiny_lm, tmp_path, name):
    """Loaded: adapters and head. Bound: the merged model, which scores as the adapted one."""
    from safetensors.numpy import load_file

    config = LORA[name]
    model, params, _ = random_params(tiny_lm, config, scale=0.3)
    path = save_random(tmp_path / "rm", tiny_lm, config, scale=0.3)
    names = set(load_file(path / "model.safetensors"))
    assert {n.split(".")[0] for n in names} == {"head", "lora"}
    assert "lora.0.self_attn.q_proj.a" in names
    loaded = rj.load_reward_model(path)
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded.trainable, params.trainable)
    merged, bound = loaded.bind(tiny_lm)
    assert merged.config == dataclasses.replace(config, lora_rank=0)
    assert "lora" not in bound.trainable
    tokens, lengths = jnp.array([[5, 9, 7, 30, 31]]), jnp.array([5])
    expected = token_rewards(model, params, tokens, lengths)
    got = token_rewards(merged, bound, tokens, lengths)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    texts = rj.reward(tiny_lm, loaded, [[5, 9, 7, 30, 31]])
    np.testing.assert_allclose(texts[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rad-lora", "arm-own"])
def test_frozen_weights_must_be_those_it_was_trained_on(tiny_lm, tiny_lm_dir, tmp_path, name):
    """What is not in the directory is read from the backbone's source: another one is refused."""
    config = dataclasses.replace((CONFIGS | LORA)[name], init=str(tiny_lm_dir))
    path = save_random(tmp_path / "rm", tiny_lm, config)
    _rewrite(path / "config.json", backbone_fingerprint="another")
    with pytest.raises(rj.RewardJaxError, match=f"has fingerprint {tiny_lm.fingerprint}, but this"):
        rj.load_reward_model(path).bind(tiny_lm)


@pytest.mark.parametrize("name", ["arm_factors", "rad-lora"])
def test_a_backbone_runs_in_the_lms_dtype_and_the_head_in_float32(tiny_lm_dir, tmp_path, name):
    lm = rj.load_lm(str(tiny_lm_dir), dtype="bfloat16")
    loaded = rj.load_reward_model(save_random(tmp_path / "rm", lm, (CONFIGS | LORA)[name]))
    model, params = loaded.bind(lm)
    bodies = [tree["backbone"] for tree in params if "backbone" in tree]
    assert {x.dtype for x in jax.tree.leaves(bodies)} == {np.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(params.trainable["head"])} == {np.dtype("float32")}
    tokens, lengths = jnp.array([[5, 9, 7, 30, 31]]), jnp.array([5])
    rewards = token_rewards(model, params, tokens, lengths)
    assert rewards.dtype == jnp.float32
    # the same weights in float32 give about the same numbers
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    exact = np.asarray(token_rewards(model, wide, tokens, lengths))
    np.testing.assert_allclose(rewards, exact, atol=0.1 * np.abs(exact).max())
    generated = rj.generate(lm, [[5, 9]], reward_model=loaded, beta=1.0, max_new_tokens=2)
    assert np.isfinite(generated[0][0].rewards).all()


def test_only_the_trainable_part_is_saved(tiny_lm, tmp_path):
    from safetensors.numpy import load_file

    save_random(tmp_path / "base", tiny_lm, CONFIGS["arm-base"])
    assert set(load_file(tmp_path / "base" / "model.safetensors")) == {
        "head.baseline",
        "head.projection",
    }
    save_random(tmp_path / "own", tiny_lm, CONFIGS["arm-own"])
    names = set(load_file(tmp_path / "own" / "model.safetensors"))
    frozen = "lm_head" if not tiny_lm.config.tie_word_embeddings else "embed_tokens"
    assert not any(frozen in name for name in names)
    assert "backbone.layers.1.self_attn.q_proj.kernel" in names


def test_another_lm_is_refused_with_both_fingerprints(tiny_lm, tmp_path):
    loaded = rj.load_reward_model(save_random(tmp_path / "rm", tiny_lm, CONFIGS["arm-base"]))
    params = init_params(tiny_lm.config, jax.random.key(9))
    other = dataclasses.replace(tiny_lm, params=params, source="other")
    with pytest.raises(rj.RewardJaxError) as error:
        rj.generate(other, ["I"], reward_model=loaded, beta=1.0)
    assert tiny_lm.fingerprint in str(error.value)
    assert other.fingerprint in str(error.value)


def test_a_backbone_with_other_ids_is_refused(tiny_lm):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<more>"])
    config = tiny_config(vocab_size=160)
    other = LM(config, init_params(config, jax.random.key(0)), tokenizer, "other")
    with pytest.raises(rj.RewardJaxError, match=r"vocabularies differ: 1 tokens.*'<more>': 128"):
        compare_vocabularies(tiny_lm, other)
    compare_vocabularies(tiny_lm, dataclasses.replace(tiny_lm, source="copy"))


def test_a_backbone_may_start_from_another_lm_of_the_same_vocabulary(tiny_lm, tiny_lm_dir):
    config = RewardModelConfig(backbone="own", init=str(tiny_lm_dir), num_layers=1)
    model, weights, fingerprint = start(config, tiny_lm)
    assert model.transformer.num_hidden_layers == 1
    assert list(weights["layers"]) == ["0"]
    assert fingerprint == tiny_lm.fingerprint


def _rewrite(path, **changes):
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, **changes}))


def test_damaged_directories_are_refused(tiny_lm, tmp_path):
    def fresh(name):
        return save_random(tmp_path / name, tiny_lm, CONFIGS["arm-base"])

    with pytest.raises(rj.RewardJaxError, match=r"no config\.json"):
        rj.load_reward_model(tmp_path / "nowhere")

    directory = fresh("broken-json")
    (directory / "config.json").write_text("{")
    with pytest.raises(rj.RewardJaxError, match=r"config\.json is damaged"):
        rj.load_reward_model(directory)

    directory = fresh("old-format")
    _rewrite(directory / "config.json", format=99)
    with pytest.raises(rj.RewardJaxError, match="format 99"):
        rj.load_reward_model(directory)

    directory = fresh("unknown-field")
    _rewrite(directory / "config.json", reward_model={"colour": "red"})
    with pytest.raises(rj.RewardJaxError, match="colour"):
        rj.load_reward_model(directory)

    directory = fresh("truncated")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(rj.RewardJaxError, match=r"model\.safetensors cannot be read"):
        rj.load_reward_model(directory)

    directory = fresh("no-weights")
    (directory / "model.safetensors").unlink()
    with pytest.raises(rj.RewardJaxError, match=r"model\.safetensors cannot be read"):
        rj.load_reward_model(directory)

    directory = fresh("two-outputs-in-the-file")
    _rewrite(directory / "config.json", reward_model=dataclasses.asdict(RewardModelConfig(layer=2)))
    with pytest.raises(
        rj.RewardJaxError, match=r"'head.baseline': got \(2, 32\), expected \(1, 32\)"
    ):
        rj.reward(tiny_lm, rj.load_reward_model(directory), ["a film"])


def test_a_backbone_of_its_own_reads_one_token_less(tiny_lm, tmp_path):
    rad = rj.load_reward_model(save_random(tmp_path / "rad", tiny_lm, CONFIGS["rad"]))
    arm = rj.load_reward_model(save_random(tmp_path / "arm", tiny_lm, CONFIGS["arm-base"]))
    assert [context(tiny_lm, model) for model in (None, arm, rad)] == [256, 256, 255]
    prompt = [5] * 250
    rj.generate(tiny_lm, [prompt], reward_model=arm, beta=1.0, max_new_tokens=6)
    with pytest.raises(rj.RewardJaxError, match="exceeds the context of 255"):
        rj.generate(tiny_lm, [prompt], reward_model=rad, beta=1.0, max_new_tokens=6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scanned", [False, True])
def test_own_backbones_start_from_any_load_of_an_lm(tiny_lm_dir, dtype, scanned):
    """A bfloat16 or layer-scanned LM gives a float32, per-layer backbone; cached = uncached."""
    lm = rj.load_lm(str(tiny_lm_dir), dtype=dtype, scan_layers=scanned)
    model, params, _ = random_params(lm, CONFIGS["arm-own"])
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert list(params.trainable["backbone"]["layers"]) == ["0", "1"]
    tokens, lengths = np.array([[5, 9, 7, 30, 31]], np.int32), np.array([5], np.int32)
    uncached = model.token_rewards(params, jnp.array(tokens), jnp.array(lengths), {})[0, -1]
    room = {"max_new_tokens": 1, "num_candidates": 1}
    cache = model.prefill(params, jnp.array(tokens[:, :4]), jnp.array(lengths - 1), {}, **room)
    cached, _ = model.candidate_rewards(params, cache, {}, jnp.array(tokens[:, 4:]))
    np.testing.assert_allclose(cached[0, 0], uncached, rtol=1e-4, atol=1e-5)
