"""Prompts from .txt, .jsonl, .gz and standard input; every bad one is named by file and line."""

import gzip
import hashlib
import io
import json
import sys

import pytest

from rewardjax.data.prompts import PromptRow, digest, open_prompts, read_prompts
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


SCORES = [0.9, 0.2, None, 0.5, 0.7, None, 0.6, 0.1, 0.8, 0.55]
SCORED = "".join(
    json.dumps({"prompt": {"text": f"p{i}", "toxicity": x}, "challenging": i == 4}) + "\n"
    for i, x in enumerate(SCORES)
)


@pytest.fixture
def scored(tmp_path):
    return lambda **wanted: [
        (row.text, row.index)
        for row in read_prompts(write(tmp_path / "s.jsonl.gz", SCORED), "prompt.text", **wanted)
    ]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["prompt.toxicity>=0.5"], [0, 3, 4, 6, 8, 9]),
        (["prompt.toxicity > .5"], [0, 4, 6, 8, 9]),
        (["prompt.toxicity<0.5"], [1, 7]),
        (["prompt.toxicity!=0.5"], [0, 1, 4, 6, 7, 8, 9]),  # null is not unequal either
        (["prompt.toxicity>=0.5", "prompt.toxicity<=6e-1"], [3, 6, 9]),
        (["challenging==1"], [4]),
    ],
)
def test_rows_by_comparison_keep_their_index(scored, where, expected):
    assert scored(where=where) == [(f"p{i}", i) for i in expected]


def test_draws_of_one_seed_are_disjoint(scored):
    toxic = ["prompt.toxicity>=0.5"]
    development = scored(where=toxic, limit=2, shuffle_seed=0)
    rest = scored(where=toxic, offset=2, limit=3, shuffle_seed=0)
    last = scored(where=toxic, offset=5, shuffle_seed=0)
    assert sorted(development + rest + last) == scored(where=toxic)
    assert (len(development), len(rest), len(last)) == (2, 3, 1)
    assert rest == sorted(rest, key=lambda row: row[1])  # in the order of the file
    draws = {tuple(scored(where=toxic, limit=2, shuffle_seed=seed)) for seed in range(9)}
    assert len(draws) > 3
    assert scored(limit=3, offset=1) == [("p1", 1), ("p2", 2), ("p3", 3)]
    assert len(scored(limit=99)) == 10


def test_a_bad_row_that_is_left_out_does_not_matter(tmp_path):
    lines = '{"prompt": "a", "n": 1}\n{"prompt": "", "n": 0}\n{"prompt": "c", "n": 2}\n'
    path = write(tmp_path / "p.jsonl", lines)
    assert [row.index for row in read_prompts(path, where=["n>0"])] == [0, 2]
    with pytest.raises(RewardJaxError, match=r"p\.jsonl:2: empty prompt"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"where": ["toxicity"]}, "--where 'toxicity' is no comparison; expected FIELD OP NUMBER"),
        ({"where": ["toxicity=0.5"]}, "is no comparison"),
        ({"where": ["toxicity>=high"]}, "is no comparison"),
        ({"where": [">=0.5"]}, "is no comparison"),
        ({"where": ["prompt.toxcity>0"]}, "s.jsonl.gz:1: no field 'prompt.toxcity'; the row has "),
        ({"where": ["prompt.text>0"]}, "s.jsonl.gz:1: prompt.text is 'p0'; expected a number"),
        ({"where": ["prompt.toxicity>1"]}, "of 10 rows 0 meet --where"),
        ({"offset": 10}, "of 10 rows 10 meet --where, and none is left after --offset 10"),
        ({"limit": 0}, "--limit is 0"),
        ({"offset": -1}, "--offset is -1"),
        ({"shuffle_seed": -1}, "--shuffle-seed is -1"),
    ],
)
def test_bad_choices(scored, wanted, expected):
    with pytest.raises(RewardJaxError) as error:
        scored(**wanted)
    assert expected in str(error.value)


def test_lines_have_no_fields(tmp_path):
    path = write(tmp_path / "p.txt", LINES)
    with pytest.raises(RewardJaxError, match=r"p\.txt: lines have no fields for --where"):
        read_prompts(path, where=["x>0"])
    assert [row.index for row in read_prompts(path, offset=2)] == [2]


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_a_file_is_read_once_and_its_prompts_as_often_as_wanted(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("rewardjax.data.prompts.IN_MEMORY", in_memory)
    texts = ["a", "half \ud83d", "日本\u2028", 'quote " and \t']
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
    path = write(tmp_path / "p.jsonl", lines)
    from_file = open_prompts(path)
    path.write_text("other prompts\n")
    from_input = open_prompts(standard_input(monkeypatch, lines))
    for prompts in (from_file, from_input):
        assert len(prompts) == 4
        for _ in range(2):
            assert [(row.index, row.text) for row in prompts] == list(enumerate(texts))
        one, other = iter(prompts), iter(prompts)
        assert [next(one), next(other), next(one), next(other)] == [
            prompts[i] for i in (0, 0, 1, 1)
        ]


def test_the_digest_is_that_of_the_whole_list():
    rows = [PromptRow("a", 0, ""), PromptRow("é\ud83d'", 7, "x"), PromptRow(" ", 2, "")]
    for part in (rows, rows[:1], []):
        listed = repr([(row.index, row.text) for row in part])
        assert digest(part) == hashlib.sha256(listed.encode()).hexdigest()
    assert digest(rows) != digest(rows[::-1])


def test_the_first_index_that_stands_there_again_is_named(tmp_path):
    indices = [5, 3, 9, 1, 3, 5, 9]
    lines = "".join(json.dumps({"prompt": "a", "index": i}) + "\n" for i in indices)
    with pytest.raises(RewardJaxError, match=r"jsonl:5: index 3 stands at \S*p\.jsonl:2 already"):
        read_prompts(write(tmp_path / "p.jsonl", lines))
