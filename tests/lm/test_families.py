"""Every supported family against Hugging Face torch in float32, through files on disk."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rewardjax.errors import RewardJaxError
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import causal_mask, forward, unembed
from rewardjax.lm.load import load_lm
from tests.conftest import tiny_tokenizer

torch.set_num_threads(1)  # two threads that wait for each other are slower on shared cores
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GPT2 = {
    "vocab_size": 128,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
}
FAMILIES = {
    "gpt2": transformers.GPT2Config(**GPT2),
    "gpt2 exact gelu": transformers.GPT2Config(**GPT2, n_inner=40, activation_function="gelu"),
    "llama2": transformers.LlamaConfig(**{**SMALL, "num_key_value_heads": 4}),
    "llama3": transformers.LlamaConfig(**SMALL, rope_parameters=LLAMA3_ROPE),
    "linear rope": transformers.LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    ),
    "biased llama": transformers.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "tinyllama": transformers.LlamaConfig(**{**SMALL, "num_attention_heads": 8}, rms_norm_eps=1e-5),
    "smollm2": transformers.LlamaConfig(
        **{**SMALL, "hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1},
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    ),
    "head_dim": transformers.LlamaConfig(**SMALL, head_dim=12),
    "mistral": transformers.MistralConfig(**SMALL, sliding_window=5),
    "qwen2": transformers.Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen2 windows": transformers.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=16),
}
LENGTHS = np.array([19, 7, 1, 12])


def perturb(model):
    """Random biases and norm scales too: zeros and ones would hide a missing or swapped one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def torch_model(config):
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return perturb(transformers.AutoModelForCausalLM.from_config(config)).eval()


def save(model, path, **options):
    model.save_pretrained(path, **options)
    tiny_tokenizer().save_pretrained(path)
    return path


def ragged(vocab=128):
    tokens = np.random.default_rng(0).integers(0, vocab, (len(LENGTHS), LENGTHS.max()))
    return tokens, np.arange(LENGTHS.max()) < LENGTHS[:, None]


def torch_run(model, tokens, valid):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(valid.astype(np.int64)),
            output_hidden_states=True,
        )


@functools.partial(jax.jit, static_argnums=0)
def everything(config, params, tokens, lengths):
    """All hidden states and the logits (as `LM.logits` computes them) in one compilation."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = causal_mask(lengths, tokens.shape[1])
    layers = tuple(range(config.num_hidden_layers + 1))
    hidden, _ = forward(config, params, tokens, positions, mask, capture=layers)
    return hidden, unembed(config, params, hidden[layers[-1]])


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_hidden_states_equal_torch(name, tmp_path):
    model = torch_model(FAMILIES[name])
    lm = load_lm(save(model, tmp_path))
    tokens, valid = ragged()
    want = torch_run(model, tokens, valid)
    depth = lm.config.num_hidden_layers
    hidden, got = everything(lm.config, lm.params, jnp.asarray(tokens), jnp.asarray(LENGTHS))
    assert got.dtype == jnp.float32
    assert np.abs(want.logits.numpy())[valid].max() > 1  # the comparison is not between zeros
    assert np.abs(np.asarray(got) - want.logits.numpy())[valid].max() <= 1e-4
    assert len(want.hidden_states) == depth + 1
    for layer, states in enumerate(want.hidden_states):
        assert np.abs(np.asarray(hidden[layer]) - states.numpy())[valid].max() <= 1e-4


def test_config_survives_a_dict_round_trip():
    for config in FAMILIES.values():
        ours = LMConfig.from_hf(config.to_dict())
        assert LMConfig.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
        hash(ours)


def test_old_and_new_rope_fields_mean_the_same():
    new = FAMILIES["llama3"].to_dict()
    old = dict(new)
    rope = old.pop("rope_parameters")
    old["rope_theta"] = rope["rope_theta"]
    old["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    assert LMConfig.from_hf(old) == LMConfig.from_hf(new)
    older = {**old, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert dict(LMConfig.from_hf(older).rope_scaling) == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "'mamba'.*gpt2, llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "expected one of gpt2"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "lacks 'factor'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"hidden_act": "mish"}, "activation 'mish'.*silu"),
        ({"hidden_size": None}, "bad value"),
        ({"hidden_size": "wide"}, "bad value"),
        ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads is 0|bad value"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_key_value_heads": 3}, "4 heads of 8 over 3 KV heads"),
        ({"quantization_config": {"bits": 4}}, "quantised safetensors"),
    ],
)
def test_unsupported_configs_are_refused_by_name(changes, message):
    values = {**FAMILIES["llama2"].to_dict(), **changes}
    with pytest.raises(RewardJaxError, match=message):
        LMConfig.from_hf(values)


def test_missing_config_field_and_gpt2_options():
    values = FAMILIES["llama2"].to_dict()
    del values["intermediate_size"]
    with pytest.raises(RewardJaxError, match="lacks 'intermediate_size'"):
        LMConfig.from_hf(values)
    values = {**FAMILIES["gpt2"].to_dict(), "scale_attn_by_inverse_layer_idx": True}
    with pytest.raises(RewardJaxError, match="scale_attn_by_inverse_layer_idx"):
        LMConfig.from_hf(values)


def test_sharded_safetensors_equal_the_single_file(tmp_path):
    model = torch_model(FAMILIES["qwen2"])
    one = load_lm(save(model, tmp_path / "one"))
    many_dir = save(model, tmp_path / "many", max_shard_size="12KB")
    shards = list(many_dir.glob("*.safetensors"))
    assert len(shards) > 2
    assert not (many_dir / "model.safetensors").exists()
    many = load_lm(many_dir)
    assert many.fingerprint == one.fingerprint
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, many.params))
    shards[0].unlink()
    with pytest.raises(RewardJaxError, match=f"{shards[0].name}: missing, though the index"):
        load_lm(many_dir)


def test_bfloat16_and_scanned_loads_keep_the_fingerprint(tmp_path):
    path = save(torch_model(FAMILIES["llama3"]), tmp_path / "a")
    full = load_lm(path)
    half = load_lm(path, dtype="bfloat16")
    scanned = load_lm(path, scan_layers=True)
    assert {x.dtype.name for x in jax.tree.leaves(half.params)} == {"bfloat16"}
    assert full.fingerprint == half.fingerprint == scanned.fingerprint
    assert scanned.config == dataclasses.replace(full.config, scan_layers=True)
    tokens, valid = ragged()
    a, b = full.logits(tokens, LENGTHS), scanned.logits(tokens, LENGTHS)
    np.testing.assert_allclose(np.asarray(a)[valid], np.asarray(b)[valid], atol=1e-4)
    c = half.logits(tokens, LENGTHS)
    assert c.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(a - c))[valid].max() < 0.1 * np.abs(np.asarray(a)[valid]).max()

    other = torch_model(FAMILIES["llama3"])
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.05)
    assert load_lm(save(other, tmp_path / "b")).fingerprint != full.fingerprint


def test_a_half_precision_checkpoint_loads_as_float32(tmp_path):
    model = torch_model(FAMILIES["gpt2"]).to(torch.bfloat16)
    lm = load_lm(save(model, tmp_path))
    assert {x.dtype.name for x in jax.tree.leaves(lm.params)} == {"float32"}
    tokens, valid = ragged()
    want = torch_run(model.float(), tokens, valid).logits.numpy()
    assert np.abs(np.asarray(lm.logits(tokens, LENGTHS)) - want)[valid].max() <= 1e-4


def test_end_tokens_of_the_generation_config_are_added(tmp_path):
    path = save(torch_model(FAMILIES["llama2"]), tmp_path)
    (path / "generation_config.json").write_text('{"eos_token_id": [7, 2, 9]}')
    assert load_lm(path).config.eos_token_ids == (2, 7, 9)
