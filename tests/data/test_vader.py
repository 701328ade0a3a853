"""The human ratings: reading a small stand-in for the published file, and downloads that fail."""

import io
import subprocess
import tarfile

import numpy as np
import pytest

from rewardjax.data import vader
from rewardjax.errors import RewardJaxError

FILES = {
    "movie": "1\t4.0\tCliché, but great &amp; warm.\r\n2\t-4\tDull \x85 flat.\r\n",
    "amazon": "1_1\t0\tIt works.\r\n",
    "nyt": "1_1\t1.5\tSkadden &amp;amp; Flom won.\r\n",
    "tweets": "1\t2\t  Yay :)\t#fun \r\n",
}


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def make_sdist(path, files=FILES, inner_name=vader._INNER):
    """A tar within a tar, laid out as the published one."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for source, text in files.items():
            add(archive, f"{vader._FOLDER}/{vader.SOURCES[source]}", text.encode())
    with tarfile.open(path, "w:gz") as archive:
        add(archive, inner_name, inner.getvalue())
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that holds a small sdist whose hash is the expected one; no pip."""
    path = make_sdist(tmp_path / vader.SDIST)
    monkeypatch.setattr(vader, "SDIST_SHA256", vader._sha256(path))
    monkeypatch.setattr(vader, "_download", lambda folder: pytest.fail("downloaded again"))
    return tmp_path


def test_reads_every_source(cache):
    got = vader.load_vader_ratings(cache_dir=cache)
    assert got.texts == (
        "Cliché, but great & warm.",
        "Dull \x85 flat.",
        "It works.",
        "Skadden & Flom won.",
        "Yay :)\t#fun",
    )
    np.testing.assert_array_equal(got.ratings, np.float32([1.0, 0.0, 0.5, 5.5 / 8, 0.75]))
    assert got.ratings.dtype == np.float32
    assert got.ids == ("movie/1", "movie/2", "amazon/1_1", "nyt/1_1", "tweets/1")


def test_chooses_sources_in_the_order_asked_for(cache):
    assert vader.load_vader_ratings(["tweets", "amazon"], cache).ids == ("tweets/1", "amazon/1_1")
    with pytest.raises(RewardJaxError, match="unknown source 'movies'; did you mean 'movie'"):
        vader.load_vader_ratings(["movies"], cache)


@pytest.mark.parametrize(
    "line", ["7\t1.0", "7\tfive\tText.", "7\t4.5\tText.", "7\tnan\tText.", "7\t1\t  "]
)
def test_damaged_line_is_named(tmp_path, monkeypatch, line):
    path = make_sdist(tmp_path / vader.SDIST, {"tweets": f"1\t2\tFine.\r\n{line}\r\n"})
    monkeypatch.setattr(vader, "SDIST_SHA256", vader._sha256(path))
    with pytest.raises(RewardJaxError, match=r"tweets_GroundTruth\.txt:2: got"):
        vader.load_vader_ratings(["tweets"], tmp_path)


def test_missing_member(tmp_path, monkeypatch):
    path = make_sdist(tmp_path / vader.SDIST, inner_name="elsewhere.tar.gz")
    monkeypatch.setattr(vader, "SDIST_SHA256", vader._sha256(path))
    with pytest.raises(RewardJaxError, match=r"holds no .*hutto_ICWSM_2014\.tar\.gz"):
        vader.load_vader_ratings(cache_dir=tmp_path)


def test_a_link_in_the_archive_is_not_followed(tmp_path, monkeypatch):
    path = tmp_path / vader.SDIST
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(vader._INNER)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    monkeypatch.setattr(vader, "SDIST_SHA256", vader._sha256(path))
    with pytest.raises(RewardJaxError, match="no plain file"):
        vader.load_vader_ratings(cache_dir=tmp_path)


def test_no_archive_at_all(tmp_path, monkeypatch):
    path = tmp_path / vader.SDIST
    path.write_bytes(b"not a tar file")
    monkeypatch.setattr(vader, "SDIST_SHA256", vader._sha256(path))
    with pytest.raises(RewardJaxError, match="delete it"):
        vader.load_vader_ratings(cache_dir=tmp_path)


def test_download_is_verified_and_kept(tmp_path, monkeypatch):
    source = make_sdist(tmp_path / "made.tar.gz")
    monkeypatch.setattr(vader, "SDIST_SHA256", vader._sha256(source))
    calls = []

    def pip(command, **_):
        calls.append(command)
        to = command[command.index("--dest") + 1]
        with open(command[command.index("--requirement") + 1]) as file:
            assert file.read() == f"vaderSentiment==3.3.2 --hash=sha256:{vader.SDIST_SHA256}\n"
        with open(f"{to}/{vader.SDIST}", "wb") as file:
            file.write(source.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    folder = tmp_path / "new" / "cache"
    assert len(vader.load_vader_ratings(cache_dir=folder).texts) == 5
    assert len(vader.load_vader_ratings(cache_dir=folder).texts) == 5
    assert len(calls) == 1
    assert {"--no-deps", "--require-hashes"} <= set(calls[0])
    assert [path.name for path in folder.iterdir()] == [vader.SDIST]


def test_file_damaged_in_the_cache_is_downloaded_again(cache, monkeypatch):
    good = (cache / vader.SDIST).read_bytes()
    (cache / vader.SDIST).write_bytes(good[:100])
    monkeypatch.setattr(vader, "_download", lambda folder: (folder / vader.SDIST).write_bytes(good))
    assert vader.fetch_sdist(cache).read_bytes() == good


def test_wrong_checksum_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        vader, "_download", lambda folder: (folder / vader.SDIST).write_bytes(b"another file")
    )
    with pytest.raises(RewardJaxError, match=f"SHA-256 .*, expected {vader.SDIST_SHA256}"):
        vader.fetch_sdist(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(folder):
        (folder / vader.SDIST).write_bytes(b"half of i")
        raise KeyboardInterrupt

    monkeypatch.setattr(vader, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vader.fetch_sdist(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("WARNING: x\nERROR: No matching distribution found\n", "No matching distribution found"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n  Got abc\n", "another SHA-256"),
        ("", "no message"),
    ],
)
def test_pip_failure_says_why_and_what_to_do(tmp_path, monkeypatch, stderr, message):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(RewardJaxError, match=message) as caught:
        vader.fetch_sdist(tmp_path)
    assert f"put {vader.SDIST} from PyPI into '{tmp_path}'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(vader.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RewardJaxError, match="ensurepip"):
        vader.fetch_sdist(tmp_path)


def test_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RewardJaxError, match="set REWARDJAX_CACHE"):
        vader.fetch_sdist(tmp_path / "file" / "cache")
