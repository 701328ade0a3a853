import pytest

from rewardjax.errors import MissingExtra, RewardJaxError, nearest, require


def test_message_is_one_line():
    assert str(RewardJaxError("got\n  this\tand\n\nthat ")) == "got this and that"


def test_require_names_the_pip_command():
    with pytest.raises(MissingExtra, match=r"pip install 'rewardjax\[eval\]'"):
        require("no_such_module_anywhere", "eval")


def test_require_imports():
    assert require("json", "eval").loads("1") == 1


def test_nearest():
    assert nearest("learning_rte", ["batch", "learning_rate"]) == "; did you mean 'learning_rate'?"
    assert nearest("xyz", ["batch", "learning_rate"]) == ""
