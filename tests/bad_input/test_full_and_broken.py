"""A full disk or a broken download: one line on standard error, and nothing half made stays."""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest

from rewardjax import cli
from tests.bad_input.commands import DATA, PROMPT, command, refused


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("folder")
def test_disk_full_while_evaluating(capsys, monkeypatch):
    file = io.StringIO()
    file.write = full
    monkeypatch.setattr("rewardjax.report.write.os.fdopen", lambda *a, **k: file)
    expected = "no space left on the disk while writing 'new.json'"
    refused(command("evaluate", ["rows.jsonl"], ""), capsys, expected)


@pytest.mark.usefixtures("folder")
def test_disk_full_while_training(tiny_lm_dir, capsys, monkeypatch):
    """The hidden states' cache is made before the run's folder; half of it must not stay."""
    argv = command("train", DATA, tiny_lm_dir)
    Path("cache/features").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
        refused(argv, capsys, "tokens at layers [3] need 0.0 GiB and")

    monkeypatch.setattr("rewardjax.data.features.states_of_texts", full)
    expected = f"no space left on the disk while writing '{Path.cwd() / 'cache'}"
    refused(argv, capsys, expected, shown="Hidden states of ")


class Interrupted(Exception):
    """What an HTTP library may raise in the middle of a transfer."""


@pytest.mark.usefixtures("folder", "no_weights")
def test_interrupted_download(tiny_lm_dir, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise Interrupted("peer closed connection\nwithout sending the complete body")

    monkeypatch.setattr("huggingface_hub.snapshot_download", interrupted)
    monkeypatch.setattr("datasets.load_dataset", interrupted)
    argv = command("guided", [*PROMPT, "--lm", "owner/name"], "")
    refused(argv, capsys, "'owner/name' is no alias (smollm2-135m, gemma3-270m) and no existing")
    refused(argv, capsys, "peer closed connection without sending")
    argv = command("train", ["--data.hub", "owner/name"], tiny_lm_dir)
    refused(argv, capsys, "dataset 'owner/name', split 'train', could not be loaded: peer closed")


@pytest.mark.usefixtures("folder", "no_weights")
def test_interrupted_download_of_the_ratings(capsys, monkeypatch):
    from rewardjax.data import vader

    monkeypatch.setattr(vader, "_download", lambda to: (to / vader.SDIST).write_bytes(b"half"))
    assert cli.main(["quickstart", "--out", "quick"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"{vader.SDIST} has SHA-256 " in err
    assert not any(Path("cache").rglob("*"))
    assert not Path("quick/ratings.jsonl").exists()
