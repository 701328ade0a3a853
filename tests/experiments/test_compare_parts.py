"""The workspace of a comparison, what of it is published, and β where perplexities are missing."""

import json
import math

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.experiments.compare.cost import TEXT, trainings
from rewardjax.experiments.compare.lm_tables import of_lms, perplexity_ratio
from rewardjax.experiments.compare.results import _area, _controls
from rewardjax.experiments.compare.settings import (
    ArmConfig,
    CompareConfig,
    ModelConfig,
    strengths,
)
from rewardjax.experiments.compare.steps import Cell, Steps
from rewardjax.experiments.estimate import weights
from rewardjax.experiments.record import public
from rewardjax.experiments.workspace import Workspace
from rewardjax.lm import open_lm


def test_public_names_no_path():
    config = CompareConfig(
        out="/home/jürgen/o",
        lm="/lms/tiny",
        files=("a=/home/jürgen/x.tsv", "b=../up/y.jsonl", "c=d"),
    )
    text = public(
        config,
        "rewardjax compare /etc/c.yaml --files a=/home/jürgen/x.tsv b=../up/y.jsonl --lm /lms/tiny"
        " --publish '/srv/p' --out /home/jürgen/o/texts/t.jsonl ~/z ../q/w",
    )
    assert text == (
        "rewardjax compare c.yaml --files a=x.tsv b=y.jsonl --lm tiny --publish 'p'"
        " --out OUT/texts/t.jsonl z w"
    )
    kept = {"n": 0.5, "where": ["prompt.toxicity>=0.5"], "text": "and/or, docs/results/d"}
    assert public(config, kept) == kept
    assert public(CompareConfig(out="."), "--out ./a --x 0.5") == "--out OUT/a --x 0.5"


def test_controls_are_shown_where_they_are_asked_for_and_name_no_path(tmp_path):
    """Another comparison of the same folder may have run them."""
    out = tmp_path / "controls"
    out.mkdir()
    (out / "controls.json").write_text(json.dumps({"settings": {"out": str(out)}}))
    shown = []
    for asked in (False, True):
        models = (ModelConfig(name="ARM"),)
        config = CompareConfig(out=str(tmp_path), models=models, controls=asked)
        shown.append(_controls(Steps(config, Workspace(config))))
    assert shown[0] is None
    assert shown[1]["settings"] == {"out": "OUT/controls"}


def test_the_time_of_a_stopped_step_is_kept_and_two_comparisons_share_the_record(tmp_path):
    config = CompareConfig(out=str(tmp_path))
    one, other = Workspace(config), Workspace(config)
    output = one.folder / "texts" / "x.jsonl"

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.once(output, "decode", stopped)
    assert one.costs["texts/x.jsonl"]["command"] == "decode"
    assert one.made() == []
    (tmp_path / "texts").mkdir()
    other.once(other.folder / "y.json", "y", (tmp_path / "y.json").touch)
    one.once(output, "decode", output.touch)
    assert json.loads((tmp_path / "costs.json").read_text()).keys() == {"texts/x.jsonl", "y.json"}
    assert len(one.made("texts/")) == 1


def test_a_step_that_makes_nothing_is_an_error(tmp_path):
    work = Workspace(CompareConfig(out=str(tmp_path)))
    with pytest.raises(RewardJaxError, match="ended without"):
        work.once(tmp_path / "x", "rewardjax decode", lambda: 130)


@pytest.mark.parametrize("named", ["prompts", "training", "model"])
def test_what_a_yaml_names_itself_counts_by_its_content(tmp_path, named):
    path = str(tmp_path / "file.tsv")
    data = {"data": {"path": path}}
    config = CompareConfig(
        out=str(tmp_path / "out"),
        arms=(ArmConfig(name="a", prompts=path),) if named == "prompts" else (),
        training=data if named == "training" else {},
        models=(ModelConfig("m", data if named == "model" else {}),),
    )
    places = []
    for content in ("one", "two", "one"):
        (tmp_path / "file.tsv").write_text(content)
        places.append(Workspace(config).place("texts", "x", ["prompts", path]))
    assert places[0] == places[2] != places[1]


def test_beta_where_no_perplexity_is_left(tmp_path, monkeypatch):
    model, arm = ModelConfig("m"), ArmConfig(name="a", metric="v.positive_rate")
    config = CompareConfig(out=str(tmp_path), models=(model,), arms=(arm,), betas=(5.0, 10.0, 20.0))
    found = {0.0: (0.5, 10.0), 5.0: (0.6, 12.0), 10.0: (0.7, 14.0), 20.0: (0.9, None)}

    def measured(cell):
        rate, perplexity = found[cell.beta]
        return {
            "metrics": {"v.positive_rate": {"value": rate}, "perplexity": {"value": perplexity}}
        }

    steps = Steps(config, Workspace(config))
    monkeypatch.setattr(steps, "measured", measured)
    assert steps.chosen_beta(arm, model) == 10.0


def test_the_estimate_counts_a_pass_over_the_texts_once(tmp_path, tiny_lm_dir):
    """All heads of one layer read the same states, and all students of one teacher its rewards."""
    own = {"reward_model": {"backbone": "own"}}
    models = (
        ModelConfig("own", own),
        ModelConfig("layer 2", {"reward_model": {"layer": 2}}),
        ModelConfig("rank 4", {"reward_model": {"parametrization": "arm_rank", "rank": 4}}),
        ModelConfig("layer 2, again", {"reward_model": {"layer": 2}, "optim": {"epochs": 2}}),
        ModelConfig("student", own | {"objective": {"targets": "candidates"}}, teacher="own"),
    )
    config = CompareConfig(
        out=str(tmp_path),
        lm=str(tiny_lm_dir),
        models=models,
        training={"data": {"path": "x", "max_examples": 10, "split_seed": 0}},
        seeds=(0, 1),
    )
    steps, opened = Steps(config, Workspace(config)), open_lm(str(tiny_lm_dir))
    read = 2 * 10 * TEXT * weights(opened.config)  # one pass of the LM
    trained = [3 * read, read, read, 0, 3 * read + 9 * read]
    assert list(trainings(steps, opened)) == [*trained, 3 * read, 0, 0, 0, 3 * read]
    steps.trained(models[1], 0).mkdir(parents=True)
    assert list(trainings(steps, opened)) == [
        *trained[:1],
        *trained[2:],
        3 * read,
        0,
        0,
        0,
        3 * read,
    ]


def test_a_fine_tuned_lm_decodes_alone_by_what_a_nado_taught_it(tmp_path, monkeypatch):
    nado = ModelConfig("nado", program="nado")
    tuned = ModelConfig("tuned", {"rounds": 2}, program="attribute", teacher="nado")
    arm = ArmConfig(name="a", prompts="p.txt", metric="v.toxic_rate", invert=True)
    config = CompareConfig(
        out=str(tmp_path),
        models=(nado, tuned),
        arms=(arm,),
        nado={"held_out": 0.2},
        attribute={"data": {"path": "texts.tsv"}},
        training={"data": {"path": "labelled.tsv"}},
        seeds=(3,),
    )
    steps = Steps(config, Workspace(config))
    assert steps.training(nado, 3) == {
        "held_out": 0.2, "lm": config.lm, "seed": 3, "dtype": "float32"
    }  # fmt: skip
    assert steps.training(tuned, 3) == {
        "data": {"path": "texts.tsv"},
        "rounds": 2,
        "lm": config.lm,
        "seed": 3,
        "reward_model": str(steps.run_dir(nado, 3) / "reward_model"),
    }
    lm = steps.run_dir(tuned, 3) / "round-2" / "lm"
    assert steps.trained(tuned, 3) == lm
    assert strengths(config, arm, tuned) == (0.0,)
    ran = []
    monkeypatch.setattr(steps.work, "command", lambda out, words, argv: ran.append((words, argv)))
    steps.train(tuned, 3)
    steps.decode(Cell(arm, tuned, 3, 0.0))
    tune = [("train", "nado"), ("train", "attribute")]  # whoever teaches is trained before
    assert [words for words, _ in ran] == [*tune, *tune, ("decode", "guided")]
    argv = ran[-1][1]
    assert argv[argv.index("--lm") + 1] == str(lm)
    assert not {"--reward-model", "--beta", "--invert"} & set(argv)


def test_the_table_of_fine_tuned_lms_begins_with_the_lm_before():
    schedule = {"scheme": "parallel", "updates": 8, "seconds": 50.0,
                "critical_path": {"updates": 4}}  # fmt: skip
    seed = {"finished": True, "cpu_seconds": 70.0, "schedule": schedule}
    seed |= {"before": {"eval/perplexity": 30.0}, "metrics": {"eval/perplexity": 20.0}}
    tuned = {"name": "tuned", "program": "attribute", "seeds": [seed]}
    table = of_lms({"models": [{"name": "ARM", "program": "reward-model", "seeds": []}, tuned]})
    assert table is not None
    before, after = ([cell.value for cell in row] for row in table.rows)
    assert before[:3] == ["the LM before", "30.0", "–"]
    assert after[:3] == ["tuned", "20.0", "–"]
    assert after[-4:] == ["8", "4", "50.0", "70.0"]
    assert of_lms({"models": []}) is None
    tokens = [3, 5, 40]
    seed["held_out"] = {"nll": [6.0, 20.0, 80.0], "tokens": tokens, "accepted": [True, True, False]}
    seed["metrics"]["eval/detection"] = {"value": 0.7, "low": 0.6, "high": 0.8}
    seed["metrics"]["eval/detection_auc"] = 0.7
    other = {**seed, "held_out": seed["held_out"] | {"nll": [9.0, 15.0, 83.0]}}
    models = [tuned, {"name": "other", "program": "attribute", "seeds": [other]}]
    table = of_lms({"models": models})
    assert table is not None
    assert table.rows[1][2].value == "1.000"
    assert table.rows[2][2].value == f"{math.exp((107 - 106) / 48):.3f}"
    assert table.rows[2][4].value == f"{math.exp((24 - 26) / 8):.3f}"  # of the two accepted
    assert table.rows[2][5].note == "0.600 to 0.800"
    assert "(2 of 3 accepted" in str(table.caption)
    found = perplexity_ratio(other["held_out"], seed["held_out"])
    assert found is not None
    assert found.value == pytest.approx(math.exp(107 / 48) / math.exp(106 / 48))
    swapped = perplexity_ratio(seed["held_out"], other["held_out"])
    assert swapped is not None
    # The worst a resample can draw is the worst text alone.
    assert math.exp(-5 / 5) <= found.low < 1 < found.high <= math.exp(3 / 3)
    assert (swapped.low, swapped.high) == pytest.approx((1 / found.high, 1 / found.low))
    assert perplexity_ratio(seed["held_out"], {"nll": [1.0], "tokens": [3]}) is None


@pytest.mark.parametrize(
    ("betas", "program"), [((20.0,), "reward-model"), ((5.0, 20.0), "attribute")]
)
def test_one_point_is_no_curve(betas, program):
    """A fine-tuned LM has one strength, which is none."""
    config = CompareConfig(betas=betas)
    models = ModelConfig("A"), ModelConfig("B", program=program)
    steps = object.__new__(Steps)
    steps.config = config  # and nothing else is looked up
    assert _area(steps, ArmConfig("up"), *models) is None
