"""Gemma 3 text models against Hugging Face torch, from a directory and from a GGUF."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rewardjax.errors import RewardJaxError
from rewardjax.lm.cache import KVCache
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import read
from rewardjax.lm.load import load_lm
from rewardjax.lm.names import gguf_plan, hf_plan
from rewardjax.metrics.perplexity import token_nll
from tests.lm.gguf_models import write_gemma3
from tests.lm.test_decoder import cached
from tests.lm.test_families import LENGTHS, everything, ragged, save, torch_model, torch_run

SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "sliding_window": 4,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 9,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    },
}
# What a GGUF says; the rest is llama.cpp's assumption (head_dim in place of another scalar).
PLAIN = {
    **SMALL,
    "num_hidden_layers": 7,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 16,
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5000.0}},
}


def hf(**changes):
    return transformers.Gemma3TextConfig(**{**SMALL, **changes})


@pytest.fixture(scope="module")
def model():
    return torch_model(hf())


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return save(model, tmp_path_factory.mktemp("gemma"))


def test_logits_and_hidden_states_equal_torch(model, folder):
    lm = load_lm(folder)
    assert lm.config.sliding_layers == (0, 1, 3)
    tokens, valid = ragged()
    assert LENGTHS.max() > 4 * lm.config.sliding_window
    want = torch_run(model, tokens, valid)
    hidden, got = everything(lm.config, lm.params, jnp.asarray(tokens), jnp.asarray(LENGTHS))
    assert np.abs(want.logits.numpy())[valid].max() > 1
    assert np.abs(np.asarray(got) - want.logits.numpy())[valid].max() <= 1e-4
    for layer, states in enumerate(want.hidden_states):
        assert np.abs(np.asarray(hidden[layer]) - states.numpy())[valid].max() <= 1e-4
    # Each of these is part of the model: without it, the logits are others.
    for change in (
        {"sliding_window": 5},
        {"rope_local_theta": None},
        {"rope_scaling": None},
        {"query_pre_attn_scalar": None},
        {"scale_embeddings": False},
        {"norm_offset": False},
    ):
        config = dataclasses.replace(lm.config, **change)
        hidden = read(config, lm.params, jnp.asarray(tokens), jnp.asarray(LENGTHS))[4]
        other = np.asarray(hidden @ lm.params["embed_tokens"]["embedding"].T)
        assert np.abs(other - want.logits.numpy())[valid].max() > 1e-2, change


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_cached_equals_uncached_and_scanned_equals_unrolled(folder, scan):
    plain, lm = load_lm(folder), load_lm(folder, scan_layers=scan)
    assert lm.fingerprint == plain.fingerprint
    tokens = jnp.asarray(ragged()[0])
    full = jnp.full(4, 19)
    want = everything(plain.config, plain.params, tokens, full)[0]
    got = everything(lm.config, lm.params, tokens, full)[0]
    for layer in want:
        np.testing.assert_allclose(got[layer], want[layer], atol=1e-4, rtol=1e-4)
    # A prefix first, then token by token, every row from its own position.
    cache = KVCache.empty(lm.config, 4, 24, jnp.float32)
    _, cache = cached(lm.config, lm.params, tokens[:, :12], jnp.zeros(4, jnp.int32), cache)
    for step in range(4):
        start = np.array([12, 5, 0, 9]) + step
        one = np.asarray(tokens)[np.arange(4), start][:, None]
        hidden, cache = cached(lm.config, lm.params, one, jnp.asarray(start), cache)
        for layer in hidden:
            np.testing.assert_allclose(
                hidden[layer][:, 0], want[layer][np.arange(4), start], atol=1e-4, rtol=1e-4
            )


def test_bfloat16_equals_torch_s_embeddings_and_keeps_the_fingerprint(model, folder):
    """sqrt(32) is rounded to bfloat16 before it multiplies; float32 would round elsewhere."""
    full, half = load_lm(folder), load_lm(folder, dtype="bfloat16")
    assert full.fingerprint == half.fingerprint
    assert {x.dtype.name for x in jax.tree.leaves(half.params)} == {"bfloat16"}
    tokens, valid = ragged()
    theirs = torch_model(hf()).to(torch.bfloat16).model.embed_tokens(torch.tensor(tokens))
    ours = read(half.config, half.params, jnp.asarray(tokens), jnp.asarray(LENGTHS), (0,))[0]
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(ours, np.float32), theirs.float().detach().numpy())
    a, b = (np.asarray(lm.logits(tokens, LENGTHS))[valid] for lm in (full, half))
    assert 0 < np.abs(a - b).max() < 0.2 * np.abs(a).max()


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"attention.sliding_window_pattern": 3, "rope.freq_base_swa": 50.0},
        {"attention.sliding_window_pattern": [True, False, True, False, True, True, True]},
    ],
    ids=["defaults", "pattern", "list"],
)
def test_gguf_equals_torch(metadata, tmp_path):
    pattern = metadata.get("attention.sliding_window_pattern", 6)
    types = pattern if isinstance(pattern, list) else [bool((i + 1) % pattern) for i in range(7)]
    rope = {**PLAIN["rope_parameters"]}
    if "rope.freq_base_swa" in metadata:
        rope["sliding_attention"] = {"rope_type": "default", "rope_theta": 50.0}
    config = transformers.Gemma3TextConfig(
        **{**PLAIN, "rope_parameters": rope},
        layer_types=["sliding_attention" if t else "full_attention" for t in types],
    )
    model = torch_model(config)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    write_gemma3(tmp_path / "m.gguf", config, state, **metadata)
    lm = load_lm(tmp_path / "m.gguf")
    other = load_lm(save(model, tmp_path / "hf"))
    for name in ("sliding_layers", "rope_local_theta", "rope_theta", "query_pre_attn_scalar"):
        assert getattr(lm.config, name) == getattr(other.config, name), name
    assert lm.config.model_type == other.config.model_type == "gemma3_text"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), lm.params, other.params)
    tokens, valid = ragged()
    want = torch_run(model, tokens, valid).logits.numpy()
    assert np.abs(np.asarray(lm.logits(tokens, LENGTHS)) - want)[valid].max() <= 1e-4


def test_every_parameter_has_a_stored_name_of_its_own(folder):
    config = load_lm(folder).config
    for plan in (hf_plan(config), gguf_plan(config)):
        assert len(plan) == 2 + 4 * 13
    assert "blk.3.post_ffw_norm.weight" in gguf_plan(config)
    assert "layers.3.pre_feedforward_layernorm.weight" in hf_plan(config)


def test_perplexity_under_gemma_equals_torch_s(model, folder):
    lm = load_lm(folder)
    ids = np.random.default_rng(1).integers(0, 128, 40)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids[None])).logits[0]
        want = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(ids[1:]), reduction="none"
        )
    got = token_nll(lm.config, lm.params, [ids], chunk=16)[0]
    np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


def test_configs_of_the_hub_old_and_new():
    """The 1B model's config as published (an integer pattern, old RoPE names), and 270M's."""
    old = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "eos_token_id": [1, 106],
        "bos_token_id": 2,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    }
    config = LMConfig.from_hf(old)
    full = [i for i in range(26) if config.window(i) is None]
    assert full == [5, 11, 17, 23]
    assert (config.rope_theta, config.rope_local_theta) == (1e6, 1e4)
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (1, 106)
    assert config == LMConfig.from_hf(transformers.Gemma3TextConfig(**old).to_dict())
    assert LMConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 is not supported"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not supported"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"model_type": "gemma3"}, "multimodal Gemma 3, which is not supported.*gemma3_text"),
        ({"model_type": "gemma2"}, "'gemma2'.*is not supported.*gemma3_text"),
        ({"layer_types": ["full_attention"]}, "layer_types are .*expected 4 of sliding_attention"),
        ({"layer_types": ["odd"] * 4}, "layer_types are .*expected 4 of sliding_attention"),
        ({"sliding_window": None}, "sliding_window is None"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ({"query_pre_attn_scalar": "x"}, "bad value"),
        ({"layer_types": None, "sliding_window_pattern": "x"}, "bad value"),
        ({"hidden_activation": "mish"}, "activation 'mish'"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope type 'linear' of the sliding layers",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope type 'yarn'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(RewardJaxError, match=message):
        LMConfig.from_hf({**hf().to_dict(), **changes})


def test_a_soft_capped_gguf_is_refused(tmp_path):
    config = transformers.Gemma3TextConfig(**PLAIN)
    write_gemma3(tmp_path / "m.gguf", config, {}, final_logit_softcapping=30.0)
    with pytest.raises(RewardJaxError, match=r"final_logit_softcapping=30\.0 is not supported"):
        load_lm(tmp_path / "m.gguf")
