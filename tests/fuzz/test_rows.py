"""Files of rows, whatever is in them: JSONL, CSV, TSV, text and Parquet, plain or .gz."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardjax.data.files import read_examples
from rewardjax.data.generations import read_rows
from rewardjax.data.prompts import open_prompts
from rewardjax.data.settings import DataConfig
from rewardjax.data.sources import SourceConfig, read_source
from rewardjax.data.texts import read_texts
from rewardjax.decode.rows_file import RowsFile
from tests.fuzz.mutate import alterations, mutations, plants
from tests.fuzz.promise import check, survey
from tests.soak import proved, times

PROMISE = "a damaged file of rows is read or refused in one line"
ROW = {
    **{"text": "a film", "label": 0.5, "prompt": "I", "index": 3, "prompt_index": 0},
    **{"sample_index": 0, "token_ids": [1, 2], "rewards": [[0.5], [1]], "kl": [0.1, 0.2]},
    **{"clipped_share": 0.5, "nested": {"label": 1, "text": "b"}},
}
JSONL = b"".join(
    json.dumps({**ROW, "index": i, "sample_index": i}).encode() + b"\n" for i in range(4)
)
CSV = b'text,label,more\n"a ""good"" film",1,x\nbad,0,"two\nlines"\nso so,0.5,\xc3\xa9\n'
TSV = b'text\tlabel\ta "quote\na film\t1\tx\nb\xc3\xa9\t0\t\n'
TEXT = b"a prompt\nand \xc3\xa9 another\nthe last\n"


def examples(path, **how):
    return read_examples(DataConfig(path=str(path), **how))


LENIENT = {"on_bad_row": "skip", "drop_empty": True}
READERS = {
    "examples.jsonl": (JSONL, examples),
    "skipping.jsonl": (JSONL, lambda path: examples(path, text="nested.text", **LENIENT)),
    "words.jsonl": (JSONL, lambda path: examples(path, label_map=("0.5=1", "x=0"))),
    "prompts.jsonl": (JSONL, lambda path: list(open_prompts(path))),
    "drawn.jsonl": (
        JSONL,
        lambda path: list(open_prompts(path, where=["nested.label>0"], limit=2, shuffle_seed=1)),
    ),
    "generated.jsonl": (JSONL, read_rows),
    "source.jsonl": (
        JSONL,
        lambda path: read_source(SourceConfig(path=str(path), texts=("text", "prompt")), 0),
    ),
    "examples.csv": (CSV, examples),
    "columns.csv": (
        CSV,
        lambda path: examples(path, header=False, text="1", labels=("2",), **LENIENT),
    ),
    "texts.csv": (CSV, lambda path: read_texts(str(path))),
    "examples.tsv": (TSV, examples),
    "prompts.txt": (TEXT, lambda path: list(open_prompts(path))),
}


@pytest.mark.parametrize("name", READERS)
def test_mutated_rows(name, tmp_path, record_property):
    good, read = READERS[name]
    path, packed = tmp_path / name, tmp_path / f"{name}.gz"
    path.write_bytes(good)
    read(path)
    count = times(5, 200)
    cases = [*mutations(good, 2 * count, 1), *plants(tmp_path).items()]
    refused = survey(path, cases, lambda: read(path))
    inside = [(case, gzip.compress(data)) for case, data in mutations(good, count, 2)]
    outside = [*mutations(gzip.compress(good), count, 3), *plants(tmp_path).items()]
    refused += survey(packed, inside + outside, lambda: read(packed))
    assert refused > count
    proved(record_property, PROMISE, len(cases) + len(inside) + len(outside))


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".jsonl")])
def test_wrong_values(name, tmp_path, record_property):
    path, read = tmp_path / name, READERS[name][1]
    cases = list(alterations(ROW, times(10, 300)))
    # Where Python's own limit of nesting lies depends on the caller.
    cases += [
        (f"{key} nested {depth} deep", json.dumps({**ROW, key: "@"}).replace('"@"', nested))
        for depth in (*range(930, 1000, times(35, 1)), 100_000)
        for key in ("label", "index", "rewards")
        for nested in ("[" * depth + "]" * depth,)
    ]
    cases = [(case, text if isinstance(text, bytes) else text.encode()) for case, text in cases]
    assert survey(path, cases, lambda: read(path)) > 0
    proved(record_property, PROMISE, len(cases))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(list(ROW)) | st.text(max_size=4)


@pytest.mark.parametrize("name", ["examples.jsonl", "drawn.jsonl", "generated.jsonl"])
def test_any_json(name, tmp_path, record_property):
    path, read, count = tmp_path / name, READERS[name][1], times(20, 400)

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.dictionaries(KEYS, VALUES, max_size=6) | VALUES, max_size=3), st.booleans())
    def holds(changes, keep):
        rows = [{**ROW, **row} if keep and isinstance(row, dict) else row for row in changes]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        check(lambda: read(path), path)

    holds()
    proved(record_property, PROMISE, count)


LONG, LINES = 9 << 20, (b"a" * 999 + b"\n") * 9999
CORPUS = {
    "a bomb of one line": ("d.jsonl.gz", gzip.compress(b" " * LONG), "more than 8 MiB"),
    "a bomb in one field": ("d.csv.gz", gzip.compress(b'text,label\n"' + LINES), "limit"),
    "a bomb of text": ("p.txt.gz", gzip.compress(b"a" * LONG), "more than 8 MiB"),
    "a key twice": ("d.jsonl", b'{"text": "a", "label": 0, "label": 1}', "key 'label' stands"),
    "an inner key twice": ("d.jsonl", b'{"text": "a", "label": 0, "a": {"b": 1, "b": 2}}', "'b'"),
    "a column twice": ("d.csv", b"text,label,label\na,0,1\n", "2 columns are called 'label'"),
    "a column twice in TSV": ("d.tsv", b"text\ttext\tlabel\na\tb\t1\n", "2 columns are called"),
    "keys without end": ("d.jsonl", json.dumps({"k" * i: 1 for i in range(999)}).encode(), "more"),
    "columns without end": ("d.csv", b"x," * 50_000 + b"x\n", "and 49993 more"),
    "an open quote": ("d.csv", b'text,label\n"a,1\nb,0\n', "d.csv:2: not valid CSV"),
    "a bare carriage return": ("d.csv", b"text,label\ra,1\rb,0", "not valid CSV"),
    "UTF-16": ("d.csv", "text,label\na,1\n".encode("utf-16"), "d.csv:1: binary data"),
    "two byte order marks": ("d.csv", b"\xef\xbb\xbf" * 2 + b"text,label\na,1\n", "'text' is mis"),
    "half a pair in a key": ("d.jsonl", b'{"\\ud800": "a"}', "the row has '\\ud800'"),
    "an index as a list": ("p.jsonl", b'{"prompt": "a", "index": [%s1]}' % (b"1," * 999), "…"),
    "a long field": ("p.jsonl", json.dumps({"x" * 5000: 1}).encode(), "no field 'prompt'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CORPUS)
def test_known_bad_rows(case, tmp_path, record_property):
    name, data, expected = CORPUS[case]
    path = tmp_path / name
    path.write_bytes(data)
    reader = examples if name[0] == "d" else open_prompts
    error = check(lambda: reader(path), path)
    assert expected in str(error)
    proved(record_property, PROMISE, 1)


def test_blank_lines_take_no_memory(tmp_path, record_property):
    path = tmp_path / "p.txt.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"\n" * 50_000))
    assert check(lambda: open_prompts(path), path) is None
    assert [row.where for row in open_prompts(path)] == [f"{path}:1"]
    path.write_bytes(gzip.compress(b"a\n\n\nb\n"))
    assert [(row.text, row.index) for row in open_prompts(path, offset=3)] == [("b", 3)]
    proved(record_property, PROMISE, 2)


def test_mutated_parquet(tmp_path, record_property):
    path, cases = tmp_path / "d.parquet", []
    table = pa.table({"text": ["a film", "b", "cé"] * 5, "label": [0.0, 1.0, None] * 5})
    for kind in ("none", "snappy", "zstd"):
        pq.write_table(table, path, compression=kind)
        # Some 1 in 1,000 damages text alone, which only shows when it is decoded.
        cases += mutations(path.read_bytes(), times(10, 600), seed=3)
    cases += plants(tmp_path).items()
    assert survey(path, cases, lambda: examples(path, drop_empty=True)) > len(cases) // 2
    pq.write_table(table, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    assert "Parquet" in str(check(lambda: examples(path, drop_empty=True), path))
    proved(record_property, PROMISE, len(cases) + 1)


def test_mutated_output_of_an_unfinished_job(tmp_path, record_property):
    """Resumed only where all of it is rows, and its description is this job's."""
    job, rows = {"seed": 0, "stop": ["x"], "lm": "tiny"}, JSONL
    partial, description = tmp_path / "o.jsonl.partial", tmp_path / "o.jsonl.partial.json"

    def resume():
        done = RowsFile(str(tmp_path / "o.jsonl"), job, resume=True, overwrite=False).done
        whole = partial.read_bytes().splitlines(keepends=True)
        assert len(whole) == done
        assert all(isinstance(json.loads(line), dict) for line in whole)

    count, good = times(15, 500), json.dumps(job).encode()
    cases = [*mutations(good, count, 1), *alterations(job, count, 2), *plants(tmp_path).items()]
    for case, data in cases:
        partial.write_bytes(rows)
        survey(description, [(case, data)], resume)
    description.write_bytes(good)
    damaged = [*mutations(rows, 2 * count, 3), *plants(tmp_path).items()]
    assert survey(partial, damaged, resume) > count
    partial.write_bytes(rows[:-9] + b"\0" * 9)  # as a power failure may leave it
    resume()
    proved(record_property, PROMISE, len(cases) + len(damaged) + 1)
