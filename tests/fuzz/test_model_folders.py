"""Hugging Face model folders, whatever is in their files: a model, or one line."""

import json
import shutil

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.lm import load as load_module
from rewardjax.lm.config import LMConfig
from rewardjax.lm.load import load_lm, open_lm, resolve
from rewardjax.lm.tokenizer import tokenizer_from_directory
from tests.fuzz.mutate import DEEP, alterations, mutations, plants
from tests.fuzz.promise import check, survey
from tests.soak import proved, times

PROMISE = "a damaged model folder is read or refused in one line"
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE |= {"original_max_position_embeddings": 64, "rope_theta": 1e4}
SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1}
SIZES |= {"max_position_embeddings": 256, "eos_token_id": [2, 3], "tie_word_embeddings": False}
LLAMA = {**SIZES, "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-6}
WINDOWS = {"sliding_window": 8, "layer_types": None, "use_sliding_window": True}
CONFIGS = {
    "llama": {**LLAMA, "rope_parameters": ROPE, "attention_bias": False, "mlp_bias": False},
    "old llama": {**LLAMA, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 8},
    "qwen2": {**LLAMA, **WINDOWS, "model_type": "qwen2", "max_window_layers": 1},
    "qwen3": {
        **{**LLAMA, **WINDOWS, "model_type": "qwen3"},
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "gemma3": {
        **{**LLAMA, "model_type": "gemma3_text", "sliding_window": 8, "layer_types": None},
        **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8},
        **{"sliding_window_pattern": 2, "final_logit_softcapping": None},
        "rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_theta": 1e4}},
    },
    "gpt2": {
        **{"model_type": "gpt2", "vocab_size": 128, "n_embd": 32, "n_head": 4, "n_layer": 3},
        **{"n_positions": 256, "n_inner": None, "layer_norm_epsilon": 1e-5},
        **{"activation_function": "gelu_new", "scale_attn_weights": True, "eos_token_id": 2},
    },
}


def read_config(folder):
    try:
        return LMConfig.from_hf(load_module._config_values(folder))
    except RewardJaxError as error:  # as `open_lm` does
        raise RewardJaxError(f"{folder / 'config.json'}: {error}") from error


@pytest.mark.parametrize("family", CONFIGS)
def test_wrong_values_in_the_config(family, tmp_path, record_property):
    path, good = tmp_path / "config.json", CONFIGS[family]
    path.write_text(json.dumps(good))
    assert read_config(tmp_path).num_hidden_layers == 3
    count = times(16, 400)
    cases = [*alterations(good, count, 1), *mutations(json.dumps(good).encode(), count // 2, 2)]
    assert survey(path, cases, lambda: read_config(tmp_path)) > count // 3
    proved(record_property, PROMISE, len(cases))


def changed(family, **values):
    return {**CONFIGS[family], **values}


LINEAR = {"type": "linear", "factor": 0}
CORPUS = {
    "layers of a window": (changed("qwen2", num_hidden_layers=2**31), "expected 1 to 10000"),
    "layers of a pattern": (changed("gemma3", num_hidden_layers=2**31), "expected 1 to 10000"),
    "layers beyond a word": (changed("llama", num_hidden_layers=10**400), "expected 1 to 10000"),
    "a hidden size of 2^31": (changed("llama", hidden_size=2**31), "below 2^31"),
    "infinite": (changed("llama", vocab_size=float("inf")), "vocab_size is inf"),
    "not a number": (changed("llama", rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "half a layer": (changed("llama", num_hidden_layers=2.5), "num_hidden_layers is 2.5"),
    "a size as text": (changed("llama", hidden_size="32"), "hidden_size is '32'"),
    "a size that is true": (changed("llama", num_key_value_heads=True), "value_heads is True"),
    "a flag as text": (changed("llama", tie_word_embeddings="false"), "tie_word_embeddings is 'f"),
    "a negative window": (changed("mistral", sliding_window=-8), "sliding_window is -8"),
    "other layer types": (changed("qwen3", layer_types=["full_attention"]), "expected 3 of"),
    "rope as a list": (changed("gemma3", rope_parameters=[1]), "rope_parameters is [1]"),
    "rope of a number": (changed("gemma3", rope_parameters={"full_attention": 3}), "ters is 3"),
    "rope type as a list": (changed("llama", rope_parameters={"rope_type": ["a"]}), "type ['a"),
    "rope base below 0": (changed("old llama", rope_theta=-1), "rope_theta is -1"),
    "rope base 10^400": (changed("old llama", rope_theta=10**400), "rope_theta is 1000"),
    "rope divided by 0": (changed("old llama", rope_scaling=LINEAR), "factor is 0.0"),
    "rope without a passage": (
        changed("llama", rope_parameters={**ROPE, "high_freq_factor": 1.0}),
        "expected low_freq_factor below",
    ),
    "end token 2^31": (changed("llama", eos_token_id=2**31), "id 2147483648"),
    "end token as text": (changed("llama", eos_token_id=["</s>"]), "a token id is '</s>'"),
    "a long family": (changed("llama", model_type="x" * 5000), "is not supported"),
    "a long activation": (changed("llama", hidden_act="x" * 5000), "is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", CORPUS)
def test_known_bad_configs(case, tmp_path, record_property):
    config, expected = CORPUS[case]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert expected in str(check(lambda: read_config(tmp_path), path))
    proved(record_property, PROMISE, 1)


@pytest.fixture
def folder(tiny_lm_dir, tmp_path):
    """A whole model; beside it pickles under the names that libraries look for."""
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    open_lm(model)  # what it imports takes longer than any file may
    names = ("pytorch_model.bin", "vocab.pkl", "pretrained_vocab.bin", "spiece.model", "vocab.txt")
    for data, name in zip(plants(model).values(), names, strict=True):
        (model / name).write_bytes(data)
    return model


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_deep_or_no_json(name, folder, record_property):
    cases = [(text[:9], text.encode()) for text in ("[" * 100_000, '{"a": ' * 100_000, DEEP, "3")]
    cases += [("digits", b'{"a": ' + b"9" * 5000 + b"}"), *plants(folder).items()]
    names = [name, "model"]
    assert survey(folder / name, cases, lambda: open_lm(folder), names=names) == len(cases)
    proved(record_property, PROMISE, len(cases))


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.mark.parametrize("name", [*TOKENIZER_FILES, "added_tokens.json"])
def test_tokenizer_files(name, folder, record_property):
    path, count = folder / name, times(8, 200)
    good = path.read_bytes() if path.exists() else b'{"<new>": 128}'
    tokenizer_from_directory(folder)
    cases = [*mutations(good, count, 1), *plants(folder).items()]
    if name.endswith(".json"):
        cases += alterations(json.loads(good), 2 * count, 2)
    survey(path, cases, lambda: tokenizer_from_directory(folder), names=["model"])
    proved(record_property, PROMISE, len(cases))


def tokenizer_files(name, **values):
    return lambda found: {name: {**found[name], **values}}


def long_prefix(found):
    model = {**found["tokenizer.json"]["model"], "continuing_subword_prefix": "x" * 5000}
    return {"tokenizer.json": {**found["tokenizer.json"], "model": model}}


AUTO = {"AutoTokenizer": ["planted.Tokenizer", None]}
TOKENIZERS = {
    "a panic in Rust": (long_prefix, "PanicException"),
    "itself": (
        tokenizer_files("tokenizer_config.json", tokenizer_class="AutoTokenizer"),
        "tokenizer_class is 'AutoTokenizer'",
    ),
    "code of its own": (
        tokenizer_files("tokenizer_config.json", tokenizer_class="Mine", auto_map=AUTO),
        "",
    ),
    "a pickled vocabulary": (
        tokenizer_files("tokenizer_config.json", tokenizer_class="TransfoXLTokenizer"),
        "",
    ),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_known_bad_tokenizers(case, folder, record_property):
    change, expected = TOKENIZERS[case]
    (folder / "planted.py").write_text(f"open({str(folder / 'marker')!r}, 'w')")
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("tokenizer*.json")}
    for name, values in change(found).items():
        (folder / name).write_text(json.dumps(values))
    path = folder / "tokenizer_config.json"
    assert expected in str(check(lambda: tokenizer_from_directory(folder), path, names=["model"]))
    proved(record_property, PROMISE, 1)


def test_whole_loads(folder, record_property):
    """From the first file to the last tensor, each file mutated in turn, or missing."""
    load_lm(folder)
    count, cases = times(3, 50), 0
    for name in (*TOKENIZER_FILES, "config.json", "model.safetensors"):
        path = folder / name
        good = path.read_bytes()
        end = good.find(b"}}") + 2 if path.suffix == ".safetensors" else None
        damaged = list(mutations(good, count, 4, until=end))
        cases += len(damaged) + 1
        names = [name, "model"]
        survey(path, damaged, lambda: load_lm(folder), names=names)
        path.unlink()
        check(lambda: load_lm(folder), path, names=names)
        path.write_bytes(good)
    config = json.loads((folder / "config.json").read_text())
    damaged = list(alterations(config, 4 * count, 5))
    survey(folder / "config.json", damaged, lambda: load_lm(folder), names=["model"])
    proved(record_property, PROMISE, cases + len(damaged))


@pytest.mark.parametrize("name", ["a" * 300, "x/" * 3000, "~nobody-of-this-name/model", "\0"])
def test_names_that_no_file_can_have(name, tmp_path, record_property):
    """A reward model's file names its backbone."""
    assert check(lambda: resolve(f"./{name}" if name[0] != "~" else name), tmp_path, names=[": "])
    proved(record_property, PROMISE, 1)
