"""`rewardjax compare`: a whole small comparison, made once, resumed, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import yaml

from rewardjax.cli import main as cli
from rewardjax.experiments import rank_page
from rewardjax.experiments.compare import page, speed
from rewardjax.experiments.compare.settings import CompareConfig, models
from rewardjax.experiments.settings import fill_in, nested

CONFIG = {
    "name": "tiny comparison",
    "question": "Does it run?",
    "training": {
        "data": {"path": "{texts}", "labels": ["label"], "held_out": 0.2, "split_seed": 0},
        "optim": {"steps": 3, "batch_size": 8, "learning_rate": 1e-3},
    },
    "models": [
        {
            "name": "RAD",
            "settings": {
                "reward_model": {"parametrization": "rad", "backbone": "own", "num_layers": 1}
            },
        },
        {"name": "ARM"},
        {"name": "ARM distilled", "teacher": "RAD", "link": "log_sigmoid", "betas": [2, 5]},
        {"name": "NADO", "program": "nado", "invert": True, "full": False, "betas": [1, 5]},
    ],
    "oracles": {"letter": {"pattern": "[ab]"}},
    "nado": {
        "prompts": {"path": "{prompts}", "limit": 4, "offset": 2, "seed": 0},
        "sampling": {"num_samples": 4, "max_new_tokens": 4},
        "oracle": {"pattern": "[ab]"},
        "reward_model": {"parametrization": "arm"},
        "optim": {"steps": 2, "batch_size": 4},
        "held_out": 0.25,
    },
    "sweeps": [
        {
            "name": "rank",
            "field": "reward_model.rank",
            "values": [1, 2],
            "settings": {"reward_model": {"parametrization": "arm_rank"}},
            "decode": False,
        }
    ],
    "seeds": [0, 1],
    "arms": [
        {
            "name": "up",
            "prompts": "{prompts}",
            "metric": "vader.positive_rate",
            "most_perplexity": 2.0,
        },
        {
            "name": "down",
            "prompts": "{prompts}",
            "metric": "vader.positive_rate",
            "invert": True,
            "higher_is_better": False,
            "full": False,
            "other_seeds": False,
            "models": ["ARM"],
            "betas": [20],
        },
    ],
    "betas": [5, 10],
    "top_k": 5,
    "protocol": {
        "prompts": 3,
        "samples": 2,
        "max_new_tokens": 3,
        "full_prompts": 2,
        "full_samples": 3,
        "batch_size": 4,
        "perplexity_samples": 1,
    },
    "scorers": ["vader"],
    "rank": {
        "prefixes": ["held-out={texts}"],
        "num_prefixes": 6,
        "columns": "50",
        "check_prefixes": 0,
    },
    "agreement": {"texts": "{texts}", "num_texts": 10, "num_candidates": 3},
}

BETAS = {
    "RAD": (5.0, 10.0),
    "ARM": (5.0, 10.0),
    "ARM distilled": (2.0, 5.0),
    "NADO": (1.0, 5.0),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_lm_dir):
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    words = ["good", "bad", "great", "film", "was", "is", "not", "it"]
    lines = [
        {"text": " ".join(rng.choice(words, size=5)) + str(i), "label": i % 2} for i in range(40)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "prompts.txt").write_text("".join(f"the film {i}\n" for i in range(6)))
    config = CONFIG | {"lm": str(tiny_lm_dir), "perplexity_lm": str(tiny_lm_dir)}
    (folder / "compare.yaml").write_text(yaml.safe_dump(config))
    return folder


def command(inputs, *more):
    files = [f"texts={inputs / 'texts.jsonl'}", f"prompts={inputs / 'prompts.txt'}"]
    out = ["--out", str(inputs / "out"), "--publish", str(inputs / "published")]
    return cli(["compare", str(inputs / "compare.yaml"), "--files", *files, *out, *more])


@pytest.fixture(scope="module")
def results(inputs):
    with pytest.MonkeyPatch.context() as patch:
        # `analyze rank` draws the same two figures for every model: a second each, tested elsewhere
        patch.setattr(rank_page, "rank_figure", lambda *args, **how: "<svg></svg>")
        patch.setattr(speed, "REPEATS", 1)
        assert command(inputs, "--hours", "1e-9") == 3  # it stops before its second step …
        assert "UNFINISHED" in (inputs / "published" / "README.md").read_text()
        assert command(inputs) == 0  # … and goes on
    return json.loads((inputs / "published" / "results.json").read_text())


def test_every_cell_is_measured(results):
    cells, down = (
        {(c["model"], c["seed"], c["beta"], c["full"]) for c in results["cells"] if c["arm"] == arm}
        for arm in ("up", "down")
    )
    chosen = results["arms"][0]["chosen_beta"]
    expected = {(None, 0, 0.0, False), (None, 0, 0.0, True)}
    for name, betas in BETAS.items():
        expected |= {(name, 0, beta, False) for beta in betas}
        expected.add((name, 1, chosen[name], False))
        if name != "NADO":
            expected.add((name, 0, chosen[name], True))
    assert cells == expected
    # the second arm: one of the models, the first seed, its own β, no full protocol
    assert down == {(None, 0, 0.0, False), ("ARM", 0, 20.0, False)}
    assert results["arms"][1]["chosen_beta"] == {"ARM": 20.0}
    assert results["unfinished"] == {"cells": 0}
    assert results["finished"]
    sizes = {c["full"]: (c["prompts"], c["texts"]) for c in results["cells"]}
    assert sizes == {False: (3, 6), True: (2, 6)}


def test_the_full_protocol_has_other_prompts(inputs, results):
    prompts = {
        full: {
            json.loads(line)["prompt_index"]
            for path in (inputs / "out" / "texts").glob("up-unguided*.jsonl")
            if ("full" in path.name) == full
            for line in path.read_text().splitlines()
        }
        for full in (False, True)
    }
    assert [len(prompts[full]) for full in (False, True)] == [3, 2]
    assert not prompts[False] & prompts[True]


def test_beta_is_the_best_within_the_limit(results):
    cells = {
        (c["model"], c["beta"]): c["metrics"]
        for c in results["cells"]
        if c["arm"] == "up" and not c["full"] and not c["seed"]
    }
    limit = 2.0 * cells[None, 0.0]["perplexity"]["value"]
    for name, beta in results["arms"][0]["chosen_beta"].items():
        curve = {b: cells[name, b] for b in BETAS[name]}
        fluent = {b: m for b, m in curve.items() if m["perplexity"]["value"] <= limit}
        rates = {b: m["vader.positive_rate"]["value"] for b, m in fluent.items()}
        assert beta == (max(rates, key=lambda b: (rates[b], -b)) if rates else min(curve))


def test_a_models_own_link_decodes(results):
    linked = [words for words in results["commands"] if "--link log_sigmoid" in words]
    assert {words.split("--beta ")[1].split()[0] for words in linked} >= {"2", "5"}
    assert not any("--link" in words for words in results["commands"] if "/arm-s0" in words)


def test_models_say_what_they_cost(results):
    by_name = {model["name"]: model for model in results["models"]}
    assert [m["reads_per_token"] for m in results["models"][:4]] == [5, 0, 0, 0]
    assert by_name["ARM distilled"]["teacher"] == "RAD"
    for model in results["models"]:
        for seed in model["seeds"]:
            assert seed["finished"]
            assert seed["seconds"] > 0
            assert seed["metrics"]["eval/squared_error"] > 0
    ranks = {
        name: m["seeds"][0]["rank"]["sets"]["held-out"]["bound"] for name, m in by_name.items()
    }
    assert (ranks["rank 1"], ranks["rank 2"]) == (2, 3)
    assert set(results["speed"]["tokens_per_second"]) == {
        "unguided",
        *(name for name in by_name if not name.startswith("rank")),
    }


def test_an_oracle_judges_every_cell(inputs, results):
    text = results["measures"]["letter.satisfied_rate"]
    assert text["name"] == "satisfied rate"
    for cell in results["cells"]:
        assert 0 <= cell["metrics"]["letter.satisfied_rate"]["value"] <= 1
    path = next((inputs / "out" / "texts").glob("down-unguided*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (down,) = (c for c in results["cells"] if c["arm"] == "down" and c["model"] is None)
    share = np.mean(["a" in row["text"] or "b" in row["text"] for row in rows])
    assert down["metrics"]["letter.satisfied_rate"]["value"] == float(f"{share:.6g}")
    commands = [words for words in results["commands"] if "/nado-s" in words]
    assert sum(words.startswith("rewardjax train nado") for words in commands) == 2  # seeds
    guided = [words for words in commands if "decode guided" in words]
    assert guided
    assert all("--invert" in words for words in guided)


def test_agreement_with_the_first_model(inputs, results):
    assert [seed["agreement"] for seed in results["models"][0]["seeds"]] == [None, None]
    for model in results["models"][1:]:
        for seed in model["seeds"]:
            found = seed["agreement"]
            assert found["texts"] == 10
            assert found["observed"]["eval/distillation_error"] > 0
            error = found["candidates"]["eval/distillation_error"]
            parts = [found["candidates"][f"eval/{part}_error"] for part in ("delta", "level")]
            assert error == pytest.approx(sum(parts), rel=1e-4)
    readme = (inputs / "published" / "README.md").read_text()
    assert "## Agreement with RAD" in readme
    assert readme.count("2 seeds") >= len(results["models"]) - 1


def test_page_and_readme(inputs, results):
    page = (inputs / "published" / "report.html").read_text()
    readme = (inputs / "published" / "README.md").read_text()
    for text in (page, readme):
        for part in ("tiny comparison", "ARM distilled", "Full protocol"):
            assert part in text
    for text in (page, readme, json.dumps(results)):
        assert str(inputs.parent) not in text  # where one works is nobody's business
    assert page.count("<svg") >= 2
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_takes_more_models_than_a_figure_has_colours(results, tmp_path):
    many = json.loads(json.dumps(results))
    many["sweeps"] = []
    for i in range(19):
        many["models"].append(many["models"][1] | {"name": f"another {i}"})
        cells = [c for c in results["cells"] if c["model"] == "ARM"]
        many["cells"] += [cell | {"model": f"another {i}"} for cell in cells]
        many["arms"][0]["chosen_beta"][f"another {i}"] = 5.0
    page.write(many, tmp_path)
    for text in ((tmp_path / name).read_text() for name in ("report.html", "README.md")):
        assert "another 18" in text


def test_every_number_has_its_n_and_its_judge(results):
    for cell in results["cells"]:
        for key, metric in cell["metrics"].items():
            assert {"value", "low", "high", "prompts"} <= metric.keys()
            assert results["measures"][key]["scorer"]
            assert "values" not in metric


def test_a_page_says_that_steps_without_cells_are_missing(results, tmp_path):
    page.write(results | {"finished": False}, tmp_path)
    for name in ("report.html", "README.md"):
        assert "UNFINISHED" in (tmp_path / name).read_text()
    assert "UNFINISHED" not in page.readme(results)


def test_a_second_run_makes_nothing_again(inputs, results):
    before = {p: p.stat().st_mtime_ns for p in (inputs / "out").rglob("*.jsonl")}
    assert command(inputs) == 0
    assert {p: p.stat().st_mtime_ns for p in (inputs / "out").rglob("*.jsonl")} == before


def test_a_changed_setting_makes_new_files_and_keeps_the_old(inputs, results, capsys):
    before = set((inputs / "out" / "texts").iterdir())
    assert command(inputs, "--betas", "5", "--estimate") == 0
    assert set((inputs / "out" / "texts").iterdir()) == before
    shutil.copy(inputs / "texts.jsonl", inputs / "same.jsonl")
    files = [f"texts={inputs / 'same.jsonl'}", f"prompts={inputs / 'prompts.txt'}"]
    argv = [str(inputs / "compare.yaml"), "--files", *files, "--out", str(inputs / "out")]
    assert cli(["compare", *argv]) == 0  # the same content under another name is the same
    assert set((inputs / "out" / "texts").iterdir()) == before


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
    ],
)  # fmt: skip
def test_refuses(inputs, tmp_path, capsys, change, words):
    config = yaml.safe_load((inputs / "compare.yaml").read_text())
    config |= {"arms": CONFIG["arms"][:1]} | change
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    files = [f"texts={inputs / 'texts.jsonl'}", f"prompts={inputs / 'prompts.txt'}"]
    argv = ["compare", str(tmp_path / "c.yaml"), "--files", *files, "--out", str(tmp_path / "o")]
    assert cli(argv) == 2
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
