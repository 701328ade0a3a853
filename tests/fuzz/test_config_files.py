"""YAML configs, whatever is in them: settings, or one line that names the file."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardjax.config import field_types, from_dict, load_yaml, to_yaml
from rewardjax.train.settings import TrainConfig
from tests.fuzz.mutate import DEEP, alterations, mutations, plants
from tests.fuzz.promise import check, survey
from tests.soak import proved, times

PROMISE = "a damaged config is read or refused in one line"
GOOD = b"""# a comment
run_dir: runs/a
seed: 3
data: &data
  path: x.jsonl   # another
  labels: [a, "b"]
  label_max: 1e-1
optim: {learning_rate: 0.001, steps: 10, eps: 1e-8}
reward_model:
  rank: 4
  baseline: true
  backbone: own
"""


def read(path):
    return from_dict(TrainConfig, load_yaml(path), source=str(path))


def test_mutated_configs(tmp_path, record_property):
    path = tmp_path / "c.yaml"
    path.write_bytes(GOOD)
    assert read(path).data.labels == ("a", "b")
    cases = [*mutations(GOOD, times(60, 1500)), *plants(tmp_path).items()]
    assert survey(path, cases, lambda: read(path)) > len(cases) // 2
    proved(record_property, PROMISE, len(cases))


def test_wrong_values(tmp_path, record_property):
    """YAML reads JSON: every setting in turn of every wrong type."""
    path = tmp_path / "c.yaml"
    cases = list(alterations(yaml.safe_load(GOOD), times(25, 800)))
    assert survey(path, cases, lambda: read(path)) > len(cases) // 2
    proved(record_property, PROMISE, len(cases))


NAMES = [name.split(".") for name in field_types(TrainConfig)]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates()
VALUES = st.recursive(
    SCALARS | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)


def nested(pairs):
    values = {}
    for names, value in pairs:
        inner = values
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                break
        else:
            inner[names[-1]] = value
    return values


DOCUMENTS = (
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=4).map(nested)
    | st.dictionaries(SCALARS, VALUES, max_size=3)
    | VALUES
)


def test_any_values(tmp_path, record_property):
    path, count = tmp_path / "c.yaml", times(20, 500)

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(DOCUMENTS, st.booleans())
    def holds(document, flow):
        text = yaml.safe_dump(document, allow_unicode=True, default_flow_style=flow)
        path.write_text(text, encoding="utf-8")
        check(lambda: to_yaml(read(path)), path)

    holds()
    proved(record_property, PROMISE, count)


def test_any_text(tmp_path, record_property):
    path, count = tmp_path / "c.yaml", times(20, 500)
    pieces = st.sampled_from([*"abc&*!?|>%@:-#'\"[]{},\n\t ~0", "<<", "seed: ", "\n  ", "!!"])

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.lists(pieces, max_size=40).map("".join))
    def holds(text):
        path.write_text(text, encoding="utf-8")
        check(lambda: read(path), path)

    holds()
    proved(record_property, PROMISE, count)


def repeated(first, form, count, times_each):
    """Anchors a0, a1, …, each of which names the one before so many times."""
    lines = [f"a0: &a0 {first}"]
    for i in range(1, count):
        lines.append(f"a{i}: &a{i} {form(', '.join([f'*a{i - 1}'] * times_each))}")
    return "\n".join(lines)


CORPUS = {
    "billion laughs": (repeated("[x, x]", "[{}]".format, 12, 9), "more than 5,000 values"),
    "laughs of keys": (repeated("{x: 1}", "{{<<: [{}]}}".format, 12, 9), "more than 5,000 values"),
    "a chain of aliases": (repeated("[x]", "[{}]".format, 3000, 1), "50 levels"),
    "a chain of keys": (repeated("{x: 1}", "{{x: {}}}".format, 3000, 1), "50 levels"),
    "small laughs": (repeated("x", "[{}]".format, 6, 4) + "\nseed: *a5", "unknown key 'a0'"),
    "holds itself": ("data: &a {labels: [b, *a]}", "data.labels: cannot use the value, which hol"),
    "each holds the other": ("a: &a [&b [*a, &c [*a, *b]], *c]", "holds itself"),
    "merges itself": ("data: &a {<<: *a}", "holds itself"),
    "nested lists": ("seed: " + "[" * 100_000, "more than 50 levels deep"),
    "nested maps": ("{a: " * 60_000, "more than 50 levels deep"),
    "nested dashes": ("- " * 100_000 + "a", "more than 50 levels deep"),
    "nested blocks": ("".join(" " * i + "a:\n" for i in range(600)), "more than 50 levels deep"),
    "many values": ("data: {labels: [" + "a, " * 6_000 + "]}", "more than 5,000 values"),
    "not a config": ("a" * 300_000, "300,000 bytes; expected YAML of at most 262,144"),
    "empty !!int": ("seed: !!int ''", "does not fit its tag"),
    "empty !!float": ("seed: !!float ''", "does not fit its tag"),
    "odd !!bool": ("seed: !!bool maybe", "does not fit its tag"),
    "odd !!timestamp": ("seed: !!timestamp x", "does not fit its tag"),
    "!!map of a word": ("data: !!map ab", "expected a mapping node"),
    "!!map of a list": ("data: !!map [a, b]", "expected a mapping node"),
    "hexadecimal": ("seed: 0x" + "f" * 5000, "a number of 5002 characters"),
    "octal": ("seed: 0" + "7" * 9000, "a number of 9001 characters"),
    "base 60": ("seed: 1" + ":59" * 6_000, "a number of 18001 characters"),
    "base 60 float": ("seed: 1" + ":59" * 400 + ".5", "a number of 1203 characters"),
    "a time that cannot be": ("seed: 2020-01-01T00:00:00+99:99", "not usable YAML"),
    "a key that is a list": ("? !!omap [a: 1]\n: 1", "a key is a list"),
    "a long key": ("? " + "a" * 20_000 + "\n: 1", "unknown key 'aaa"),
    "a long key twice": (f"{'a' * 999}: 1\n{'a' * 999}: 2", "duplicate key 'aaa"),
    "a long value": ("data: " + "x" * 20_000, "expected keys and values, got 'xxx"),
    "a list for a section": ("data: [" + "x, " * 999 + "]", "expected keys and values, got ['x'"),
    "extends itself": ("extends: c.yaml", "which extends another file"),
    "extends a loop": ("extends: loop.yaml", "which extends another file"),
    "extends a folder": ("extends: .", "is a directory"),
    "extends nothing": ("extends: ''", "is a directory"),
    "extends a list": ("extends: [" + "a, " * 999 + "]", "expected one file name"),
    "extends a long name": ("extends: " + "a" * 300, "File name too long"),
    "extends an endless name": ("extends: " + "a/" * 9000, "expected one file name"),
    "extends no name": ('extends: "a\\0b"', "does not exist"),
    "extends half a pair": ('extends: "\\ud800"', "does not exist"),
    "extends what is broken": ("extends: broken.yaml", "c.yaml: extends: "),
    "a device": ("extends: /dev/zero", "does not exist"),
    "deep in a list": ("data: {labels: " + DEEP + "}", "more than 50 levels deep"),
}


@pytest.mark.parametrize("case", CORPUS)
def test_known_bad_configs(case, tmp_path, record_property):
    text, expected = CORPUS[case]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    (tmp_path / "loop.yaml").write_text("extends: c.yaml")
    (tmp_path / "broken.yaml").write_text("seed: [")
    assert expected in str(check(lambda: read(path), path))
    proved(record_property, PROMISE, 1)


@pytest.mark.parametrize(
    "tag",
    [
        "object/apply:builtins.open",
        "object/new:builtins.open",
        "name:os.system",
        "tuple",
        "module:os",
    ],
)
def test_python_tags_run_nothing(tag, tmp_path, record_property):
    path = tmp_path / "c.yaml"
    path.write_text(f"seed: !!python/{tag} [{json.dumps(str(tmp_path / 'marker'))}, w]")
    assert "could not determine a constructor" in str(check(lambda: read(path), path))
    proved(record_property, PROMISE, 1)


def test_aliases_that_stay_small_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: {labels: &names [a, b], label_map: *names}\nrun_dir: &x y\nlm: *x")
    config = read(path)
    assert config.data.labels == config.data.label_map == ("a", "b")
    assert (config.run_dir, config.lm) == ("y", "y")
