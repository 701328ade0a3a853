"""Tokenizers built from GGUF metadata against transformers' own conversion of the same file."""

import random

import gguf
import numpy as np
import pytest
import transformers

from rewardjax.errors import RewardJaxError
from rewardjax.lm.gguf_file import GGUFFile
from rewardjax.lm.tokenizer import tokenizer_from_gguf
from tests.conftest import tiny_tokenizer
from tests.lm.gguf_models import add_tokenizer, finish

TEXTS = [
    "the good film",
    " the  bad film ",
    "it's not 2023, is it?",
    "naïve ▁ 日本",
    "<s>the</s>",
    "",
]
PIECES = ["th", "he", "▁the", "▁t", "oo", "good", "go", "od", "▁good", "fil", "film", "il", "bad"]


def write_sentencepiece(path, **changes):
    rng = random.Random(0)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces = [*PIECES, "▁", *"abcdefghilmnoprstu'?,<>/"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    scores = [0.0] * len(tokens) + [rng.uniform(-10, 0) for _ in pieces]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(changes.get("eos", 2))
    writer.add_unk_token_id(0)
    if "add_bos" in changes:
        writer.add_add_bos_token(changes["add_bos"])
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens + pieces), 4), np.float32))
    finish(writer)


@pytest.mark.parametrize("changes", [{}, {"add_bos": False}], ids=["bos", "no bos"])
def test_sentencepiece_equals_transformers(changes, tmp_path):
    write_sentencepiece(tmp_path / "m.gguf", **changes)
    ours = tokenizer_from_gguf(GGUFFile(tmp_path / "m.gguf"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert ours.get_vocab() == theirs.get_vocab()
    for text in TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids), text
        assert (ids[:1] == [1]) == (text == "<s>the</s>" or not changes)
    merged = ours.convert_ids_to_tokens(
        ours("the good film", add_special_tokens=False)["input_ids"]
    )
    assert len(merged) < len("the good film")


GEMMA_TEXTS = [
    *TEXTS,
    "  hi",
    "   the   good  film",
    "a" + " " * 40 + "b",
    "the\n\ngood\n\n\n film\n",
    "tabs\t\tand\r\n",
    "▁▁▁the▁▁good",
    "<b>the</b> good <bos>film<eos>",
    "<unused0>x[multimodal]",
    "é e\u0301 \x00 🙂👨‍👩‍👧",
]


def write_gemma(path):
    """Gemma's peculiarities: runs of spaces, newlines and HTML as user-defined tokens of score
    -1000; merges in the order of the ids."""
    runs = [mark * n for mark in ("\n", " ") for n in (2, 3, 4)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>"]
    tokens += ["[multimodal]", "\n", *runs]
    kinds = [3] * 6 + [4] * (2 + len(runs))
    tokens += ["<b>", "</b>"] + [f"<0x{b:02X}>" for b in range(256)]
    kinds += [4, 4] + [6] * 256
    scores = [-1000.0] * len(tokens)
    pieces = [*PIECES, "▁", *"abcdefghilmnoprstu'?,<>/"]
    random.Random(1).shuffle(pieces)
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(1)
    for name in ("context_length", "embedding_length", "feed_forward_length"):
        writer.add_uint32(f"gemma3.{name}", 4)
    writer.add_head_count(1)
    writer.add_key_length(4)
    writer.add_sliding_window(4)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + pieces)
    # The scores say the opposite of the order.
    writer.add_token_scores(scores + [float(i) for i in range(len(pieces))])
    writer.add_token_types(kinds + [1] * len(pieces))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens + pieces), 4), np.float32))
    finish(writer)


def test_gemma_equals_transformers(tmp_path):
    write_gemma(tmp_path / "m.gguf")
    ours = tokenizer_from_gguf(GGUFFile(tmp_path / "m.gguf"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert ours.get_vocab() == theirs.get_vocab()
    for text in GEMMA_TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ids[0] == 2
        assert ours.decode(ids) == theirs.decode(ids), text
    rng = random.Random(2)
    for _ in range(300):
        text = "".join(rng.choice("the good  \n\t<b>▁日") for _ in range(rng.randint(1, 40)))
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")
    spaces = ours("a   b", add_special_tokens=False)["input_ids"]
    assert ours.convert_ids_to_tokens(spaces) == ["a", "▁▁▁", "b"]


def test_byte_level_of_a_tiny_model_round_trips(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    add_tokenizer(writer)
    finish(writer)
    ours, source = tokenizer_from_gguf(GGUFFile(tmp_path / "m.gguf")), tiny_tokenizer()
    text = "I think it was a very good film,\nnot bad {at} all: 10/10!"
    assert ours(text)["input_ids"] == source(text)["input_ids"]
    assert ours.decode(ours(text)["input_ids"]) == text
    assert ours.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.model", "bert", "'bert' is not supported: expected 'gpt2' or 'llama'"),
        ("tokenizer.ggml.pre", "exotic", "pre-tokenizer 'exotic' is not supported"),
        ("tokenizer.ggml.eos_token_id", 10_000, "special token id 10000 outside"),
        ("tokenizer.ggml.tokens", [], "with a list of tokens"),
        ("tokenizer.ggml.tokens", ["a", "b", "c"], "unusable GGUF tokenizer"),
        ("tokenizer.ggml.merges", ["one"], "unusable GGUF tokenizer"),
        ("tokenizer.ggml.merges", ["no such"], "unusable GGUF tokenizer"),
    ],
)
def test_unusable_tokenizers_are_refused(key, value, message, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    add_tokenizer(writer)
    finish(writer)
    file = GGUFFile(tmp_path / "m.gguf")
    file.metadata[key] = value
    with pytest.raises(RewardJaxError, match=message) as caught:
        tokenizer_from_gguf(file)
    assert "m.gguf" in str(caught.value)
