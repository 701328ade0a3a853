"""The quickstart on a tiny LM and made-up ratings: the whole chain, its verdict and its reuse."""

import json
import re

import numpy as np
import pytest

from rewardjax.cli import main
from rewardjax.data.vader import Ratings
from rewardjax.experiments import quickstart, quickstart_page


@pytest.fixture
def ratings(monkeypatch, tmp_path):
    """Texts whose rating follows from one word that both the tiny tokenizer and VADER know."""
    rng = np.random.default_rng(0)
    texts, values = [], []
    for _ in range(400):
        good = bool(rng.integers(2))
        words = list(rng.permutation([" film", " was", " it", " is", " the", " not"]))
        words.insert(int(rng.integers(6)), " great" if good else " bad")
        texts.append("I" + "".join(words))
        values.append(0.9 if good else 0.1)
    made = Ratings(tuple(texts), np.array(values, np.float32), tuple(f"x/{i}" for i in range(400)))
    for module in (quickstart, quickstart_page):
        monkeypatch.setattr(module, "load_vader_ratings", lambda: made)
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def arguments(lm_dir):
    given = {"lm": lm_dir, "layer": 2, "texts": 320, "steps": 60, "beta": 200, "num-prompts": 12}
    given |= {"num-samples": 4, "max-new-tokens": 8, "out": "out"}
    return ["quickstart", *(str(x) for k, v in given.items() for x in (f"--{k}", v))]


def test_the_whole_chain_and_its_reuse(ratings, tiny_lm_dir, tmp_path, capsys, monkeypatch):
    # A random LM hardly ever writes a word that VADER knows: the verdict here is on the reward.
    headline = quickstart.HEADLINE
    monkeypatch.setattr(quickstart, "HEADLINE", "reward")
    assert main(arguments(tiny_lm_dir)) == 0
    printed = capsys.readouterr().out
    assert "The effect shows beyond the 95% intervals" in printed
    assert "$ rewardjax train reward-model" in printed
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    reward = {r["beta"]: r["metrics"]["reward"] for r in results["results"]}
    assert list(reward) == [-200, -100, 0, 100, 200]
    assert reward[200]["low"] > reward[0]["high"]
    assert reward[0]["low"] > reward[-200]["high"]
    judge = results["results"][0]["metrics"]["vader.positive_rate"]
    assert judge["version"].startswith("vaderSentiment ")
    assert all("self-perplexity" in r["metrics"] for r in results["results"])

    page = (out / "report.html").read_text()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:|//)""", page)
    assert "<script" not in page
    assert len(page) < 1_000_000
    assert page.count("<svg") == 2

    # A second run takes over the training and the texts, and says the same.
    def refuse(*words):
        raise AssertionError(f"ran {words} again")

    monkeypatch.setattr(quickstart, "program", refuse)
    assert main(arguments(tiny_lm_dir)) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["results"] == results["results"]
    assert again["seconds"]["training"] == results["seconds"]["training"]

    # On these texts the judge's own verdict is that there is no effect: status 1, with the table.
    capsys.readouterr()
    monkeypatch.setattr(quickstart, "HEADLINE", headline)
    assert main(arguments(tiny_lm_dir)) == 1
    printed = capsys.readouterr().out
    assert "does NOT show" in printed
    assert "positive rate" in printed
    assert (out / "report.html").is_file()


def test_a_folder_of_something_else_is_left_alone(ratings, tiny_lm_dir, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert main(arguments(tiny_lm_dir)) == 2
    assert "is not empty and no quickstart's" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
