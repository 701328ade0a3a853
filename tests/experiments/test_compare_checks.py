"""What `rewardjax compare` refuses before any work."""

import pytest
import yaml

from rewardjax.cli import main as cli
from rewardjax.experiments.compare.settings import CompareConfig, models
from rewardjax.experiments.settings import fill_in, nested
from tests.experiments.comparison import CONFIG, files, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_lm_dir):
    return write_inputs(tmp_path_factory.mktemp("compare"), tiny_lm_dir)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": [], "sweeps": []}, "models is empty"),
        ({"models": [{"name": "A", "teacher": "B"}]}, "teacher 'B' is none of the models before"),
        ({"models": [{"name": "A"}, {"name": "a"}]}, "make the same file name"),
        ({"models": [{"name": "A", "settings": {"optim": {"stpes": 1}}}]}, "model 'A': unknown"),
        ({"models": [{"name": "A", "setings": {}}]}, "models, entry 1: unknown key 'setings'"),
        ({"scorers": ["textblob"]}, "metric 'vader.positive_rate' is of 'vader'"),
        (
            {"arms": [CONFIG["arms"][0] | {"models": ["RADD"]}]},
            "'RADD' is none of the models that decode; did you mean",
        ),
        ({"betas": [0]}, "arm 'up': betas is [0.0]"),
        ({"models": [{"name": "A", "betas": [-1]}]}, "model 'A': betas is [-1.0]"),
        ({"models": [{"name": "A", "link": "log"}]}, "link is 'log'; expected one of"),
        ({"seeds": [1, 1]}, "expected different integers"),
        ({"perplexity_lm": "no/such/folder"}, "no such file"),
        ({"protocol": {"samples": 0}}, "protocol.samples is 0"),
        ({"protocol": {"prompts": 5, "full_prompts": 2}}, "has 6 prompts; expected at least 7"),
        ({"arms": [CONFIG["arms"][0] | {"prompts": "{promts}"}]}, "needs the files promts"),
        ({"models": [{"name": "N", "program": "nado"}]}, "'N', is not trained on labelled texts"),
        (
            {"training": {"data": CONFIG["training"]["data"] | {"held_out": 0.0}}},
            "stands in one that the first model, 'RAD', is trained on",
        ),
    ],
)  # fmt: skip
def test_refuses(inputs, tmp_path, capsys, change, words):
    config = yaml.safe_load((inputs / "compare.yaml").read_text())
    config |= {"arms": CONFIG["arms"][:1]} | change
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    given = ["--files", *files(inputs), "--out", str(tmp_path / "o")]
    assert cli(["compare", str(tmp_path / "c.yaml"), *given]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_sweeps_and_places():
    config = CompareConfig(
        training=nested("data.path", "{a}/{b}.tsv"), files=("a=x", "b=y"), models=()
    )
    assert fill_in(config).training == {"data": {"path": "x/y.tsv"}}
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    assert [m.name for m in models(config)] == []
