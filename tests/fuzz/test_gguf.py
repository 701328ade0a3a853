"""GGUF files, whatever is in them: a model's description and tensors, or one line."""

import itertools
import struct

import gguf
import numpy as np
import pytest

from rewardjax.lm.config import LMConfig
from rewardjax.lm.gguf_file import GGUFFile
from rewardjax.lm.tokenizer import tokenizer_from_gguf
from tests.fuzz.mutate import mutations, plants
from tests.fuzz.promise import check, survey
from tests.soak import proved, times

PROMISE = "a damaged GGUF file is read or refused in one line"


PAD, HUGE = bytes(4096), 2**62


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def header(pairs=b"", n_pairs=0, tensors=b"", n_tensors=0):
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs) + pairs + tensors


def tensor(name="t", dims=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def pair(name, kind, form, *values):
    return text(name) + struct.pack(f"<I{form}", kind, *values)


def words(name, *values):
    return pair(name, 9, "IQ", 8, len(values)) + b"".join(map(text, values))


def u32(name, value):
    return pair(name, 4, "I", value)


def f32(name, value):
    return pair(name, 6, "f", value)


def metadata(arch, tokenizer):
    """name → its whole entry, for a model of one layer with a tokenizer of seven tokens."""
    counts = {"block_count": 1, "context_length": 64, "embedding_length": 32, "expert_count": 0}
    counts |= {"feed_forward_length": 32, "attention.head_count": 2, "attention.head_count_kv": 1}
    counts |= {"attention.key_length": 16, "attention.sliding_window": 8}
    counts |= {"attention.sliding_window_pattern": 2, "rope.dimension_count": 16}
    reals = {"attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5}
    reals |= {"rope.freq_base": 1e4, "rope.freq_base_swa": 1e4, "rope.scaling.factor": 2.0}
    ids = {"bos": 1, "eos": 2, "eot": 2, "unknown": 0, "padding": 0}
    found = {f"{arch}.{name}": u32(f"{arch}.{name}", value) for name, value in counts.items()}
    found |= {f"{arch}.{name}": f32(f"{arch}.{name}", value) for name, value in reals.items()}
    for name, value in ids.items():
        name = f"tokenizer.ggml.{name}_token_id"
        found[name] = u32(name, value)
    for name, value in {
        **{"general.architecture": arch, f"{arch}.rope.scaling.type": "linear"},
        **{"tokenizer.ggml.model": tokenizer, "tokenizer.ggml.pre": "gpt-2"},
        "tokenizer.chat_template": "{{ messages }}",
    }.items():
        found[name] = pair(name, 8, "") + text(value)
    name = "tokenizer.ggml.tokens"
    found[name] = words(name, "<unk>", "<s>", "</s>", "a", "b", "Ġ", "ab")
    if tokenizer == "gpt2":
        found["tokenizer.ggml.merges"] = words("tokenizer.ggml.merges", "a b")
    for name, values in {
        "token_type": [3, 3, 3, 1, 1, 1, 1],
        "scores": [0, 1, 2, 3, 4, 5, 6],
    }.items():
        name, form = f"tokenizer.ggml.{name}", "i" if name == "token_type" else "f"
        kind = 5 if form == "i" else 6
        found[name] = pair(name, 9, "IQ7" + form, kind, 7, *values)
    return found


TENSORS = {"token_embd.weight": (7, 32), "output_norm.weight": (32,), "rope_freqs.weight": (8,)}


def build(entries):
    """The file, and where its header ends."""
    infos = data = b""
    for name, shape in TENSORS.items():
        infos += tensor(name, dims=shape[::-1], offset=len(data))
        data += np.ones(shape, np.float32).tobytes()
    packed = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
    infos += tensor("packed", dims=(32, 2), kind=8, offset=len(data))
    data += packed.tobytes()
    head = header(b"".join(entries), len(entries), infos, len(TENSORS) + 1)
    return head + bytes(-len(head) % 32) + data, len(head)


def read(path):
    file = GGUFFile(path)
    for name, shape in file.shapes.items():
        assert file.read(name).shape == shape
    spans = sorted((info.start, info.start + info.size) for info in file.tensors.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    LMConfig.from_gguf(file)
    tokenizer_from_gguf(file)


MODELS = [("llama", "gpt2"), ("llama", "llama"), ("gemma3", "llama"), ("gpt2", "gpt2")]


@pytest.mark.parametrize(("arch", "tokenizer"), MODELS)
def test_mutated_files(arch, tokenizer, tmp_path, record_property):
    path, count = tmp_path / "m.gguf", times(14, 400)
    good, end = build(list(metadata(arch, tokenizer).values()))
    path.write_bytes(good)
    read(path)
    cases = [*mutations(good, count, 1, until=end), *mutations(good, count // 4, 2)]
    cases += plants(tmp_path).items()
    assert survey(path, cases, lambda: read(path)) > count // 2
    proved(record_property, PROMISE, len(cases))


def listed(*values):
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


VALUES = {
    **{f"u64 {n}": struct.pack("<IQ", 10, n) for n in (0, 1, 2**31, 2**32 - 1, 2**40, 2**64 - 1)},
    **{f"i64 {n}": struct.pack("<Iq", 11, n) for n in (-1, -(2**63))},
    **{f"f32 {x}": struct.pack("<If", 6, x) for x in (0.5, float("inf"), float("nan"))},
    **{f"f64 {x}": struct.pack("<Id", 12, x) for x in (1e308, float("-inf"))},
    **{f"bool {n}": struct.pack("<IB", 7, n) for n in (0, 1, 2)},
    **{
        f"text {word[:8]}": struct.pack("<I", 8) + text(word)
        for word in ("", "3", "x", "x" * 5000, "9" * 5000, "gpt2", "llama", "gemma3", "yarn", "{%")
    },
    "no numbers": struct.pack("<IIQ", 9, 4, 0),
    "two numbers": struct.pack("<IIQ2I", 9, 4, 2, 3, 2**32 - 1),
    "seven nans": struct.pack("<IIQ7f", 9, 6, 7, *[float("nan")] * 7),
    "a word": listed("a b c"),
    "a long word": listed(*"abcdef", "ab" * 30_000),
    "spaces": listed(*[" " * n for n in range(7)]),
    "many words": listed(*map(str, range(300))),
    "the same words": listed(*["a"] * 7),
}


@pytest.mark.parametrize(("arch", "tokenizer"), MODELS)
def test_wrong_metadata(arch, tokenizer, tmp_path, record_property):
    """Every value in turn of every other type, or left out."""
    path, good = tmp_path / "m.gguf", metadata(arch, tokenizer)
    places = [(name, what) for name in good for what in (None, *VALUES)]
    cases = []
    for i in np.random.default_rng(1).permutation(len(places))[: times(12, 400)]:
        name, what = places[i]
        new = {} if what is None else {name: text(name) + VALUES[what]}
        entries = {key: value for key, value in good.items() if key != name} | new
        cases.append((f"{name}: {what}", build(list(entries.values()))[0]))
    assert survey(path, cases, lambda: read(path)) > len(cases) // 4
    proved(record_property, PROMISE, len(cases))


def alignment(kind, form, value):
    return header(pair("general.alignment", kind, form, value), 1, tensor(), 1) + PAD


def infos(*tensors):
    return header(tensors=b"".join(tensors), n_tensors=len(tensors)) + PAD


def raw(name, dims):
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)


LONG = "n" * 5000
CORPUS = {
    "alignment true": (alignment(7, "B", 1), "general.alignment is True"),
    "alignment 0": (alignment(4, "I", 0), "general.alignment is 0"),
    "alignment -32": (alignment(5, "i", -32), "general.alignment is -32"),
    "alignment 32.0": (alignment(6, "f", 32), "general.alignment is 32.0"),
    "alignment as text": (
        header(pair("general.alignment", 8, "") + text("32"), 1) + PAD,
        "general.alignment is '32'",
    ),
    "alignment 2^63": (alignment(10, "Q", 2**63), "ends at byte"),
    "offset not aligned": (
        infos(tensor(offset=4)),
        "begins at offset 4, expected a multiple of 32",
    ),
    "same bytes": (infos(tensor("a"), tensor("b")), "tensors 'a' and 'b' overlap"),
    "overlap": (infos(tensor("a", (64,)), tensor("b", offset=128)), "tensors 'a' and 'b' overlap"),
    "inside another": (infos(tensor("a", (512,)), tensor("b", offset=1024)), "overlap"),
    "offset 2^64-1": (infos(tensor(offset=2**64 - 1)), "expected a multiple of 32"),
    "no name": (infos(tensor("")), "a tensor has no name"),
    "a name that is not text": (infos(raw(b"\xff\xfe", (32,)) + bytes(12)), "not UTF-8"),
    "no dimensions": (infos(raw(b"t", ()) + bytes(12)), "0 dimensions"),
    "five dimensions": (infos(tensor(dims=(1, 1, 1, 1, 1))), "5 dimensions"),
    "elements beyond 2^64": (infos(tensor(dims=(2**32, 2**32, 2**32))), "ends at byte"),
    "one byte short": (infos(tensor(dims=(1040,)))[:-65], "ends at byte"),
    "one tensor too many": (header(tensors=tensor(), n_tensors=2) + PAD, "not usable|0 dimensions"),
    "no data": (header(tensors=tensor(), n_tensors=1), "ends at byte"),
    "a long name": (infos(tensor(LONG, kind=99)), "unknown type 99"),
    "a long name twice": (infos(tensor(LONG), tensor(LONG)), "appears twice"),
    "a long key": (header(text(LONG) + struct.pack("<I", 77), 1) + PAD, "unknown type 77"),
    "a long key twice": (header(2 * pair(LONG, 0, "B", 1), 2) + PAD, "appears twice"),
    "an empty array of arrays": (header(pair("k", 9, "IQ", 9, 0), 1) + PAD, "array of type 9"),
    "an array of type 77": (header(pair("k", 9, "IQ", 77, 1), 1) + PAD, "array of type 77"),
    "a huge array of bytes": (header(pair("k", 9, "IQ", 0, HUGE), 1) + PAD, "but only"),
    "a key beyond the file": (header(struct.pack("<Q", 2**63), 1) + PAD, "bytes of text, but only"),
    "an architecture of numbers": (
        header(pair("general.architecture", 9, "IQ999I", 4, 999, *range(999)), 1) + PAD,
        "architecture [0, 1, 2",
    ),
    "a type without dequantisation": (infos(tensor(dims=(256,), kind=24)), "cannot dequantise"),
}


@pytest.mark.parametrize("case", CORPUS)
def test_known_bad_files(case, tmp_path, record_property):
    data, expected = CORPUS[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    message = str(check(lambda: read(path), path))
    assert any(part in message for part in expected.split("|")), message
    proved(record_property, PROMISE, 1)


def test_every_tensor_type_is_read_or_refused(tmp_path, record_property):
    path = tmp_path / "m.gguf"
    cases = [(f"type {k}", infos(tensor(dims=(256, 2), kind=k))) for k in range(64)]
    survey(path, cases, lambda: [GGUFFile(path).read(name) for name in GGUFFile(path).shapes])
    proved(record_property, PROMISE, len(cases))


def test_large_arrays_take_memory_in_proportion(tmp_path, record_property):
    path, count = tmp_path / "m.gguf", 300_000
    for kind, form, values in ((0, "B", 255), (2, "H", 9999), (7, "B", 1)):
        packed = struct.pack(f"<{count}{form}", *[values] * count)
        path.write_bytes(header(pair("k", 9, "IQ", kind, count) + packed, 1) + PAD)
        check(lambda: read(path), path)
    proved(record_property, PROMISE, 3)
