"""The output file of a decoding job: whole or absent, resumable, never the wrong job's."""

import errno
import json
import os

import pytest

from rewardjax.decode.rows_file import RowsFile
from rewardjax.errors import RewardJaxError

SETTINGS = {"seed": 0, "stop": ["x"], "lm": "tiny"}


def rows_file(path, settings=SETTINGS, *, resume=False, overwrite=False):
    return RowsFile(str(path), settings, resume=resume, overwrite=overwrite)


def write(path, numbers, **how):
    with rows_file(path, **how) as out:
        for i in numbers:
            out.write({"i": i})


def interrupted(path, count):
    def rows():
        yield from range(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, rows())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_file_is_alone_and_whole(tmp_path):
    write(tmp_path / "a.jsonl", [0, 1])
    assert names(tmp_path) == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_bytes() == b'{"i": 0}\n{"i": 1}\n'


def test_text_is_written_as_it_is(tmp_path):
    with rows_file(tmp_path / "a.jsonl") as out:
        out.write({"text": "日本\n\u2028"})
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"text": "日本\\n\u2028"}\n'


def test_numbers_that_are_not_finite_come_from_damaged_weights(tmp_path):
    with (
        pytest.raises(RewardJaxError, match=r"prompt 'I' .* damaged"),
        rows_file(tmp_path / "a") as out,
    ):
        out.write({"prompt": "I", "kl": [float("nan")]})


def test_nothing_is_touched_before_the_job_begins(tmp_path):
    rows_file(tmp_path / "a.jsonl")
    assert names(tmp_path) == []


def test_interrupted_and_resumed(tmp_path):
    path = tmp_path / "a.jsonl"
    interrupted(path, 2)
    assert names(tmp_path) == ["a.jsonl.partial", "a.jsonl.partial.json"]
    with (tmp_path / "a.jsonl.partial").open("ab") as file:
        file.write(b'{"i": 2, "te')
    out = rows_file(path, resume=True)
    assert out.done == 2
    with out:
        out.write({"i": 2})
    assert names(tmp_path) == ["a.jsonl"]
    assert path.read_text() == '{"i": 0}\n{"i": 1}\n{"i": 2}\n'


def test_resuming_nothing_begins(tmp_path):
    write(tmp_path / "a.jsonl", [5], resume=True)
    assert (tmp_path / "a.jsonl").read_text() == '{"i": 5}\n'


def test_an_interrupted_run_before_its_first_row_resumes(tmp_path):
    interrupted(tmp_path / "a.jsonl", 0)
    write(tmp_path / "a.jsonl", [0], resume=True)
    assert (tmp_path / "a.jsonl").read_text() == '{"i": 0}\n'


@pytest.mark.parametrize(
    ("before", "how", "expected"),
    [
        ("file", {}, "exists; name another file, or pass --overwrite"),
        ("file", {"resume": True}, "exists; name another file, or pass --overwrite"),
        ("partial", {}, "holds an unfinished run; pass --resume"),
        ("partial", {"resume": True, "settings": {**SETTINGS, "seed": 1}}, "seed was 0 and is 1"),
        ("partial", {"resume": True, "settings": {**SETTINGS, "new": 1}}, "new was None and is 1"),
        ("no description", {"resume": True}, "a.jsonl.partial.json' cannot be read"),
        ("broken description", {"resume": True}, "a.jsonl.partial.json' cannot be read"),
        ("list", {"resume": True}, "a.jsonl.partial.json' cannot be read (a JSON list"),
        ("folder", {}, "is a folder; expected a file name"),
        ("folder", {"overwrite": True}, "is a folder; expected a file name"),
    ],
)
def test_what_is_in_the_way(tmp_path, before, how, expected):
    path = tmp_path / "a.jsonl"
    description = tmp_path / "a.jsonl.partial.json"
    if before == "file":
        path.write_text("precious\n")
    elif before == "folder":
        path.mkdir()
    else:
        interrupted(path, 1)
        if before == "no description":
            description.unlink()
        elif before != "partial":
            description.write_text({"broken description": "{", "list": "[]"}[before])
    standing = {item.name: item.is_file() and item.read_bytes() for item in tmp_path.iterdir()}
    with pytest.raises(RewardJaxError) as error:
        rows_file(path, **how)
    assert expected in str(error.value)
    assert standing == {
        item.name: item.is_file() and item.read_bytes() for item in tmp_path.iterdir()
    }


def test_rows_never_stand_beside_the_description_of_another_job(tmp_path, monkeypatch):
    """Killed before the new description is there: nothing of the old job is taken for the new."""
    path, new = tmp_path / "a.jsonl", {**SETTINGS, "seed": 7}
    interrupted(path, 3)
    with monkeypatch.context() as patch:
        patch.setattr("rewardjax.decode.rows_file.write_text", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(path, [0], settings=new, overwrite=True)
    for settings in (SETTINGS, new):
        assert rows_file(path, settings, resume=True).done == 0
    write(path, [9], settings=new, resume=True)
    assert path.read_text() == '{"i": 9}\n'


def test_killed_with_the_file_in_place_and_the_description_still_there(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *args, **how: None)
        write(path, [0, 1])
    assert names(tmp_path) == ["a.jsonl", "a.jsonl.partial.json"]
    with pytest.raises(RewardJaxError, match="exists; name another file"):
        rows_file(path)
    with pytest.raises(RewardJaxError, match="seed was 0 and is 1"):
        rows_file(path, {**SETTINGS, "seed": 1}, resume=True)
    out = rows_file(path, resume=True)
    assert out.finished
    assert names(tmp_path) == ["a.jsonl"]
    assert path.read_text() == '{"i": 0}\n{"i": 1}\n'


def test_overwriting_replaces_at_the_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old\n")
    with rows_file(path, overwrite=True) as out:
        out.write({"i": 0})
        assert path.read_text() == "old\n"
    assert path.read_text() == '{"i": 0}\n'


def test_overwriting_starts_an_unfinished_run_over(tmp_path):
    interrupted(tmp_path / "a.jsonl", 3)
    write(tmp_path / "a.jsonl", [9], overwrite=True, settings={"seed": 5})
    assert names(tmp_path) == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_text() == '{"i": 9}\n'


@pytest.mark.parametrize("name", ["nowhere/a.jsonl", "new/"])
def test_missing_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RewardJaxError, match="cannot write"):
        rows_file(name)
    assert names(tmp_path) == []


def test_a_pipe_is_written_directly(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write(path, [0, 1])
    assert [json.loads(line)["i"] for line in os.read(reader, 1000).splitlines()] == [0, 1]
    os.close(reader)
    assert names(tmp_path) == ["pipe"]


def test_a_full_disk_names_the_file_and_can_be_resumed(tmp_path):
    path = tmp_path / "a.jsonl"

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:3])  # a full disk takes what it can
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    def fill_the_disk():
        with rows_file(path) as out:
            out.write({"i": 0})
            out._file = Full(out._file)
            out.write({"i": 1})

    with pytest.raises(OSError, match=r"No space left.*a\.jsonl"):
        fill_the_disk()
    assert (tmp_path / "a.jsonl.partial").read_bytes() == b'{"i": 0}\n{"i'
    write(path, [1], resume=True)
    assert path.read_text() == '{"i": 0}\n{"i": 1}\n'
