"""The real default model against torch reading the same GGUF: logits, greedy text, tokenizer."""

import functools

import gguf
import numpy as np
import pytest
import torch
import transformers

import rewardjax as rj
from rewardjax.lm.load import resolve

torch.set_num_threads(1)
PROMPTS = [
    "The",
    "Once upon a time, there was",
    "I watched this film last night and",
    "def fibonacci(n):",
    "The capital of France is",
    "In 1969, the first",
    "My favourite recipe for bread needs",
    "She opened the door and saw",
    "The best thing about winter is",
    "Water boils at",
    "A short poem about the sea:\n",
    "Dear Sir or Madam,",
    "The stock market fell by 3.5% on Monday because",
    "To be or not",
    "Scientists have discovered that bees",
    "1, 2, 3, 4,",
    "The restaurant was terrible: the food",
    "Python is a programming language that lets you work quickly and",
    "If you want to be happy,",
    "The old man looked at the boy, smiled, put down his bag and slowly",
]
NEW = 20
TEXTS = [
    "Hello world",
    "It's 2023: I've paid $1,234.50 for 10 kg!",
    "  leading, trailing  and   inner spaces  ",
    "tabs\tand\nnewlines\n\n\nend",
    "naïve café — “quotes” … 日本語 русский 🙂",
    "<|im_start|>user\nHi<|im_end|>\n",
    "def f(x):\n    return x**2  # comment",
    "x1y22z333 4444",
    "",
]


@pytest.fixture(scope="module", autouse=True)
def one_reading():
    """transformers reads the file thrice and maps its names 400 times; here, once each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
        yield


@pytest.fixture(scope="module")
def reference():
    path = resolve("smollm2-135m")
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    return model.eval()


def encode(lm):
    ids = [lm.tokenizer(p)["input_ids"] for p in PROMPTS]
    lengths = np.array([len(i) for i in ids])
    tokens = np.zeros((len(ids), lengths.max()), np.int64)
    for row, i in enumerate(ids):
        tokens[row, : len(i)] = i
    return ids, tokens, lengths


def test_logits_equal_torch_reading_the_same_file(smollm2, reference):
    _, tokens, lengths = encode(smollm2)
    valid = np.arange(tokens.shape[1]) < lengths[:, None]
    got = np.asarray(smollm2.logits(tokens, lengths))[valid]
    with torch.no_grad():
        mask = torch.tensor(valid.astype(np.int64))
        want = reference(input_ids=torch.tensor(tokens), attention_mask=mask).logits
    want = want.numpy()[valid]
    assert np.abs(got - want).max() <= 2e-3
    best = np.sort(want, -1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2e-3
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(got.argmax(-1)[clear], want.argmax(-1)[clear])


def test_greedy_tokens_equal_generate(smollm2, reference):
    """20 ragged prompts, 20 tokens: right padding and own positions here, left padding there."""
    ids, _, lengths = encode(smollm2)
    got = [samples[0] for samples in rj.generate(smollm2, PROMPTS, top_k=1, max_new_tokens=NEW)]
    width = lengths.max()
    left = np.zeros((len(ids), width), np.int64)
    mask = np.zeros_like(left)
    for row, i in enumerate(ids):
        left[row, width - len(i) :], mask[row, width - len(i) :] = i, 1
    eos = smollm2.config.eos_token_ids[0]
    out = reference.generate(
        input_ids=torch.tensor(left),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    want = out.numpy()[:, width:]
    assert want.shape == (20, NEW)
    for generation, row in zip(got, want.tolist(), strict=True):
        end = row.index(eos) + 1 if eos in row else NEW
        assert generation.token_ids == row[:end], generation.prompt
        assert generation.finish_reason == ("eos" if eos in row else "length")
    assert len(np.unique(want)) > 100


def test_tokenizer_equals_transformers_conversion(smollm2):
    """Ours is built without torch; transformers' needs torch. Same ids, text and template."""
    path = resolve("smollm2-135m")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = smollm2.tokenizer
    assert ours.get_vocab() == theirs.get_vocab() == smollm2.vocab
    for text in [*TEXTS, *PROMPTS]:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids) == text
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template"):
        assert getattr(ours, name) == getattr(theirs, name), name
    chat = [{"role": "user", "content": "Hi"}]
    rendered = ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("<|im_start|>assistant\n")
    assert smollm2.config.eos_token_ids == (ours.eos_token_id,)
