"""GGUF files written here (llama and gpt2, many quantisations) against torch and gguf's reader."""

import gguf
import numpy as np
import pytest
import torch
import transformers

from rewardjax.errors import RewardJaxError
from rewardjax.lm.gguf_file import GGUFFile
from rewardjax.lm.load import load_lm
from rewardjax.lm.names import unpermute
from rewardjax.lm.rope import inverse_frequencies
from tests.lm.gguf_models import F32, finish, permute, write_gpt2, write_llama
from tests.lm.test_families import LENGTHS, perturb, ragged, torch_run

KINDS = gguf.GGMLQuantizationType
LLAMA = transformers.LlamaConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,
    rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    attn_implementation="eager",
)
GPT2 = transformers.GPT2Config(
    vocab_size=128,
    n_embd=64,
    n_layer=2,
    n_head=4,
    n_positions=64,
    initializer_range=0.2,
    attn_implementation="eager",
)


def model_of(config):
    torch.manual_seed(0)
    return perturb(transformers.AutoModelForCausalLM.from_config(config)).eval()


def state_of(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def parity(model, seen, lm):
    """torch with the dequantised weights = ours from the file."""
    missing = model.load_state_dict({k: torch.tensor(v) for k, v in seen.items()}, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    assert not missing.unexpected_keys
    tokens, valid = ragged()
    want = torch_run(model, tokens, valid).logits.numpy()
    assert np.abs(want[valid]).max() > 1
    assert np.abs(np.asarray(lm.logits(tokens, LENGTHS)) - want)[valid].max() <= 1e-4


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_llama_of_every_quantisation_equals_torch(kind, tmp_path):
    model = model_of(LLAMA)
    before = state_of(model)
    seen = write_llama(tmp_path / "m.gguf", LLAMA, before, KINDS[kind])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(seen[name], before[name]) == (kind == "F32")
    lm = load_lm(tmp_path / "m.gguf")
    assert not lm.config.tie_word_embeddings
    parity(model, seen, lm)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_gpt2_equals_torch(kind, tmp_path):
    model = model_of(GPT2)
    seen = write_gpt2(tmp_path / "m.gguf", GPT2, state_of(model), KINDS[kind])
    lm = load_lm(tmp_path / "m.gguf")
    assert lm.config.tie_word_embeddings
    assert lm.config.learned_positions
    parity(model, seen, lm)


def test_tied_llama_has_no_output_tensor(tmp_path):
    config = transformers.LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True})
    config._attn_implementation = "eager"
    model = model_of(config)
    state = state_of(model)
    state.pop("lm_head.weight")
    seen = write_llama(tmp_path / "m.gguf", config, state)
    lm = load_lm(tmp_path / "m.gguf")
    assert lm.config.tie_word_embeddings
    assert "lm_head" not in lm.params
    parity(model, seen, lm)


def test_rope_freqs_tensor_divides_the_frequencies(tmp_path):
    factors = np.linspace(1, 4, 8)
    state = state_of(model_of(LLAMA))
    write_llama(tmp_path / "m.gguf", LLAMA, state, rope_freqs=factors)
    write_llama(tmp_path / "plain.gguf", LLAMA, state)
    scaled, plain = (load_lm(tmp_path / f"{n}.gguf") for n in ("m", "plain"))
    np.testing.assert_allclose(
        inverse_frequencies(scaled.config) * factors, inverse_frequencies(plain.config), rtol=1e-6
    )
    write_llama(tmp_path / "bad.gguf", LLAMA, state, rope_freqs=factors[:3])
    with pytest.raises(RewardJaxError, match="rope_freqs has 3 values, expected 8"):
        load_lm(tmp_path / "bad.gguf")


def test_unpermute_inverts_llama_cpp_s_permute():
    w = np.arange(2 * 8 * 3).reshape(16, 3)
    assert not np.array_equal(permute(w, 2), w)
    np.testing.assert_array_equal(unpermute(permute(w, 2), 2), w)
    np.testing.assert_array_equal(unpermute(permute(w[:, 0], 4), 4), w[:, 0])


def test_reader_agrees_with_gguf_s_own_on_every_type(tmp_path):
    """Metadata of all shapes, and random bytes of every type that gguf dequantises."""
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("some.floats", [1.5, 2.5])
    writer.add_array("some.strings", ["a", "ä", ""])
    writer.add_bool("some.flag", True)
    writer.add_float64("some.double", 0.1)
    writer.add_int64("some.negative", -(2**40))
    rng = np.random.default_rng(0)
    kinds = [k for k in KINDS if k in gguf.quants._type_traits]
    assert len(kinds) > 20
    for kind in kinds:
        row = 512 // gguf.GGML_QUANT_SIZES[kind][0] * gguf.GGML_QUANT_SIZES[kind][1]
        raw = rng.integers(0, 64, (3, row), dtype=np.uint8)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
    finish(writer)
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert ours.metadata[name] == field.contents(), name
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for tensor in theirs.tensors:
        want = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        got = ours.read(tensor.name)
        assert got.dtype == np.float32
        assert got.shape == (3, 512)
        np.testing.assert_array_equal(got, want)


def test_types_that_gguf_cannot_dequantise_are_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("a", np.zeros((2, 292), np.uint8), raw_dtype=KINDS.Q8_K)
    finish(writer)
    file = GGUFFile(tmp_path / "m.gguf")
    assert file.shapes == {"a": (2, 256)}
    with pytest.raises(RewardJaxError, match="tensor a has type Q8_K"):
        file.read("a")


def test_missing_unknown_and_misshaped_tensors_are_raised_together(tmp_path):
    state = state_of(model_of(LLAMA))
    state["model.layers.2.mlp.up_proj.weight"] = np.zeros((96, 64))
    state["model.layers.1.mlp.up_proj.weight"] = np.zeros((95, 64))
    write_llama(tmp_path / "m.gguf", LLAMA, state, drop=("blk.0.ffn_gate.weight",))
    with pytest.raises(RewardJaxError) as caught:
        load_lm(tmp_path / "m.gguf")
    message = str(caught.value)
    assert "1 missing (blk.0.ffn_gate.weight)" in message
    assert "1 unknown (blk.2.ffn_up.weight)" in message
    assert "1 wrong shape (blk.1.ffn_up.weight [95, 64] instead of [96, 64])" in message
    assert "\n" not in message
    assert "m.gguf" in message


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    write_llama(tmp_path / "m.gguf", LLAMA, state_of(model_of(LLAMA)), F32, tokenizer=False)
    with pytest.raises(RewardJaxError, match="GGUF tokenizer None is not supported"):
        load_lm(tmp_path / "m.gguf")
