"""The check of the readers' promise sees each way to break it, and the mutators do as they say."""

import json
import pickle
import time

import jaxtyping
import numpy as np
import pytest

from rewardjax.errors import MissingExtra, RewardJaxError
from tests.fuzz import mutate, promise
from tests.fuzz.mutate import alterations, mutations, plants
from tests.fuzz.promise import check, survey


@pytest.fixture
def path(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(100))
    return tmp_path / "x.bin"


def raises(error):
    def read():
        raise error

    return read


def only_in_tests():
    try:
        raise jaxtyping.TypeCheckError("hidden_size is a str")
    except TypeError as error:
        raise RewardJaxError("x.bin: a wrong type") from error


BROKEN = {
    "another error": (raises(ValueError("x.bin")), ValueError),
    "a subclass": (raises(MissingExtra("x.bin")), AssertionError),
    "not named": (raises(RewardJaxError("a file is broken")), AssertionError),
    "endless message": (raises(RewardJaxError("x.bin " + "x" * 5000)), AssertionError),
    "an array": (lambda: np.empty(100 << 20, np.uint8), AssertionError),
    "memory that is never there": (lambda: bytearray(4 << 30), MemoryError),
    "many objects": (lambda: list(range(1 << 19)) * 9, AssertionError),
    "only the tests' types": (only_in_tests, AssertionError),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_noticed(case, path):
    read, error = BROKEN[case]
    with pytest.raises(error):
        check(read, path)


def test_a_hang_is_noticed(path, monkeypatch):
    monkeypatch.setattr(promise, "SECONDS", 0.1)
    with pytest.raises(promise.Hang):
        check(lambda: time.sleep(3), path)


@pytest.mark.parametrize("name", ["pickle", "pickle in text", "npy of objects", "npz of objects"])
def test_a_pickle_that_is_loaded_is_noticed(name, path):
    path.write_bytes(plants(path.parent)[name])

    def read():
        if name.startswith("pickle"):
            pickle.loads(path.read_bytes())
        else:
            found = np.load(path, allow_pickle=True)
            found["weights"] if name.startswith("npz") else found

    with pytest.raises(AssertionError, match="a pickle was loaded"):
        check(read, path)


def test_a_promise_that_is_kept_passes(path):
    assert check(lambda: None, path) is None
    assert "x.bin" in str(check(raises(RewardJaxError("x.bin: empty")), path))


def test_a_failure_names_its_case(path):
    with pytest.raises(ValueError, match="no") as caught:
        survey(path, [("the case", b"")], raises(ValueError("no")))
    assert "the case" in caught.value.__notes__[0]


def test_mutations_are_many_different_and_the_same_again():
    data = json.dumps({"a": list(range(30)), "b": "text"}).encode()
    found = list(mutations(data, 500))
    assert found == list(mutations(data, 500))
    assert len({changed for _, changed in found}) > 400
    assert {name.split()[1].split("+")[0] for name, _ in found} == {
        mutator.__name__ for mutator in mutate.MUTATORS
    }
    tail = data[20:]
    assert all(changed.endswith(tail) for _, changed in mutations(data, 50, until=20))


def test_alterations_are_documents_with_one_other_value():
    document = {"a": {"b": [5, 7]}, "c": "y"}
    found = dict(alterations(document, 300))
    assert found == dict(alterations(document, 300))
    assert {name.split(" = ")[0] for name in found} == {"a", "a.b", "a.b.0", "a.b.1", "c"}
    assert all(json.loads(text) != document for text in found.values())
