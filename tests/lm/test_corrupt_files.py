"""Truncated, lying and foreign model files: one RewardJaxError that names the file, at once."""

import json
import os
import shutil
import struct
import time
import tracemalloc

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.lm.gguf_file import GGUFFile
from rewardjax.lm.load import load_lm
from tests.lm.gguf_models import write_llama
from tests.lm.test_gguf import LLAMA, model_of, state_of

HUGE = 2**62


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    write_llama(path, LLAMA, state_of(model_of(LLAMA)))
    return path.read_bytes()


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def header(pairs=b"", n_pairs=0, tensors=b"", n_tensors=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + pairs + tensors


def tensor(name="t", dims=(32,), kind=0, offset=0, ndim=None):
    count = len(dims) if ndim is None else ndim
    return (
        text(name) + struct.pack(f"<I{len(dims)}Q", count, *dims) + struct.pack("<IQ", kind, offset)
    )


PAD = bytes(4096)
GGUF_CASES = {
    "empty": (b"", "empty"),
    "binary": (os.urandom(64).replace(b"GGUF", b"gguf"), "expected b'GGUF'"),
    "safetensors inside": (struct.pack("<Q", 2) + b"{}", "expected b'GGUF'"),
    "version": (header(version=1) + PAD, "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + PAD, "version 50331648"),
    "only the magic": (b"GGUF", "truncated"),
    "huge pair count": (header(n_pairs=HUGE) + PAD, "metadata entries, but only"),
    "huge tensor count": (header(n_tensors=HUGE) + PAD, "tensors, but only"),
    "huge key": (header(struct.pack("<Q", HUGE), 1) + PAD, "bytes of text, but only"),
    "huge string": (
        header(text("k") + struct.pack("<IQ", 8, HUGE), 1) + PAD,
        "bytes of text, but only",
    ),
    "huge array": (
        header(text("k") + struct.pack("<IIQ", 9, 4, HUGE), 1) + PAD,
        "values in 'k', but only",
    ),
    "huge string array": (
        header(text("k") + struct.pack("<IIQ", 9, 8, HUGE), 1) + PAD,
        "strings in 'k', but only",
    ),
    "nested array": (header(text("k") + struct.pack("<IIQ", 9, 9, 1), 1) + PAD, "array of type 9"),
    "unknown value type": (header(text("k") + struct.pack("<I", 77), 1) + PAD, "unknown type 77"),
    "key is not text": (
        header(struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 1), 1) + PAD,
        "not UTF-8",
    ),
    "same key twice": (
        header(2 * (text("k") + struct.pack("<IB", 0, 1)), 2) + PAD,
        "appears twice",
    ),
    "too many dims": (header(tensors=tensor(ndim=2**31), n_tensors=1) + PAD, "dimensions"),
    "huge dims": (
        header(tensors=tensor(dims=(2**63, 2**63)), n_tensors=1) + PAD,
        "ends at byte",
    ),
    "zero dim": (header(tensors=tensor(dims=(0, 2)), n_tensors=1) + PAD, "empty dimension"),
    "unknown tensor type": (header(tensors=tensor(kind=99), n_tensors=1) + PAD, "unknown type 99"),
    "ragged blocks": (
        header(tensors=tensor(dims=(33,), kind=2), n_tensors=1) + PAD,
        "no multiple of 32",
    ),
    "offset beyond the file": (
        header(tensors=tensor(offset=HUGE), n_tensors=1) + PAD,
        "ends at byte",
    ),
    "same tensor twice": (header(tensors=2 * tensor(), n_tensors=2) + PAD, "appears twice"),
    "alignment": (
        header(text("general.alignment") + struct.pack("<II", 4, 3), 1) + PAD,
        "power of two",
    ),
    "another architecture": (
        header(text("general.architecture") + struct.pack("<I", 8) + text("mamba"), 1) + PAD,
        "'mamba' is not supported: expected one of gpt2, llama",
    ),
    "no metadata": (header() + PAD, "architecture None is not supported"),
    "no sizes": (
        header(text("general.architecture") + struct.pack("<I", 8) + text("llama"), 1) + PAD,
        "lacks llama.embedding_length",
    ),
}


def refused(path, message):
    """`path` is refused with `message`, in one line, quickly and without large allocations."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(RewardJaxError, match=message) as caught:
        load_lm(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert peak < 200e6
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", GGUF_CASES)
def test_malformed_gguf(case, tmp_path):
    data, message = GGUF_CASES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    assert "bad.gguf" in refused(path, message)


@pytest.mark.parametrize("keep", [0.0001, 0.01, 0.05, 0.3, 0.999])
def test_truncated_gguf(good, keep, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(good[: int(len(good) * keep)])
    assert "cut.gguf" in refused(path, "truncated|but only|empty")


def test_every_flipped_header_byte_is_read_or_refused(good, tmp_path):
    """No byte of the header can make the reader crash, hang or allocate without bound."""
    path = tmp_path / "flip.gguf"
    header_end = 1500
    refusals = []
    for i in range(0, header_end, 7):
        flipped = bytearray(good)
        flipped[i] ^= 0xFF
        path.write_bytes(flipped)
        try:
            GGUFFile(path)
        except RewardJaxError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all("flip.gguf" in message for message in refusals)


def test_gguf_that_claims_too_many_layers(good, tmp_path):
    at = good.index(b"llama.block_count") + len("llama.block_count") + 4
    for layers in (9_999, 2**31 - 1):
        data = bytearray(good)
        data[at : at + 4] = struct.pack("<I", layers)
        path = tmp_path / "deep.gguf"
        path.write_bytes(data)
        refused(path, f"{layers} layers are claimed, but there are only")


def raw_safetensors(entries, data=b"", length=None):
    body = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS_CASES = {
    "empty": b"",
    "binary": bytes(range(200, 240)) * 4,
    "huge header": raw_safetensors(b"{}", length=HUGE),
    "header longer than the file": raw_safetensors(b"{}", length=5000),
    "broken json": raw_safetensors(b'{"a": '),
    "not utf-8": raw_safetensors(b'{"\xff": 1}'),
    "offsets beyond the file": raw_safetensors({"a": entry([4], 0, 16)}, bytes(8)),
    "size lies": raw_safetensors({"a": entry([4], 0, 8)}, bytes(8)),
    "huge shape": raw_safetensors({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)),
    "overlap": raw_safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "unknown dtype": raw_safetensors({"a": entry([2], 0, 8, "F99")}, bytes(8)),
    "trailing bytes": raw_safetensors({"a": entry([2], 0, 8)}, bytes(80)),
    "a pickle": b"\x80\x04\x95" + bytes(64),
}


@pytest.mark.parametrize("case", SAFETENSORS_CASES)
def test_malformed_safetensors(case, tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    (model / "model.safetensors").write_bytes(SAFETENSORS_CASES[case])
    message = refused(model, "not a usable safetensors file")
    assert "model.safetensors" in message


def test_truncated_safetensors(tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    data = (model / "model.safetensors").read_bytes()
    for keep in (10, 1000, len(data) - 1):
        (model / "model.safetensors").write_bytes(data[:keep])
        refused(model, "not a usable safetensors file")


def test_integer_tensors_where_floats_are_wanted(tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data.replace(b'"F32"', b'"I32"', 1))
    refused(model, "1 missing")


@pytest.mark.parametrize(
    "index",
    ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../x.safetensors"}}'],
)
def test_bad_safetensors_index(index, tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(index)
    refused(model, "model.safetensors.index.json: (not a safetensors index|file '../x)")


@pytest.mark.parametrize("config", ["", "{", "[1]", '"llama"', "\ufeff{}", '{"model_type": "x"}'])
def test_bad_config_json(config, tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    (model / "config.json").write_text(config)
    assert "config.json" in refused(model, "JSON|not supported")


@pytest.mark.parametrize("tokenizer", [None, "", "{}", '{"model": {"type": "BPE"}}'])
def test_bad_tokenizer(tokenizer, tiny_lm_dir, tmp_path):
    model = shutil.copytree(tiny_lm_dir, tmp_path / "model")
    for file in model.glob("tokenizer*"):
        file.unlink()
    if tokenizer is not None:
        (model / "tokenizer.json").write_text(tokenizer)
    refused(model, "no usable tokenizer")
