"""Prompts from .txt, .jsonl, .gz and standard input; every bad one is named by file and line."""

import gzip
import io
import json
import sys

import pytest

from rewardjax.data.prompts import PromptRow, read_prompts
from rewardjax.errors import RewardJaxError

TEXTS = ["The film", " it was", "naïve 日本"]
LINES = "".join(text + "\n" for text in TEXTS)
ROWS = "".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS)


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def standard_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    return "-"


@pytest.mark.parametrize("name", ["p.txt", "p.txt.gz", "p.jsonl", "p.jsonl.gz", "P.NDJSON"])
def test_files(tmp_path, name):
    path = write(tmp_path / name, LINES if ".txt" in name else ROWS)
    expected = [PromptRow(text, i, f"{path}:{i + 1}") for i, text in enumerate(TEXTS)]
    assert read_prompts(path) == expected


@pytest.mark.parametrize("content", [LINES, ROWS, "\ufeff" + LINES, "\ufeff" + ROWS])
def test_standard_input_is_lines_or_jsonl(monkeypatch, content):
    rows = read_prompts(standard_input(monkeypatch, content))
    assert [row.text for row in rows] == TEXTS
    assert rows[2].where == "<standard input>:3"


def test_line_ends_and_blank_lines_at_the_end_are_no_text(tmp_path):
    rows = read_prompts(write(tmp_path / "p.txt", "one \r\n  two\n\n \n"))
    assert [row.text for row in rows] == ["one ", "  two"]
    assert [row.text for row in read_prompts(write(tmp_path / "q.txt", "no newline"))] == [
        "no newline"
    ]


def test_a_field_inside_a_field(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"prompt": {"text": "a", "score": 1}, "x": {"y": "b"}}\n')
    assert read_prompts(path, "prompt.text")[0].text == "a"
    assert read_prompts(path, "x.y")[0].text == "b"


def test_an_index_stays_with_its_row(tmp_path):
    rows = [{"prompt": "a", "index": 7}, {"prompt": "b", "index": 2**32 - 1}, {"prompt": "c"}]
    lines = [json.dumps(row) + "\n" for row in rows]
    assert [row.index for row in read_prompts(write(tmp_path / "p.jsonl", "".join(lines)))] == [
        7,
        2**32 - 1,
        2,
    ]


BAD = {
    "blank": ("p.txt", " \n\n", "p.txt holds no prompt"),
    "empty line": ("p.txt", "a\n \nb\n", "p.txt:2: empty prompt"),
    "empty field": ("p.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', "p.jsonl:2: empty prompt"),
    "name": ("p.csv", "a\n", "p.csv': cannot tell the format from the name"),
    "json": ("p.jsonl", '{"prompt": "a"}\n{"prom\n', "p.jsonl:2: not JSON"),
    "blank line": ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}\n', "p.jsonl:2: not JSON"),
    "list": ("p.jsonl", '["a"]\n', "p.jsonl:1: a JSON list; expected an object"),
    "field": ("p.jsonl", '{"promt": "a"}\n', "no field 'prompt'; the row has promt; did you mean"),
    "type": ("p.jsonl", '{"prompt": 3}\n', "p.jsonl:1: prompt is a int; expected a string"),
    "index type": ("p.jsonl", '{"prompt": "a", "index": true}\n', "p.jsonl:1: index is True"),
    "index size": ("p.jsonl", '{"prompt": "a", "index": 4294967296}\n', "0 .. 2^32-1"),
    "index twice": (
        "p.jsonl",
        '{"prompt": "a", "index": 1}\n{"prompt": "b"}\n',
        "p.jsonl:2: index 1 stands at",
    ),
    "half a gzip": ("p.txt.gz", None, "damaged gzip file"),
    "latin-1": ("p.txt", b"caf\xe9\n", "p.txt:1: byte 4 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_prompts(tmp_path, case):
    name, content, expected = BAD[case]
    if content is None:
        (tmp_path / name).write_bytes(gzip.compress(LINES.encode() * 99)[:-20])
    else:
        write(tmp_path / name, content)
    with pytest.raises(RewardJaxError) as error:
        read_prompts(tmp_path / name)
    assert expected in str(error.value)


def test_a_missing_part_of_a_field_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"prompt": {"text": "a"}}\n')
    with pytest.raises(RewardJaxError, match=r"no field 'prompt\.txt'; the row has text; did you"):
        read_prompts(path, "prompt.txt")
