"""What is written is what transformers, PEFT and our own loader read."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.lm import LM, LMConfig, init_params, load_lm, lora
from rewardjax.lm.hf_config import config_to_hf
from rewardjax.lm.lora import Lora
from rewardjax.lm.save import save_adapter, save_lm
from tests.conftest import tiny_config, tiny_tokenizer

GPT2 = {
    "model_type": "gpt2", "norm": "layer", "mlp_gated": False, "mlp_bias": True,
    "attention_bias": True, "attention_out_bias": True, "learned_positions": True,
    "activation": "gelu_tanh", "num_key_value_heads": 4, "tie_word_embeddings": True,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma3_text", "qk_norm": True, "norm_offset": True, "post_norms": True,
    "scale_embeddings": True, "activation": "gelu_tanh", "query_pre_attn_scalar": 8.0,
    "sliding_window": 4, "sliding_layers": (0, 1), "rope_local_theta": 1e4, "rope_theta": 1e6,
}  # fmt: skip
LLAMA3 = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64, "rope_type": "llama3",
}  # fmt: skip
CONFIGS = {
    "llama": {},
    "llama tied, biases, three ends": {
        "tie_word_embeddings": True, "attention_bias": True, "attention_out_bias": True,
        "mlp_bias": True, "eos_token_ids": (2, 0, 5),
    },
    "llama3 rope": {"rope_scaling": tuple(sorted(LLAMA3.items()))},
    "mistral": {"model_type": "mistral", "sliding_window": 8},
    "mistral without a window": {"model_type": "mistral"},
    "qwen2": {
        "model_type": "qwen2", "attention_bias": True, "sliding_window": 4, "sliding_layers": (1,),
    },
    "qwen3": {"model_type": "qwen3", "qk_norm": True},
    "gemma3": GEMMA,
    "gpt2": GPT2,
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(3, 128, (2, 12))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives(name):
    config = tiny_config(**CONFIGS[name])
    if name == "gpt2":
        config = dataclasses.replace(config, intermediate_size=96)
    assert LMConfig.from_hf(json.loads(json.dumps(config_to_hf(config)))) == config


def test_a_rope_that_no_config_says_is_refused():
    config = tiny_config(rope_scaling=(("factors", (1.0,) * 4), ("rope_type", "factors")))
    with pytest.raises(RewardJaxError, match="start from its Hugging Face directory"):
        config_to_hf(config)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def adapted(request):
    """An LM, adapters that change it, how, and the LM with them merged."""
    config = tiny_config(num_hidden_layers=2, **CONFIGS[request.param])
    if request.param == "gemma3":
        config = dataclasses.replace(config, tie_word_embeddings=True)
    params = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 10 if x.ndim == 2 else x + 0.1, params)
    how = Lora(2, 5.0)
    adapters = lora.init(how, jax.random.key(1), params)
    keys = iter(jax.random.split(jax.random.key(2), 100))
    adapters = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), adapters)
    base = LM(config, params, tiny_tokenizer(), "base")
    merged = dataclasses.replace(base, params=lora.add(how, params, adapters))
    return base, how, adapters, merged


def torch_logits(model):
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def test_a_directory_is_read_by_transformers_and_by_us(adapted, tmp_path):
    from transformers import AutoModelForCausalLM

    merged = adapted[-1]
    save_lm(tmp_path / "lm", merged)
    again = load_lm(tmp_path / "lm")
    assert again.config == merged.config
    assert again.fingerprint == merged.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.params, merged.params)
    assert (
        again.tokenizer("a good film")["input_ids"] == merged.tokenizer("a good film")["input_ids"]
    )
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "lm"))
    np.testing.assert_allclose(merged.logits(TOKENS, [12, 12]), theirs, atol=1e-4, rtol=1e-4)


def test_an_adapter_is_read_by_peft(adapted, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, how, adapters, merged = adapted
    save_lm(tmp_path / "base", base)
    save_adapter(tmp_path / "adapter", base.config, how, adapters, "base")
    save_adapter(tmp_path / "adapter", base.config, how, adapters, str(tmp_path / "base"))  # again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with_adapter = torch_logits(PeftModel.from_pretrained(model, tmp_path / "adapter"))
    lengths = [12, 12]
    np.testing.assert_allclose(merged.logits(TOKENS, lengths), with_adapter, atol=1e-4, rtol=1e-4)
    assert np.abs(base.logits(TOKENS, lengths) - with_adapter).max() > 0.1  # it does something
