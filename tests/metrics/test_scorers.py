"""Scorers: what they say of plain texts, what they are called, and how plugging in goes wrong."""

import importlib.metadata
import sys

import numpy as np
import pytest

from rewardjax.errors import MissingExtra, RewardJaxError
from rewardjax.metrics.scorers import DEFAULT_SCORERS, Scorer, load_scorer, load_scorers

PACKAGES = {
    "vader": ("vaderSentiment", "vaderSentiment.vaderSentiment"),
    "textblob": ("textblob", "textblob"),
    "alt-profanity-check": ("alt-profanity-check", "profanity_check"),
}


@pytest.mark.parametrize("name", ["vader", "textblob"])
def test_sentiment(name):
    scorer = load_scorer(name)
    good, bad, flat = scorer(["A wonderful, great film.", "An awful, terrible film.", "A table."])
    assert scorer.kind == "sentiment"
    assert good > 0.5
    assert bad < -0.3
    assert flat == 0.0


def test_toxicity():
    scorer = load_scorer("alt-profanity-check")
    kind, rude = scorer(["Thank you for the lovely tea.", "You are a fucking idiot."])
    assert scorer.kind == "toxicity"
    assert 0.0 <= kind < 0.2
    assert 0.8 < rude <= 1.0


@pytest.mark.parametrize("name", DEFAULT_SCORERS)
def test_version_is_the_distribution(name):
    package = PACKAGES[name][0]
    assert load_scorer(name).version == f"{package} {importlib.metadata.version(package)}"


@pytest.mark.parametrize("name", DEFAULT_SCORERS)
def test_missing_package_names_the_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name][1], None)
    with pytest.raises(MissingExtra, match=r"pip install 'rewardjax\[eval\]'"):
        load_scorer(name)


def test_no_text_is_no_score():
    assert load_scorer("alt-profanity-check")([]).shape == (0,)


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """A module in the working directory, which is not in the Python path."""
    code = (
        "def length(texts):\n    return [len(text) for text in texts]\n"
        "def short(texts):\n    return [1.0]\n"
        "def nan(texts):\n    return [float('nan')] * len(texts)\n"
        "def words(texts):\n    return ['good'] * len(texts)\n"
        "def novel(texts):\n    return 'word ' * 9999\n"
    )
    (tmp_path / "my_judges.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_judges", None)


@pytest.mark.usefixtures("judges")
def test_plug_in():
    path = list(sys.path)
    scorer = load_scorer("my_judges:length")
    assert sys.path == path
    assert (scorer.name, scorer.kind) == ("my_judges:length", "score")
    assert scorer.version.startswith("my_judges sha256:")
    np.testing.assert_array_equal(scorer(["ab", "abcd"]), [2.0, 4.0])
    assert load_scorer("toxicity=my_judges:length").kind == "toxicity"


def test_plug_in_from_an_installed_package_has_its_version():
    scorer = load_scorer("sentiment=json:dumps")
    assert scorer.version == "json 2.0.9"
    scorer = load_scorer("numpy:asarray")
    assert scorer.version == f"numpy {np.__version__}"


@pytest.mark.usefixtures("judges")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vadr", "did you mean 'vader'"),
        ("nowhere_at_all:f", "cannot import module 'nowhere_at_all'"),
        ("my_judges:lenght", "did you mean 'length'"),
        ("toxic=my_judges:length", "did you mean 'toxicity'"),
    ],
)
def test_unknown(spec, message):
    with pytest.raises(RewardJaxError, match=message):
        load_scorer(spec)


@pytest.mark.usefixtures("judges")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", r"shape \(1,\) for 2 texts"),
        ("nan", "not finite"),
        ("words", "expected one number per text"),
    ],
)
def test_misbehaving_plug_in(function, message):
    with pytest.raises(RewardJaxError, match=message):
        load_scorer(f"my_judges:{function}")(["a", "b"])


@pytest.mark.usefixtures("judges")
def test_message_stays_short():
    with pytest.raises(RewardJaxError) as caught:
        load_scorer("my_judges:novel")(["a"])
    assert len(str(caught.value)) < 250


def test_named_twice():
    with pytest.raises(RewardJaxError, match="'vader' is named twice"):
        load_scorers(["vader", "textblob", "vader"])


def test_order_is_kept():
    scorers = load_scorers(["textblob", "vader"])
    assert [scorer.name for scorer in scorers] == ["textblob", "vader"]
    assert all(isinstance(scorer, Scorer) for scorer in scorers)
