import numpy as np
import pytest

from rewardjax.data import examples
from rewardjax.data.examples import DataConfig
from rewardjax.errors import RewardJaxError


def test_labels_are_scaled_to_the_unit_interval():
    config = DataConfig(labels=("a", "b"), label_min=-4.0, label_max=4.0)
    found = examples.from_memory(["x", "y"], [[-4, 0], [2, 4]], config)
    np.testing.assert_array_equal(found.labels, np.float32([[0, 0.5], [0.75, 1]]))
    assert found.ids == ["texts[0]", "texts[1]"]


@pytest.mark.parametrize(
    ("texts", "labels", "expected"),
    [
        (["a", "b"], [0.5], r"labels have the shape \(1,\); expected \[2\] or \[2, 1\]"),
        (["a", ""], [0, 1], r"texts\[1\]: text 'text' is empty"),
        (["a", None], [0, 1], r"texts\[1\]: text 'text' is None; expected text"),
        (["a", "b"], [0, 1.5], r"texts\[1\]: label 'label' is 1.5; expected 0 to 1"),
        (["a", "b"], [float("nan"), 1], r"texts\[0\]: label 'label' is not a number"),
        (["a", "b\ud800"], [0, 1], r"texts\[1\]: .* surrogate"),
        ([], [], "texts holds no rows"),
    ],
)
def test_bad_texts_in_memory(texts, labels, expected):
    with pytest.raises(RewardJaxError, match=expected):
        examples.from_memory(texts, labels, DataConfig())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": "sst3"}, "data.dataset is 'sst3'; expected one of .*did you mean 'sst2'"),
        ({"label_map": ("Toxic",)}, "data.label_map holds 'Toxic'; expected VALUE=NUMBER"),
        ({"label_map": ("a=1", "a=0")}, "'a=0'; expected VALUE=NUMBER, each value once"),
        ({"label_map": ("a=x",)}, "'a=x'; expected VALUE=NUMBER"),
        ({"label_map": ("a=2",)}, "makes 'a' 2; expected 0 to 1"),
        ({"constant_label": -1.0}, "data.constant_label is -1.0; expected 0 to 1"),
        ({"constant_label": 1.0, "label_map": ("a=1",)}, "exclude each other"),
        ({"label_min": 1.0}, "label_min < label_max"),
        ({"label_max": float("nan")}, "label_min < label_max"),
        ({"held_out": 1.0}, "0 <= held_out < 1"),
        ({"max_length": 0}, "data.max_length is 0"),
        ({"max_examples": -1}, "data.max_examples is -1"),
    ],
)
def test_bad_settings(changes, expected):
    with pytest.raises(RewardJaxError, match=expected):
        examples.check(DataConfig(**changes))


def test_split_depends_on_the_seed_alone():
    texts = [f"text {i}" for i in range(100)]
    train, held = examples.split(texts, 0.2, 0)
    assert sorted([*train, *held]) == list(range(100))
    assert len(held) == 20
    again = examples.split(texts, 0.2, 0)
    np.testing.assert_array_equal(held, again[1])
    assert set(held) != set(examples.split(texts, 0.2, 1)[1])


def test_equal_texts_stay_together():
    texts = [f"text {i % 10}" for i in range(60)]
    train, held = examples.split(texts, 0.3, 3)
    sides = [{texts[i] for i in rows} for rows in (train, held)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 3
    assert len(held) == 18


def test_split_without_held_out_and_with_nothing_left():
    assert len(examples.split(["a", "b"], 0.0, 0)[1]) == 0
    with pytest.raises(RewardJaxError, match="leave none to train on"):
        examples.split(["a", "a"], 0.1, 0)


def test_subset_is_drawn_by_the_seed_and_keeps_the_order():
    found = examples.from_memory([str(i) for i in range(50)], np.zeros(50), DataConfig())
    drawn = examples.subset(found, 10, 0)
    numbers = [int(text) for text in drawn.texts]
    assert numbers == sorted(numbers)
    assert drawn.ids == [f"texts[{i}]" for i in numbers]
    assert examples.subset(found, 10, 0).texts == drawn.texts
    assert examples.subset(found, 10, 1).texts != drawn.texts
    assert examples.subset(found, None, 0) is found
