"""Several files as one set of texts with two classes."""

import hashlib

import numpy as np
import pytest

from rewardjax.data import sources
from rewardjax.data.sources import SourceConfig, group, parse_sources, read_source
from rewardjax.errors import RewardJaxError

RATED = "1\t-3\tawful\n2\t-0.4\tmeh\n3\t0\tfine\n4\t0.5\tgood\n5\t4\tgreat\n"
PARADETOX = "toxic\tneutral1\tneutral2\nbad !\tgood !\t\nbroken\nworse\tfine\tok\n"


@pytest.fixture
def rated(tmp_path):
    path = tmp_path / "r.txt"
    path.write_text(RATED)
    return lambda **changes: SourceConfig(dataset="vader_ratings", path=str(path), **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"awful": 0, "meh": 0, "fine": 1, "good": 1, "great": 1}),
        ({"margin": 0.5}, {"awful": 0, "good": 1, "great": 1}),
        ({"margin": 0.51}, {"awful": 0, "great": 1}),
        ({"threshold": 0.5}, {"awful": 0, "meh": 0, "fine": 0, "good": 1, "great": 1}),
        ({"threshold": -2.0, "margin": 1.0}, {"awful": 0} | dict.fromkeys(
            ["meh", "fine", "good", "great"], 1)),
    ],
)  # fmt: skip
def test_ratings_become_two_classes(rated, changes, expected):
    found = read_source(rated(**changes), 0)
    assert dict(zip(found.texts, found.labels.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    "changes", [{"threshold": 5.0}, {"margin": -1.0}, {"margin": 8.0}, {"margin": float("nan")}]
)
def test_bad_thresholds(rated, changes):
    with pytest.raises(RewardJaxError, match="a threshold of -4 to 4 and a margin of 0 to less"):
        read_source(rated(**changes), 0)


def test_every_cell_of_several_columns_is_a_text(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text(PARADETOX)
    source = SourceConfig(
        path=str(path), texts=("neutral1", "neutral2"), constant_label=0.0, drop_empty=True,
        on_bad_row="skip",
    )  # fmt: skip
    found = read_source(source, 0)
    assert found.texts == ["good !", "fine", "ok"]
    assert not found.labels.any()
    assert found.ids == [f"{path}:2", f"{path}:4", f"{path}:4"]
    assert found.skipped == 1  # one bad line, though two columns of it were asked for
    about = sources.describe("neutral", source, found)
    assert about == {
        "name": "neutral",
        "file": "p.tsv",
        "sha256": hashlib.sha256(PARADETOX.encode()).hexdigest(),
        "texts": 3,
        "positive": 0,
        "skipped": 1,
    }


def test_more_than_one_label(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,a,b\nx,1,0\n")
    with pytest.raises(RewardJaxError, match="2 label columns; expected one"):
        read_source(SourceConfig(path=str(path), labels=("a", "b")), 0)


def test_texts_of_a_line_and_equal_texts_belong_together():
    texts = ["a", "b", "c", "a", "d", "e"]
    ids = ["1", "1", "2", "3", "3", "4"]
    found = group(texts, ids)  # a-b by line 1, a-d by line 3, a-a by text
    assert found[0] == found[1] == found[3] == found[4]
    assert len(np.unique(found)) == 3
    # A text that is spelt like a line's name is not that line.
    assert len(np.unique(group(["x", "y"], ["y", "z"]))) == 2


def test_files_fill_in_the_paths_of_a_config():
    values = {"one": {"text": "t"}, "two": {"file": "both"}, "three": {"file": "both", "path": "p"}}
    found = parse_sources(values, ["both=B=1.csv"], "sources")
    assert [source.path for source in found.values()] == [None, "B=1.csv", "B=1.csv"]
    assert found["one"].text == "t"
    sources.check_files(["both=x", "one=y"], found)


@pytest.mark.parametrize(
    ("values", "files", "expected"),
    [
        ({"a": {"txt": "t"}}, [], r"sources\.a: unknown key 'txt'; did you mean 'text'"),
        ({"a": {"margin": "wide"}}, [], r"sources\.a: margin: got 'wide', expected a valid number"),
        ({"a": {"held_out": 0.5}}, [], r"sources\.a: held_out has no meaning"),
        ({"a": {}}, ["a"], "--files holds 'a'; expected NAME=PATH"),
        ({"a": {}}, ["a=x", "a=y"], "--files holds 'a=y'; expected NAME=PATH, each name once"),
    ],
)
def test_bad_sources(values, files, expected):
    with pytest.raises(RewardJaxError, match=expected):
        parse_sources(values, files, "sources")


def test_a_file_for_nobody():
    found = parse_sources({"amazon": {}, "tweets": {}}, [], "sources")
    with pytest.raises(RewardJaxError, match=r"--files names 'tweet'; .*did you mean 'tweets'"):
        sources.check_files(["tweet=x"], found)
