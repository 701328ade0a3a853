"""`rewardjax analyze selection`: a whole small experiment, resumed, and what it refuses."""

import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from rewardjax.cli import main as cli
from rewardjax.config import from_dict, load_yaml
from rewardjax.experiments.selection import page
from rewardjax.experiments.selection.checks import check
from rewardjax.experiments.selection.fits import measure
from rewardjax.experiments.selection.settings import SelectionConfig, fit_settings, probes
from rewardjax.experiments.selection.tables import guided
from rewardjax.experiments.settings import fill_in
from rewardjax.lm import load_lm
from rewardjax.metrics.selection import by_prompt
from rewardjax.probe_fit import FitConfig
from rewardjax.probe_step import ProbeObjective, ProbeOptim
from rewardjax.rewards import RewardModelConfig
from tests.trained import save_random

# A reward that the last token's state tells: whether the completion ends in an early letter.
SCORER = """
def early(texts):
    return [float(text[-1:].strip().lower() < "m") if text else 0.0 for text in texts]


def length(texts):
    return [min(len(text), 10) / 10 for text in texts]
"""
CONFIG = {
    "name": "tiny selection",
    "question": "Does it run?",
    "batch_size": 16,
    "tasks": [
        {
            "name": "letters",
            "prompts": "{prompts}",
            "train_prompts": 16,
            "train_samples": 4,
            "test_prompts": 8,
            "samples": 4,
            "max_new_tokens": 3,
            "train_reward": "score=selection_scorer:early",
            "judges": ["score=selection_scorer:early", "score=selection_scorer:length"],
            "skylines": ["score=selection_scorer:early", "arm"],
            "guides": [{"name": "arm", "reward_model": "{arm}", "betas": [10]}],
            "guided_samples": 2,
        },
        {
            "name": "sums",
            "task": "arithmetic",
            "chat": True,
            "train_prompts": 8,
            "train_samples": 4,
            "test_prompts": 3,
            "samples": 4,
            "max_new_tokens": 2,
            "stop": ["\n"],
            "train_reward": "score=selection_scorer:early",
            "judges": ["arithmetic"],
        },
    ],
    "losses": ["L_PG", "L_Q"],
    "variants": [
        {
            "name": "L_PG, mean",
            "loss": "L_PG",
            "settings": {"probe": {"pooling": "mean"}, "optim": {"epochs": 10}},
        }
    ],
    "fit": {"optim": {"epochs": 60, "learning_rate": 0.02}, "objective": {"group_size": 4}},
    "seeds": [0, 1],
    "held_out": 0.25,
    "layers": [0, -1],
    "ks": [1, 2, 4],
    "sweep_k": 2,
    "taus": [0.1, 0.5],
    "data_sizes": [6],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_lm_dir):
    folder = tmp_path_factory.mktemp("selection")
    (folder / "selection_scorer.py").write_text(SCORER)
    (folder / "prompts.txt").write_text("".join(f"the film {i} was\n" for i in range(30)))
    save_random(folder / "arm", load_lm(str(tiny_lm_dir)), RewardModelConfig())
    config = CONFIG | {"lm": str(tiny_lm_dir)}
    (folder / "selection.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(inputs, monkeypatch):
    monkeypatch.chdir(inputs)


def command(inputs, *more, config="selection.yaml"):
    files = [f"prompts={inputs / 'prompts.txt'}", f"arm={inputs / 'arm'}"]
    out = ["--out", str(inputs / "out"), "--publish", str(inputs / "published")]
    return cli(["analyze", "selection", str(inputs / config), "--files", *files, *out, *more])


@pytest.fixture(scope="module")
def results(inputs):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        assert command(inputs, "--hours", "1e-9") == 3  # it stops before its second step …
        assert "UNFINISHED" in (inputs / "published" / "README.md").read_text()
        assert command(inputs) == 0  # … and goes on
    return json.loads((inputs / "published" / "results.json").read_text())


def test_every_rule_is_judged_at_every_k(results):
    assert results["finished"]
    letters, sums = results["tasks"]
    for task in results["tasks"]:
        assert [rule["name"] for rule in task["rules"]] == ["L_PG", "L_Q", "L_PG, mean"]
        for rule in task["rules"]:
            assert len(rule["layers"]) == len(rule["taus"]) == len(rule["seconds"]) == 2
            for judge, base in zip(rule["judges"], task["base"], strict=True):
                assert [one["k"] for one in judge] == [1, 2, 4]
                # one of one is any: the base rate, whatever the probe
                assert judge[0]["reward"]["value"] == pytest.approx(base["value"], abs=1e-5)
                assert all(one["reward"]["n"] == task["test"]["prompts"] for one in judge)
    assert [judge["name"] for judge in letters["judges"]] == [
        "selection_scorer:early",
        "selection_scorer:length",
        "LM log-probability",
    ]
    assert letters["seen_in_training"]
    assert not sums["seen_in_training"]
    assert [judge["name"] for judge in sums["judges"]][:2] == [
        "arithmetic",
        "selection_scorer:early",
    ]
    assert {(one["name"], one["prompts"]) for one in letters["sizes"]} == {
        (loss, size) for loss in ("L_PG", "L_Q") for size in (6, 16)
    }
    assert all(len(one["rewards"]) == 2 for one in letters["sizes"])


def test_prompts_of_training_and_test_are_others(inputs, results):
    prompts = {
        part: {
            json.loads(line)["prompt"]
            for line in next((inputs / "out" / "prompts").glob(f"letters-{part}-*")).open()
        }
        for part in ("train", "test")
    }
    assert (len(prompts["train"]), len(prompts["test"])) == (16, 8)
    assert not prompts["train"] & prompts["test"]


def test_a_probe_that_sees_the_reward_beats_chance_and_no_choice_beats_the_skyline(results):
    letters = results["tasks"][0]
    base, skyline = letters["base"][0], letters["skylines"][0]
    assert skyline["name"] == "selection_scorer:early"
    for rule in letters["rules"][:2]:
        at_most = [one["reward"]["value"] for one in skyline["judges"][0]]
        earned = [one["reward"]["value"] for one in rule["judges"][0]]
        best = [one["best"]["value"] for one in rule["judges"][0]]
        assert earned[-1] > base["value"] + 0.05
        assert np.all(np.array(earned) <= np.array(at_most) + 1e-6)
        assert np.all(np.array(best) <= np.array(at_most) + 1e-6)
        # a larger τ is nearer to the LM
        assert rule["by_tau"][0]["kl"] > rule["by_tau"][1]["kl"] > 0
        assert 0 < rule["kl"][-1]["value"] <= np.log(4) + 1e-6


def test_differences_are_those_of_the_means(results):
    for task in results["tasks"]:
        rules = {rule["name"]: rule["judges"][0] for rule in task["rules"]}
        assert [one["name"] for one in task["differences"]] == ["L_PG", "L_PG, mean"]
        for one in task["differences"]:
            for i, found in enumerate(one["by_k"]):
                own, other = (rules[name][i]["reward"]["value"] for name in (one["name"], "L_Q"))
                assert found["value"] == pytest.approx(own - other, abs=2e-6)
                assert found["low"] <= found["value"] <= found["high"]


def test_guided_completions_are_judged_and_chosen_among(results):
    letters, sums = results["tasks"]
    (found,) = letters["guided"]
    assert (found["name"], found["beta"], found["chooser"]) == ("arm", 10.0, "L_PG")
    assert len(found["judges"]) == len(letters["judges"])
    first = found["chosen"][0]
    assert [one["k"] for one in first] == [1, 2]  # as far as its samples go
    assert first[0]["reward"]["value"] == pytest.approx(found["judges"][0]["value"], abs=1e-5)
    assert sums["guided"] == []


def test_the_page_and_readme_say_what_the_results_say(inputs, results):
    html = (inputs / "published" / "report.html").read_text()
    readme = (inputs / "published" / "README.md").read_text()
    assert readme == page.readme(results)
    letters = results["tasks"][0]
    for text in (html, readme):
        for part in ("tiny selection", "Base rate", "L_PG − L_Q", "best of k", "τ = 0", "arm, β"):
            assert part in text
    for text in (html, readme, json.dumps(results)):
        assert str(inputs.parent) not in text
    assert html.count("<svg") == 4 + 1 + 4  # the second task has no guide
    known = {f"{one['reward']['value']:.3f}" for r in letters["rules"] for one in r["judges"][0]}
    row = next(line for line in readme.splitlines() if line.startswith("| L_PG ("))
    assert set(re.findall(r"\| ([0-9.]+) \(", row)) <= known
    for file in (inputs / "published").iterdir():
        assert file.stat().st_size < 1_000_000


def test_the_speed_of_choosing_stands_beside_that_of_sampling(inputs, results):
    found = results["speed"]
    assert (found["k"], found["prompts"], found["layer"]) == (2, 8, results["layers"][1])
    rates = found["tokens_per_second"]
    pairs = zip(rates["choosing"], rates["sampling"], strict=True)
    assert found["ratio"] == pytest.approx(np.median([one / other for one, other in pairs]))
    text = f"Choosing runs at {found['ratio']:.2f} of the speed of sampling"
    for name in ("README.md", "report.html"):
        assert text in (inputs / "published" / name).read_text()


def test_a_second_run_makes_nothing_again(inputs, results):
    before = {p: p.stat().st_mtime_ns for p in (inputs / "out").rglob("*") if p.is_file()}
    assert command(inputs) == 0
    after = {p: p.stat().st_mtime_ns for p in (inputs / "out").rglob("*") if p.is_file()}
    assert after == before
    assert json.loads((inputs / "published" / "results.json").read_text()) == results


def test_an_estimate_makes_nothing(inputs, results, capsys):
    before = set((inputs / "out" / "fits").iterdir())
    assert command(inputs, "--seeds", "0", "7", "--estimate") == 0
    assert set((inputs / "out" / "fits").iterdir()) == before
    # of the new seed: three probes and two on fewer prompts of each task, one on guided completions
    assert re.search(r"fits +│ +22 │ +[0-9.]+ │ +11 │", capsys.readouterr().out)


def test_measure_on_states_that_hold_the_reward():
    """By hand: the second layer's first number is the reward, so Q's order is the reward's."""
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, 4, size=(20, 6)) / 4.0
    states = rng.normal(size=(120, 2, 3)).astype(np.float32)
    states[:, 1, 0] = rewards.reshape(-1)
    config = from_dict(
        SelectionConfig, {"ks": [1, 2, 6], "sweep_k": 2, "taus": [0.01, 10.0], "held_out": 0.25}
    )
    optim = ProbeOptim(epochs=200, batch_size=30, learning_rate=0.02)
    how = FitConfig(objective=ProbeObjective("L_Q"), optim=optim)
    x = jnp.asarray(states)
    found = measure(config, how, x, rewards, x, [rewards], seed=0, prompts=20)
    assert (found["layer"], found["tau"]) == (1, 0.01)
    for i, k in enumerate((1, 2, 6)):
        oracle, _ = by_prompt(rewards, rewards, k, "best")
        np.testing.assert_allclose(found["judges"][0]["best"][i], oracle, atol=1e-6)
        np.testing.assert_allclose(found["judges"][0]["reward"][i], oracle, atol=1e-3)
    assert found["held_out"] > rewards.mean() + 0.2
    assert found["layers"][1] > found["layers"][0]
    flat = found["taus"][1]  # τ of ten deviations: nearly any
    assert flat["kl"] < 0.01
    assert np.mean(flat["reward"]) == pytest.approx(rewards.mean(), abs=0.06)


def test_guidance_stands_beside_the_k_that_earns_as_much(results):
    task = json.loads(json.dumps(results["tasks"][0]))
    earned = [one["reward"]["value"] for one in task["rules"][0]["judges"][0]]
    for value, words in ((max(earned) + 1, "above 4"), (min(earned) - 1, "1")):
        task["guided"][0]["judges"][0]["value"] = value
        table = guided(results, task)
        (row,) = [row for row in table.rows if row[0].value == "arm, β = 10"]
        assert row[-1].value == words


def test_the_config_of_the_results_means_something(tmp_path):
    for name in ("judge", "arm"):
        (tmp_path / name).mkdir()
    (tmp_path / "arm" / "config.json").touch()
    values = load_yaml(Path(__file__).parents[2] / "configs" / "qprobe.yaml")
    config = from_dict(SelectionConfig, values)
    files = [f"{name}={tmp_path / name}" for name in ("neutral", "judge", "arm")]
    config = fill_in(dataclasses.replace(config, files=tuple(files)))
    check(config)
    for probe in probes(config):
        how = from_dict(FitConfig, fit_settings(config, probe))
        assert how.objective.name == probe.loss
        assert how.objective.group_size == config.tasks[0].train_samples
    for task in config.tasks:
        assert task.judges[0] != task.train_reward or task.task == "arithmetic"


TASK = CONFIG["tasks"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": [TASK, TASK]}, "are called 'letters'"),
        ({"losses": []}, "losses is empty"),
        ({"losses": ["L_PQ"]}, "expected 'L_PG'"),
        ({"ks": [1, 8], "sweep_k": 8}, "samples is 4 and the largest of ks 8"),
        ({"sweep_k": 3}, "sweep_k is 3"),
        ({"taus": [0.0]}, "expected finite numbers above 0"),
        ({"data_sizes": [8]}, "task 'sums': data_sizes has 8"),
        ({"layers": [9]}, "layers: 9"),
        ({"variants": [{"name": "L_Q"}]}, "are called 'L_Q'"),
        ({"variants": [{"name": "a", "settings": {"optim": {"epoch": 1}}}]}, "optim.epochs"),
        ({"fit": {"optim": {"epochs": 0}}}, "probe 'L_PG': optim.epochs is 0"),
        ({"tasks": [TASK | {"train_prompts": 25}]}, "has 5 prompts left for test_prompts"),
        ({"tasks": [TASK | {"judges": ["vadr"]}]}, "did you mean 'vader'"),
        ({"tasks": [TASK | {"judges": ["arithmetic"]}]}, "needs `task: arithmetic`"),
        ({"tasks": [TASK | {"task": "arithmetic"}]}, "got both"),
        ({"tasks": [TASK | {"train_reward": ""}]}, "train_reward is empty"),
        ({"tasks": [TASK | {"max_new_tokens": 1000}]}, "exceeds the context"),
        ({"tasks": [TASK | {"guides": [{"name": "x", "reward_model": "no"}]}]}, "no folder of a"),
        ({"tasks": [TASK | {"prompts": "{promts}"}]}, "needs the files promts"),
    ],
)
def test_bad_settings_are_refused_before_any_work(inputs, tiny_lm_dir, capsys, change, words):
    config = CONFIG | {"lm": str(tiny_lm_dir)} | change
    (inputs / "bad.yaml").write_text(yaml.safe_dump(config))
    text = (inputs / "bad.yaml").read_text()
    paths = {"prompts": "prompts.txt", "arm": "arm"}
    files = [f"{name}={inputs / paths[name]}" for name in paths if f"{{{name}}}" in text]
    argv = ["analyze", "selection", "bad.yaml", "--out", "bad"]
    assert cli([*argv, *(["--files", *files] if files else [])]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list((inputs / "bad").rglob("*.jsonl"))
