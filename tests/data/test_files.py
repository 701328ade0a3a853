import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewardjax.data.examples import DataConfig
from rewardjax.data.files import read_examples
from rewardjax.errors import RewardJaxError

ROWS = [("a good film", 1.0), ('she said "no", twice', 0.0), ("naïve\t日本", 0.25)]


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return str(path)


def jsonl(rows=ROWS):
    return "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows)


def as_csv(rows=ROWS):
    return "text,label\n" + "".join(f'"{t.replace(chr(34), chr(34) * 2)}",{y}\n' for t, y in rows)


def as_tsv(rows=ROWS):
    return "text\tlabel\n" + "".join(f"{t}\t{y}\n".replace("\t日", " 日") for t, y in rows)


def read(path, **changes):
    return read_examples(DataConfig(path=path, **changes))


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize(("suffix", "make"), [("jsonl", jsonl), ("csv", as_csv), ("tsv", as_tsv)])
def test_text_formats(tmp_path, suffix, make, zipped):
    path = write(tmp_path / f"d.{suffix}{zipped}", make())
    found = read(path)
    space = " " if suffix == "tsv" else "\t"
    assert found.texts == [t.replace("\t", space) for t, _ in ROWS]
    np.testing.assert_array_equal(found.labels, np.float32([[1], [0], [0.25]]))
    first = 1 if suffix == "jsonl" else 2
    assert found.ids == [f"{path}:{first + i}" for i in range(3)]


def test_parquet(tmp_path):
    table = pa.table({"text": [t for t, _ in ROWS], "label": [y for _, y in ROWS]})
    pq.write_table(table, tmp_path / "d.parquet")
    found = read(str(tmp_path / "d.parquet"))
    assert found.texts == [t for t, _ in ROWS]
    assert found.ids[2].endswith("d.parquet: row 3")


def test_no_header_names_columns_by_number(tmp_path):
    path = write(tmp_path / "d.txt", '7\t-3.5\tawful\n8\t4\tgreat "stuff\n')
    columns = {"text": "3", "labels": ("2",)}
    found = read(path, header=False, label_min=-4.0, label_max=4.0, **columns)
    assert found.texts == ["awful", 'great "stuff']
    np.testing.assert_array_equal(found.labels, np.float32([[0.0625], [1.0]]))


def test_nested_json_columns_blank_lines_and_byte_order_mark(tmp_path):
    lines = "\ufeff" + '{"prompt": {"text": "hi", "n": 3}}\n\n{"prompt": {"text": "yo", "n": 0}}\n'
    path = write(tmp_path / "d.jsonl", lines)
    found = read(path, text="prompt.text", labels=("prompt.n",), label_max=3.0)
    assert found.texts == ["hi", "yo"]
    assert [i.rsplit(":", 1)[1] for i in found.ids] == ["1", "3"]


def test_csv_field_over_several_lines_counts_lines(tmp_path):
    path = write(tmp_path / "d.csv", 'text,label\n"one\ntwo",1\nthree,oops\n')
    with pytest.raises(RewardJaxError, match=r"d\.csv:4: label 'label' is 'oops'; expected a num"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.jsonl", "", r"d.jsonl' is empty"),
        ("d.jsonl", "\n\n", "holds no rows"),
        ("d.csv", "text,label\n", "holds no rows"),
        ("d.jsonl", b"\x00\x01\x02", r"d.jsonl:1: binary data"),
        ("d.jsonl", jsonl().encode() + b"\xff\xfe\n", r"d.jsonl:4: byte 1 is not UTF-8"),
        ("d.csv", as_csv().encode("utf-16"), "not UTF-8|binary"),
        ("d.jsonl", jsonl() + '{"text": "a", "lab\n', r"d.jsonl:4: not JSON .*on_bad_row"),
        ("d.jsonl", jsonl() + "[1]\n", r"d.jsonl:4: a JSON list; expected an object"),
        ("d.jsonl", '{"text": "a"}\n', r"d.jsonl:1: column 'label' is missing; the row has 'text'"),
        ("d.jsonl", jsonl([("a", 1.5)]), r"d.jsonl:1: label 'label' is 1.5; expected 0 to 1"),
        ("d.jsonl", '{"text": "a", "label": NaN}\n', r"d.jsonl:1: label 'label' is not a number"),
        ("d.jsonl", '{"text": "a", "label": null}\n', r"d.jsonl:1: label 'label' is None"),
        ("d.jsonl", '{"text": 3, "label": 1}\n', r"d.jsonl:1: text 'text' is 3; expected text"),
        ("d.jsonl", jsonl([("  ", 1.0)]), r"d.jsonl:1: text 'text' is empty"),
        ("d.csv", "text,lable\na,1\n", r"d.csv:1: column 'label' is missing.*did you mean 'lable'"),
        ("d.csv", "text,label\na,1,2\n", r"d.csv:2: 3 columns, expected 2"),
        ("d.csv", 'text,label\n"a,1\n', r"d.csv:2: not valid CSV"),
        ("d.tsv", "text\tlabel\na\n", r"d.tsv:2: 1 columns, expected 2"),
        ("d.tsv", "text\tlabel\na\t-1\n", r"d.tsv:2: label 'label' is -1; expected 0 to 1"),
        ("d.data", "x", "cannot tell the format"),
        ("d.parquet", "not parquet", "no whole Parquet file"),
    ],
)
def test_bad_files(tmp_path, name, content, expected):
    with pytest.raises(RewardJaxError, match=expected) as error:
        read(write(tmp_path / name, content))
    assert "\n" not in str(error.value)


def test_truncated_gzip(tmp_path):
    data = gzip.compress(jsonl(ROWS * 500).encode())
    (tmp_path / "d.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(RewardJaxError, match=r"d\.jsonl\.gz:\d+: damaged gzip file"):
        read(str(tmp_path / "d.jsonl.gz"))
    (tmp_path / "e.jsonl.gz").write_bytes(b"plain text")
    with pytest.raises(RewardJaxError, match=r"e\.jsonl\.gz:1: damaged gzip file"):
        read(str(tmp_path / "e.jsonl.gz"))


def test_skipping_bad_rows_counts_them(tmp_path):
    lines = jsonl()[:-1] + '\n{"text": "a", "lab\n' + jsonl([("ok", 0.5), ("bad", 7.0)])
    found = read(write(tmp_path / "d.jsonl", lines), on_bad_row="skip")
    assert len(found) == 4
    assert found.ids[3].endswith(":5")
    assert [reason.split(": ")[0].rsplit(":", 1)[1] for reason in found.skipped] == ["4", "6"]
    with pytest.raises(RewardJaxError, match=r"holds no rows; all 1 rows are bad, first: .*:1: "):
        read(write(tmp_path / "e.jsonl", jsonl([("bad", 7.0)])), on_bad_row="skip")


def test_missing_path_is_never_tried_as_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: pytest.fail("asked the hub"))
    write(tmp_path / "train.jsonl", jsonl())
    with pytest.raises(
        RewardJaxError, match=r"does not exist; .*use data.hub.; did you mean 'train.jsonl'"
    ):
        read(str(tmp_path / "trian.jsonl"))
    with pytest.raises(RewardJaxError, match="'stanfordnlp/sst2' does not exist"):
        read("stanfordnlp/sst2")
    with pytest.raises(RewardJaxError, match="is a folder"):
        read(str(tmp_path))
    for hub in (str(tmp_path), "./train.jsonl", "a/b/c", "../x"):
        with pytest.raises(RewardJaxError, match=r"use data\.path"):
            read_examples(DataConfig(hub=hub))


def test_hub_dataset(monkeypatch):
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return [{"text": t, "label": y} for t, y in ROWS]

    monkeypatch.setattr("datasets.load_dataset", load)
    config = DataConfig(hub="owner/name", hub_config="c", hub_split="test", hub_revision="v1")
    found = read_examples(config)
    assert asked == [(("owner/name", "c"), {"split": "test", "revision": "v1"})]
    assert found.texts == [t for t, _ in ROWS]
    assert found.ids[1] == "owner/name: row 2"


def test_hub_out_of_reach_is_one_line():
    with pytest.raises(RewardJaxError, match="dataset 'owner/no-such', split 'train', could not"):
        read_examples(DataConfig(hub="owner/no-such"))


def test_exactly_one_source():
    for config in (DataConfig(), DataConfig(path="x.jsonl", hub="a/b")):
        with pytest.raises(RewardJaxError, match=r"exactly one of data\.path"):
            read_examples(config)
