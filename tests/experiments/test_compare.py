"""`rewardjax compare`: a whole small comparison, made once, resumed, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import yaml

from rewardjax.cli import main as cli
from rewardjax.config import from_dict
from rewardjax.experiments import rank_page
from rewardjax.experiments.compare import page, speed
from rewardjax.experiments.compare.figures import curves
from rewardjax.experiments.compare.published import Published
from rewardjax.experiments.compare.results import _area
from rewardjax.experiments.compare.settings import CompareConfig
from rewardjax.experiments.compare.steps import Cell, Steps
from rewardjax.experiments.workspace import Workspace
from rewardjax.train.run import prepare
from rewardjax.train.settings import TrainConfig
from tests.experiments.comparison import command, files, write_inputs

BETAS = {
    "RAD": (5.0, 10.0),
    "ARM": (5.0, 10.0),
    "ARM distilled": (2.0, 5.0),
    "NADO": (1.0, 5.0),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_lm_dir):
    return write_inputs(tmp_path_factory.mktemp("compare"), tiny_lm_dir)


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


def test_a_run_that_exports_its_best_is_judged_by_that(inputs, results):
    (nado,) = (model for model in results["models"] if model["name"] == "NADO")
    log = next((inputs / "out" / "models").glob("nado-s0-*/metrics.jsonl"))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = {row["step"]: row["eval/objective"] for row in rows if "eval/objective" in row}
    best = nado["seeds"][0]["metrics"]["eval/objective"]
    assert best == min(value for step, value in found.items() if step) < found[4]  # the last


def test_prefixes_are_of_texts_that_models_have_and_have_not_seen(inputs, results):
    def texts(name):
        (path,) = (inputs / "out" / "prefixes").glob(f"{name}*.jsonl")
        return [json.loads(line)["text"] for line in path.read_text().splitlines()]

    path = next((inputs / "out" / "models").glob("rad-s0-*.yaml"))
    run = prepare(from_dict(TrainConfig, yaml.safe_load(path.read_text())), None, None, None)
    assert texts("training") == [run.examples.texts[i] for i in run.train_rows]
    assert texts("held-out") == [run.examples.texts[i] for i in run.eval_rows]
    for model in results["models"]:
        assert list(model["seeds"][0]["rank"]["sets"]) == ["held-out", "training"]


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


def test_a_model_has_one_colour_in_the_curves_of_every_arm(results):
    more = [c | {"beta": 10.0} for c in results["cells"] if c["arm"] == "down" and c["model"]]
    svgs = {
        arm["name"]: [svg for svg, _ in curves(results | {"cells": results["cells"] + more}, arm)]
        for arm in results["arms"]
    }
    assert [len(found) for found in svgs.values()] == [1, 1]
    assert "var(--series-1," in svgs["up"][0]
    assert "var(--series-2," in svgs["down"][0]  # of ARM, the second model of the page
    assert "var(--series-1," not in svgs["down"][0]


def test_every_number_has_its_n_and_its_judge(results):
    for cell in results["cells"]:
        for key, metric in cell["metrics"].items():
            assert {"value", "low", "high", "prompts"} <= metric.keys()
            assert results["measures"][key]["scorer"]
            assert "values" not in metric
        assert ("per_prompt" in cell) == (not cell["full"] and cell["seed"] == 0)


def test_another_workspace_goes_on_from_what_is_published(inputs, results):
    """It makes what is missing, trains what that needs, and finds the numbers of one workspace."""
    cells, whole = results["cells"], json.loads(json.dumps(results))
    missing = [c for c in cells if c["model"] == "ARM distilled" and (c["full"] or c["seed"])]
    assert len(missing) == 2
    part = whole | {"cells": [c for c in cells if c not in missing], "finished": False}
    arm, distilled = (m for m in part["models"] if m["name"] in ("ARM", "ARM distilled"))
    distilled["seeds"][1]["finished"] = False
    arm["seeds"][1]["agreement"] = None
    (inputs / "elsewhere").mkdir()
    (inputs / "elsewhere" / "results.json").write_text(json.dumps(part))
    assert command(inputs, out="out 2", publish="elsewhere") == 0
    made = {
        kind: len(list((inputs / "out 2" / kind).glob("*[!l]"))) for kind in ("models", "numbers")
    }
    # RAD is the teacher and the one agreed with, then ARM's second seed and both of its student
    assert made == {"models": 4, "numbers": 2}
    found = json.loads((inputs / "elsewhere" / "results.json").read_text())
    assert found["finished"]
    own = {"workspace", "seconds"}
    for ours, theirs in zip(found["cells"], cells, strict=True):
        assert {k: v for k, v in ours.items() if k not in own} == {
            k: v for k, v in theirs.items() if k not in own
        }
        assert (ours["workspace"] == found["workspace"]) == (theirs in missing)
    for name in ("areas", "samples", "speed", "measures", "arms"):
        assert found[name] == results[name]
    for ours, theirs in zip(found["models"], results["models"], strict=True):
        for a, b in zip(ours["seeds"], theirs["seeds"], strict=True):
            assert (a["metrics"], a["rank"]) == (b["metrics"], b["rank"])
            assert (a["agreement"] is None) == (b["agreement"] is None)
    assert [record["workspace"] for record in found["earlier"]] == [results["workspace"]]
    readme = (inputs / "elsewhere" / "README.md").read_text()
    assert "goes on from" in readme
    assert "UNFINISHED" not in readme


def test_a_published_area_is_not_shown_of_cells_made_anew(results, tmp_path):
    """Results without values per prompt, as older ones are: their area cannot be made again."""
    kept = [{k: v for k, v in cell.items() if k != "per_prompt"} for cell in results["cells"]]
    (tmp_path / "results.json").write_text(json.dumps(results | {"cells": kept}))
    folders = {"publish": str(tmp_path), "out": str(tmp_path / "out")}
    config = from_dict(CompareConfig, results["settings"] | folders)
    steps = Steps(config, Workspace(config))
    arm, (reference, model, *_) = config.arms[0], config.models
    known = results["areas"][0]
    assert (known["model"], known["reference"]) == (model.name, reference.name)
    assert _area(steps, arm, reference, model) == known
    cell = Cell(arm, model, 0, 5.0)
    steps.numbers(cell).write_text(json.dumps(steps.measured(cell)))
    assert _area(steps, arm, reference, model) is None


@pytest.mark.parametrize(
    ("change", "cells", "seeds"),
    [
        ({}, 19, 12),
        ({"top_k": 6}, 0, 12),
        ({"scorers": ("textblob",)}, 0, 12),
        ({"training": {"optim": {"steps": 4}}}, 6, 2),  # unguided, and NADO
    ],
)
def test_only_what_was_made_alike_is_taken_over(inputs, results, change, cells, seeds):
    settings = results["settings"] | change | {"publish": str(inputs / "published")}
    config = from_dict(CompareConfig, settings)
    same = results["inputs"]
    assert same.keys() == {"texts.jsonl", "prompts.txt"}
    found = Published(config, "another", same)
    assert (len(found._cells), len(found._seeds)) == (cells, seeds)
    assert len(Published(config, results["workspace"], same)) == 0  # it has its own files
    assert len(Published(config, "another", same | {"texts.jsonl": "other content"})) == 0


def test_a_rank_is_of_rows_that_the_first_models_texts_give(inputs, results):
    """With other texts of that one, other models' ranks are neither found nor taken over."""
    first, *others = results["settings"]["models"]
    other = first | {"settings": first["settings"] | {"data": {"max_examples": 30}}}
    settings = results["settings"] | {"publish": str(inputs / "published")}
    folders, known = set(), []
    for models in ([first, *others], [other, *others]):
        config = from_dict(CompareConfig, settings | {"models": models, "out": str(inputs / "out")})
        steps = Steps(config, Workspace(config))
        folders.add(steps.rank(config.models[1], 0))
        known.append(Published(config, "another", results["inputs"]).seed(others[0]["name"], 0))
    same, changed = known
    assert len(folders) == 2
    assert same["rank"] is not None
    assert changed == same | {"rank": None, "agreement": None}


def test_damaged_results_are_not_overwritten(inputs, tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"cells": ')
    assert command(inputs, publish=str(tmp_path)) == 2
    assert "holds no results of a comparison" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == '{"cells": '


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
    same = [f"texts={inputs / 'same.jsonl'}", files(inputs)[1]]
    argv = [str(inputs / "compare.yaml"), "--files", *same, "--out", str(inputs / "out")]
    assert cli(["compare", *argv]) == 0  # the same content under another name is the same
    assert set((inputs / "out" / "texts").iterdir()) == before
