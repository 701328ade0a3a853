"""Every published form of the data sets loads by name, or with flags alone."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from rewardjax import config as settings_file
from rewardjax.data import presets
from rewardjax.data.examples import from_memory
from rewardjax.data.files import read_examples
from rewardjax.data.settings import DEFAULTS, DataConfig, fill, settle
from rewardjax.errors import RewardJaxError

SEVEN = ["toxicity", "severe_toxicity", "obscene"]
SEVEN += ["identity_attack", "insult", "threat", "sexual_explicit"]
KAGGLE = "id,target,comment_text,severe_toxicity,obscene,identity_attack,insult,threat,"
VADER = '1_1\t-0.9\tno "picture\n1_2\t4\tgreat, really\n'
WORDS = 'text,is_toxic\nhello there,Not Toxic\n"you\nfool",Toxic\n'


def write(path, content):
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def labels(found):
    return found.labels.tolist()


# (preset, file's name, content, texts, labels)
LOCAL = {
    "civil": (
        "civil_comments",
        "c.csv",
        "text," + ",".join(reversed(SEVEN)) + "\nfine,0,0,0,0,0,0,0\nbad,.7,.6,.5,.4,.3,.2,.1\n",
        ["fine", "bad"],
        [[0] * 7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]],
    ),
    "unintended bias": (
        "jigsaw_unintended_bias",
        "train.csv.gz",
        KAGGLE + 'sexual_explicit,asian\n7,.9,"so, bad",.1,.2,.3,.4,.5,.6,\n',
        ["so, bad"],
        [[0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]],
    ),
    "toxic": (
        "jigsaw_toxic",
        "train.csv",
        "id,comment_text,toxic,severe_toxic,obscene,threat,insult,identity_hate\n"
        'c8,"two\nlines",1,0,0,1,0,0\n',
        ["two\nlines"],
        [[1, 0, 0, 0, 0, 1]],
    ),
    "amazon": (
        "amazon_polarity",
        "train.csv",
        '"2","A title","Loved it"\n"1","Another","Broke, twice"\n',
        ["Loved it", "Broke, twice"],
        [[1], [0]],
    ),
    "sst2": ("sst2", "s.tsv.gz", 'sentence\tlabel\na "good one \t1\n', ['a "good one '], [[1]]),
    "davidson": (
        "davidson",
        "d.csv.gz",
        ",count,hate_speech,offensive_language,neither,class,tweet\n0,3,0,0,3,2,hi all\n"
        "1,3,3,0,0,0,!! hate\n2,3,0,3,0,1,rude\n",
        ["hi all", "!! hate", "rude"],
        [[0], [1], [1]],
    ),
    "surge": ("surge_toxicity", "s.csv", WORDS, ["hello there", "you\nfool"], [[0], [1]]),
    "vader": (
        "vader_ratings",
        "v.txt.gz",
        VADER,
        ['no "picture', "great, really"],
        [[0.3875], [1]],
    ),
}


@pytest.mark.parametrize("case", LOCAL)
def test_local_files_by_name(tmp_path, case):
    name, file, content, texts, expected = LOCAL[case]
    found = read_examples(DataConfig(dataset=name, path=write(tmp_path / file, content)))
    assert found.texts == texts
    np.testing.assert_array_equal(found.labels, np.float32(expected))


def test_perspective_scores_that_are_null_are_left_out(tmp_path):
    rows = [
        {"prompt": {"text": "a"}, "continuation": {"text": " b", "toxicity": 0.75}},
        {"prompt": {"text": "c"}, "continuation": {"text": " d", "toxicity": None}},
        {"prompt": {"text": "e"}, "continuation": {"text": " f", "toxicity": 0.25}},
    ]
    path = write(tmp_path / "r.jsonl.gz", "".join(json.dumps(row) + "\n" for row in rows))
    found = read_examples(DataConfig(dataset="real_toxicity_prompts", path=path))
    assert found.texts == [" b", " f"]
    assert labels(found) == [[0.75], [0.25]]
    with pytest.raises(RewardJaxError, match=r"r\.jsonl\.gz:2: label .* is None"):
        read_examples(DataConfig(dataset="real_toxicity_prompts", path=path, drop_empty=False))


def test_the_same_forms_with_flags_alone(tmp_path):
    """A file without a header, of ratings, of words, of codes: no preset, from the command line."""

    def read(*argv):
        return read_examples(settings_file.parse(DataConfig, list(argv), prog="x", description=""))

    plain = write(tmp_path / "plain.csv", '"so, toxic",1\nfine,0\n')
    found = read("--path", plain, "--header", "False", "--text", "1", "--labels", "2")
    assert (found.texts, labels(found)) == (["so, toxic", "fine"], [[1], [0]])
    ratings = ["--text", "3", "--labels", "2", "--label-min", "-4", "--label-max", "4"]
    vader = write(tmp_path / "v.txt.gz", VADER)
    np.testing.assert_array_equal(
        read("--path", vader, "--header", "False", *ratings).labels, np.float32([[0.3875], [1]])
    )
    words = write(tmp_path / "w.csv", WORDS)
    found = read("--path", words, "--labels", "is_toxic", "--label-map", "Toxic=1", "Not Toxic=0")
    assert labels(found) == [[0], [1]]
    codes = write(tmp_path / "c.jsonl", '{"text": "a", "class": 2}\n{"text": "b", "class": 0}\n')
    found = read("--path", codes, "--labels", "class", "--label-map", "0=1", "1=1", "2=0")
    assert labels(found) == [[0], [1]]
    flags = write(tmp_path / "f.jsonl", '{"text": "a", "label": true}\n')
    assert labels(read("--path", flags, "--label-map", "true=1", "false=0")) == [[1]]


def test_one_file_of_two_kinds_of_rows(tmp_path):
    """ParaDetox: the toxic column is toxic, the paraphrases are not, and many cells are empty."""
    path = write(
        tmp_path / "p.tsv.gz", 'toxic\tneutral1\tneutral2\nbad !\tgood !\t\nworse\tfine\t"ok\n'
    )
    read = lambda **changes: read_examples(DataConfig(**{"path": path, **changes}))  # noqa: E731
    toxic = read(text="toxic", constant_label=1.0)
    assert (toxic.texts, labels(toxic)) == (["bad !", "worse"], [[1], [1]])
    second = read(text="neutral2", constant_label=0.0, drop_empty=True)
    assert (second.texts, labels(second)) == (['"ok'], [[0]])
    assert second.ids == [f"{path}:3"]
    assert not second.skipped
    blank = write(tmp_path / "b.tsv", "toxic\tneutral\nbad\t\nworse\t \n")
    with pytest.raises(RewardJaxError, match=r"holds no rows but 2 with an empty text or label"):
        read(path=blank, text="neutral", constant_label=0.0, drop_empty=True)
    with pytest.raises(RewardJaxError, match=r"p\.tsv\.gz:2: text 'neutral2' is empty"):
        read(text="neutral2", constant_label=0.0)
    with pytest.raises(RewardJaxError, match="column 'neutral3' is missing"):
        read(text="neutral3", constant_label=0.0)


def test_a_word_that_the_map_does_not_name(tmp_path):
    path = write(tmp_path / "w.csv", WORDS.replace("Not Toxic", "Nice"))
    expected = r"w\.csv:2: label 'is_toxic' is 'Nice'; expected one of 'Toxic', 'Not Toxic'"
    with pytest.raises(RewardJaxError, match=expected):
        read_examples(DataConfig(dataset="surge_toxicity", path=path))


def test_what_the_user_sets_wins_even_where_it_is_the_default(tmp_path):
    path = write(tmp_path / "mine.csv", "text,stars\ngreat,5\n")
    mine = DataConfig(
        dataset="amazon_polarity", path=path, header=True, text="text", labels=("stars",)
    )
    found = read_examples(dataclasses.replace(mine, label_max=5.0))
    assert labels(found) == [[1]]
    assert fill(mine).label_min == 1.0  # what is not set stays the preset's


def test_flags_over_yaml_over_preset(tmp_path):
    yaml = tmp_path / "c.yaml"
    yaml.write_text("dataset: amazon_polarity\ntext: body\n")
    read = lambda *argv: fill(  # noqa: E731
        settings_file.parse(
            DataConfig, [str(yaml), *argv], prog="x", description="", yaml_positional=True
        )
    )
    assert (read().text, read().labels) == ("body", ("label",))
    assert read("--text", "title").text == "title"
    other = read("--dataset", "sst2")
    assert (other.text, other.labels) == ("body", ("label",))


def test_filled_settings_are_whole_and_stay_as_they_are():
    assert fill(DataConfig()) == DataConfig(**DEFAULTS)
    for name in presets.PRESETS:
        once = fill(DataConfig(dataset=name, path="x"))
        assert fill(once) == once
        assert set(presets.PRESETS[name].columns) | set(presets.PRESETS[name].local) <= set(
            DEFAULTS
        )


def test_the_hub_is_asked_with_the_preset_s_columns(monkeypatch):
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return [{"text": "a", **{name: i / 7 for i, name in enumerate(SEVEN)}}]

    monkeypatch.setattr("datasets.load_dataset", load)
    found = read_examples(DataConfig(dataset="civil_comments", hub_split="validation"))
    assert asked[0][0] == ("google/civil_comments", None)
    assert asked[0][1]["split"] == "validation"
    np.testing.assert_array_equal(found.labels, np.float32([np.arange(7) / 7]))
    assert settle(DataConfig(dataset="sst2", hub="me/sst2")).hub == "me/sst2"


def test_a_set_that_is_only_a_file():
    with pytest.raises(
        RewardJaxError, match=r"cannot be read from the hub; set data\.path to .*Kag"
    ):
        read_examples(DataConfig(dataset="jigsaw_unintended_bias"))


def test_texts_in_memory_take_the_number_of_labels_from_the_preset():
    found = from_memory(["a"], [[0.5] * 7], DataConfig(dataset="jigsaw_unintended_bias"))
    assert found.labels.shape == (1, 7)
