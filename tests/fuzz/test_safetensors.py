"""Safetensors files and their index, whatever is in them: tensors as stored, or one line."""

import json

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.lm.safetensors_file import SafetensorsFiles
from tests.fuzz.mutate import alterations, mutations, plants
from tests.fuzz.promise import check, survey
from tests.lm.test_corrupt_files import entry, raw_safetensors
from tests.soak import proved, times

PROMISE = "a damaged safetensors file is read as stored or refused in one line"
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": entry([2, 3], 0, 24),
    "b.c": entry([4], 24, 32, "BF16"),
    "d": entry([1, 2], 32, 48, "F64"),
    "mask": entry([8], 48, 56, "BOOL"),
}
DATA = bytes(range(56))
GOOD = raw_safetensors(HEADER, DATA)


def read(folder):
    """Everything that is there, once: the bytes of the float tensors never overlap."""
    files = SafetensorsFiles(folder)
    arrays = {name: files.read(name) for name in files.shapes}
    assert all(arrays[name].shape == shape for name, shape in files.shapes.items())
    return arrays


def test_mutated_files(tmp_path, record_property):
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    assert list(read(tmp_path)) == ["a", "b.c", "d"]
    count = times(30, 1500)
    cases = [*mutations(GOOD, count, 1, until=len(GOOD) - 56), *mutations(GOOD, count, 2)]
    cases += plants(tmp_path).items()
    assert survey(path, cases, lambda: read(tmp_path)) > count
    proved(record_property, PROMISE, len(cases))


def test_wrong_values_in_the_header(tmp_path, record_property):
    path, count = tmp_path / "model.safetensors", times(40, 1500)
    cases = [(name, raw_safetensors(text, DATA)) for name, text in alterations(HEADER, count)]
    assert survey(path, cases, lambda: read(tmp_path)) > count // 2
    proved(record_property, PROMISE, len(cases))


def header(text, size=8):
    return raw_safetensors(text.replace(b"@", json.dumps(entry([2], 0, 8)).encode()), bytes(size))


def one(**changes):
    return raw_safetensors({"a": {**entry([2], 0, 8), **changes}}, bytes(8))


REFUSED = {
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "header of 2 GiB": b"\0\0\0\x80" + bytes(4) + b"{}",
    "a list": raw_safetensors([1]),
    "text": raw_safetensors("x"),
    "null": raw_safetensors(b"null"),
    "nested lists": raw_safetensors(b'{"a":' + b"[" * 100_000),
    "nested metadata": raw_safetensors(b'{"__metadata__":' + b'{"a":' * 100_000),
    "metadata of numbers": raw_safetensors({"__metadata__": {"a": 1}}),
    "a name twice, other bytes": raw_safetensors(
        b'{"a":%s,"a":%s}'
        % (json.dumps(entry([2], 0, 8)).encode(), json.dumps(entry([2], 8, 16)).encode()),
        bytes(16),
    ),
    "a field twice": header(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "two names, same bytes": header(b'{"a":@,"b":@}'),
    "half a pair in a name": header(b'{"\\ud800":@}'),
    "a gap": raw_safetensors({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20)),
    "a gap at the start": raw_safetensors({"a": entry([2], 4, 12)}, bytes(12)),
    "negative dimension": one(shape=[-2]),
    "dimension 2.0": one(shape=[2.0]),
    "dimension true": one(shape=[True, 2]),
    "dimension as text": one(shape=["2"]),
    "dimension 2^64": one(shape=[2**64]),
    "shape null": one(shape=None),
    "negative offset": one(data_offsets=[-8, 0]),
    "offsets swapped": one(data_offsets=[8, 0]),
    "offsets 0.0 and 8.0": one(data_offsets=[0.0, 8.0]),
    "three offsets": one(data_offsets=[0, 4, 8]),
    "dtype 1": one(dtype=1),
    "endless dtype": one(dtype="F" * 50_000),
    "empty, but huge": raw_safetensors({"a": entry([0, 2**62], 0, 0)}),
    "empty, but huger": raw_safetensors({"a": entry([0, 2**62, 2**62], 0, 0)}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_known_bad_headers(case, tmp_path, record_property):
    path = tmp_path / "model.safetensors"
    assert survey(path, [(case, REFUSED[case])], lambda: read(tmp_path)) == 1
    proved(record_property, PROMISE, 1)


SHARDS = {
    "one.safetensors": raw_safetensors({"a": entry([2], 0, 8)}, bytes(8)),
    "two.safetensors": raw_safetensors({"b": entry([2], 0, 8)}, bytes(8)),
    "both.safetensors": raw_safetensors({"a": entry([2], 0, 8), "c": entry([2], 8, 16)}, bytes(16)),
}
INDEX = {"metadata": {"total_size": 16}, "weight_map": {"a": "one.safetensors"}}
INDEX["weight_map"]["b"] = "two.safetensors"


@pytest.fixture
def sharded(tmp_path):
    for name, data in {**SHARDS, "pytorch_model.bin": plants(tmp_path)["torch .bin"]}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.safetensors").mkdir()
    return tmp_path / "model.safetensors.index.json"


def test_mutated_index(sharded, record_property):
    good = json.dumps(INDEX).encode()
    sharded.write_bytes(good)
    assert sorted(read(sharded.parent)) == ["a", "b"]
    count, names = times(25, 800), [".safetensors"]  # the index's name or that of a shard
    cases = [*mutations(good, count, 1), *alterations(INDEX, count, 2)]
    cases += plants(sharded.parent).items()
    assert survey(sharded, cases, lambda: read(sharded.parent), names=names) > count
    proved(record_property, PROMISE, len(cases))


FILES = {
    "above": ("../one.safetensors", "outside"),
    "far above": ("../" * 2000 + "a", "outside"),
    "elsewhere": ("/etc/passwd", "outside"),
    "the folder above": ("..", "no name of a safetensors file"),
    "the folder": (".", "outside"),
    "nothing": ("", "no name of a safetensors file"),
    "a pickle": ("pytorch_model.bin", "no name of a safetensors file"),
    "itself": ("model.safetensors.index.json", "no name of a safetensors file"),
    "no byte": ("a\0.safetensors", "no name of a safetensors file"),
    "half a pair": ("\ud800.safetensors", "no name of a safetensors file"),
    "endless": ("x" * 5000 + ".safetensors", "no name of a safetensors file"),
    "a number": (3, "outside"),
    "null": (None, "outside"),
    "nested": ([[["a"]]], "outside"),
    "missing": ("gone.safetensors", "gone.safetensors: missing"),
    "a folder": ("folder.safetensors", "folder.safetensors: not a usable"),
    "without the tensor": ("two.safetensors", "two.safetensors: lacks 1 tensors"),
}


@pytest.mark.parametrize("case", FILES)
def test_known_bad_shards(case, sharded, record_property):
    file, expected = FILES[case]
    sharded.write_text(json.dumps({"weight_map": {"a": file}}))
    error = check(lambda: read(sharded.parent), sharded, names=[".safetensors"])
    assert expected in str(error)
    proved(record_property, PROMISE, 1)


def test_a_tensor_in_two_shards_is_refused(sharded, record_property):
    sharded.write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "c": "both.safetensors"}})
    )
    with pytest.raises(RewardJaxError, match=r"both.safetensors: tensor 'a' is in one.safetensors"):
        read(sharded.parent)
    proved(record_property, PROMISE, 1)


def test_a_deep_index_is_refused(sharded, record_property):
    for text in ("[" * 100_000, '{"weight_map": ' + "[" * 100_000, '{"a": ' * 100_000):
        sharded.write_text(text)
        assert check(lambda: read(sharded.parent), sharded)
    proved(record_property, PROMISE, 3)
