import json

import numpy as np
import pytest

from rewardjax.data import batches
from rewardjax.data.examples import DataConfig, from_memory
from rewardjax.errors import RewardJaxError

LENGTHS = np.random.default_rng(0).integers(1, 70, 101)
TOKENS = [np.arange(100, 100 + n, dtype=np.int32) for n in LENGTHS]
LABELS = (np.arange(101, dtype=np.float32) / 101)[:, None]
ROWS = np.arange(101)[np.arange(101) % 10 != 3]


def start(seed=0, batch_size=8):
    return batches.training_batches(ROWS, TOKENS, LABELS, batch_size=batch_size, seed=seed)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_epoch_visits_each_text_once_in_another_order():
    iterator, count = start()
    orders = []
    for _ in range(3):
        ids = np.concatenate([next(iterator).ids for _ in range(count)])
        orders.append(ids[ids >= 0].tolist())
        assert sorted(orders[-1]) == ROWS.tolist()
    assert orders[0] != orders[1] != orders[2]


def test_batches_have_static_shapes_and_right_contents():
    iterator, count = start()
    widths = set()
    for _ in range(count):
        batch = next(iterator)
        widths.add(batch.tokens.shape[1])
        assert batch.tokens.shape[0] == len(batch.lengths) == len(batch.labels) == 8
        for row, i in enumerate(batch.ids):
            if i < 0:
                assert batch.lengths[row] == 0
                assert not batch.tokens[row].any()
                continue
            length = batch.lengths[row]
            np.testing.assert_array_equal(batch.tokens[row, :length], TOKENS[i])
            assert not batch.tokens[row, length:].any()
            assert batch.labels[row] == LABELS[i]
        assert not batch.prompt_lengths.any()
        assert batch.group.tolist() == list(range(8))
    assert widths == set(batches.widths_for(LENGTHS[ROWS].tolist(), 8))
    assert len(widths) <= 8


def test_seed_decides():
    one, two, other = start(seed=1)[0], start(seed=1)[0], start(seed=2)[0]
    first = [next(one) for _ in range(20)]
    assert all(same(batch, next(two)) for batch in first)
    assert not all(same(batch, next(other)) for batch in first)


@pytest.mark.parametrize("stop", [1, 5, 14, 17, 31])
def test_resumed_in_the_middle_is_as_uninterrupted(stop):
    iterator, _ = start(seed=3)
    for _ in range(stop):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    resumed, _ = start(seed=3)
    resumed.set_state(state)
    for _ in range(25):
        assert same(next(iterator), next(resumed))


def test_widths_need_a_full_batch():
    # 20 texts of 5 tokens, 3 of 20, 9 of 40: the three join the forties.
    lengths = [5] * 20 + [20] * 3 + [40] * 9
    assert batches.widths_for(lengths, 8) == [8, 48]
    assert batches.widths_for([5], 8) == [8]
    assert batches.widths_for([9000, 3], 1) == [8, 9000]
    texts = [np.zeros(n, np.int32) for n in (67, 3)]  # of one width: no more than the widest asks
    assert list(batches.by_width(np.arange(2), texts, 1, by_length=False)) == [72]


def test_ordered_batches_hold_each_row_once():
    found = batches.ordered_batches(ROWS, TOKENS, LABELS, batch_size=8)
    ids = np.concatenate([batch.ids for batch in found])
    assert sorted(ids[ids >= 0].tolist()) == ROWS.tolist()
    assert {b.tokens.shape[1] for b in found} == set(batches.widths_for(LENGTHS[ROWS].tolist(), 8))


def examples(texts):
    return from_memory(texts, np.zeros(len(texts)), DataConfig())


def test_tokenize_adds_nothing(tiny_lm):
    texts = ["a good film", "it was bad\n"]
    found, tokens = batches.tokenize(examples(texts), tiny_lm.tokenizer, context=64)
    assert found.texts == texts
    for text, ids in zip(texts, tokens, strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == tiny_lm.tokenizer(text)["input_ids"]
        assert tiny_lm.tokenizer.decode(ids) == text


def test_text_longer_than_the_context(tiny_lm):
    texts = ["short", "x" * 20, "also short"]
    with pytest.raises(RewardJaxError, match=r"texts\[1\]: text of 20 tokens, longer than .* 16"):
        batches.tokenize(examples(texts), tiny_lm.tokenizer, context=16)
    found, tokens = batches.tokenize(
        examples(texts), tiny_lm.tokenizer, context=16, on_bad_row="skip"
    )
    assert found.texts == ["short", "also short"]
    assert "texts[1]" in found.skipped[0]
    found, tokens = batches.tokenize(examples(texts), tiny_lm.tokenizer, context=16, max_length=12)
    assert [len(ids) for ids in tokens] == [5, 12, 10]
    with pytest.raises(RewardJaxError, match=r"data\.max_length is 20; expected at most"):
        batches.tokenize(examples(texts), tiny_lm.tokenizer, context=16, max_length=20)


def test_texts_too_short_to_score_are_counted(tiny_lm):
    found, tokens = batches.tokenize(
        examples(["x", "xy"]), tiny_lm.tokenizer, context=16, shortest=2
    )
    assert found.texts == ["xy"]
    assert len(tokens) == 1
    assert found.skipped == ("texts[0]: 1 tokens, too few to score",)
    with pytest.raises(RewardJaxError, match="no text is left"):
        batches.tokenize(examples(["x"]), tiny_lm.tokenizer, context=16, shortest=2)
