"""`rewardjax train probe`: from rows, from pairs, from prompts and a reward; killed and resumed."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from rewardjax import config as settings_file
from rewardjax.cli import main
from rewardjax.data.generations import Row, read_rows
from rewardjax.errors import RewardJaxError
from rewardjax.probes import load_probe
from rewardjax.sequence import Completion, open_sequence_reward
from rewardjax.train import probe_settings, samples
from rewardjax.train.probe_reward import open_reward
from rewardjax.train.probe_settings import ProbeTrainConfig
from rewardjax.train.runs import read
from rewardjax.train.sample_settings import PromptsConfig

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = (" good", " bad", " great", " film", " it", " was")


@pytest.fixture
def job(tmp_path, tiny_lm_dir, monkeypatch):
    """Runs the command in tmp_path; its status."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, run_dir="run"):
        argv = ["train", "probe", "--lm", str(tiny_lm_dir), "--run-dir", run_dir]
        fast = ["--optim.epochs", "20", "--optim.learning-rate", "0.02", "--held-out", "0.25"]
        return main([*argv, *fast, *map(str, flags)])

    return run


def rows(count=40, each=4):
    """Completions that end in a word, which the reward names."""
    rng = np.random.default_rng(0)
    for i in range(count):
        for _ in range(each):
            word = rng.integers(len(WORDS))
            text = "".join(rng.choice(WORDS, 2)) + WORDS[word]
            yield {"prompt": f"the film {i}", "completion": text, "reward": float(word in (0, 2))}


def write(name, values):
    Path(name).write_text("".join(json.dumps(value) + "\n" for value in values))
    return name


def test_rows(job, capsys, tmp_path, tiny_lm):
    data = write("rows.jsonl", rows())
    assert job("--data.path", data, "--layers", "0", "2", "-1") == 0
    out = capsys.readouterr().out
    assert "saved" in out
    assert "wrote run/probe" in out
    probe = load_probe("run/probe")
    assert [layer["layer"] for layer in probe.record["layers"]] == [0, 2, 3]
    best = max(probe.record["layers"], key=lambda layer: layer["expected_reward"])
    assert probe.config.layer == best["layer"]
    assert best["auc"] > 0.99
    held = probe.record["held_out"]
    assert held["completions"] == 4 * held["groups"] == 40
    assert best["expected_reward"] > held["mean_reward"] + 0.2
    # What decoding asks: the same Q of the same ids, of both kinds of words.
    reward = open_sequence_reward("run/probe", tiny_lm)
    encode = lambda text: tiny_lm.tokenizer(text)["input_ids"]  # noqa: E731
    texts = [f" it was{word}" for word in (" good", " bad")]
    asked = [Completion("the film 1", x, encode("the film 1"), encode(x)) for x in texts]
    good, bad = reward(asked)
    assert good > bad
    log = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 21))
    assert log[-1]["eval/expected_reward"] == pytest.approx(best["expected_reward"])
    state = read(Path("run"))
    assert (state.state, state.parametrization, state.backbone) == ("finished", "probe", "L_PG")
    assert state.best == max(row["eval/expected_reward"] for row in log)
    assert str(tmp_path) not in Path("run/probe/probe.json").read_text()


def test_pairs_by_mean_states_and_a_perceptron(job):
    values = list(rows(60, 6))
    pairs = [
        {"prompt": good["prompt"], "chosen": good["completion"], "rejected": bad["completion"]}
        for good, bad in itertools.product(values, values)
        if good["reward"] > bad["reward"] and good["prompt"] == bad["prompt"]
    ]
    data = write("pairs.jsonl", pairs)
    shape = ["--probe.pooling", "mean", "--probe.depth", "2", "--probe.width", "16"]
    assert job("--data.path", data, "--objective.name", "L_QP", *shape, "--seed", 1) == 0
    probe = load_probe("run/probe")
    assert (probe.config.pooling, probe.config.depth, probe.loss) == ("mean", 2, "L_QP")
    assert probe.record["layers"][0]["best_reward"] > 0.7  # which of two: 0.5 by chance
    assert job("--data.path", data, "--objective.name", "L_CE", run_dir="other") == 0


REWARD = (
    "def score(texts):\n    return [text.count('a') - text.count('e') + 0.5 for text in texts]\n"
)


def sampled(*flags):
    prompts = ["--prompts.path", "prompts.txt", "--reward", "letters:score", "--sampling.top-k", 8]
    return [*prompts, "--sampling.num-samples", 6, "--sampling.max-new-tokens", 5, *flags]


def test_prompts_and_a_reward_of_ones_own(job, monkeypatch, capsys):
    Path("letters.py").write_text(REWARD)
    Path("prompts.txt").write_text("".join(f"{word} film\n" for word in "abcdefghijkl"))
    assert job(*sampled("--layers", "1", "3")) == 0
    whole = Path("run/scored.jsonl").read_bytes()
    found = [json.loads(line) for line in whole.splitlines()]
    assert len(found) == 12 * 6
    for row in found:
        assert row["reward"] == row["completion"].count("a") - row["completion"].count("e") + 0.5
    generated = read_rows("run/completions.jsonl")
    assert [row["token_ids"] for row in found] == [row.token_ids for row in generated]
    probe = Path("run/probe/probe.safetensors").read_bytes()

    # Stopped in the midst of scoring, and a row is half written: the same in the end.
    count = iter(range(40))
    scored = samples._scored

    def dying(*row):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return scored(*row)

    monkeypatch.setattr(samples, "BLOCK", 16)
    monkeypatch.setattr(samples, "_scored", dying)
    assert job(*sampled("--layers", "1", "3"), run_dir="killed") == 130
    monkeypatch.setattr(samples, "_scored", scored)
    partial = Path("killed/scored.jsonl")
    assert partial.read_bytes() == b"".join(line + b"\n" for line in whole.splitlines()[:32])
    partial.write_bytes(whole[: partial.stat().st_size + 400])
    assert job(*sampled("--layers", "1", "3"), run_dir="killed") == 2
    for _ in range(2):
        assert job(*sampled("--layers", "1", "3", "--resume"), run_dir="killed") == 0
        assert partial.read_bytes() == whole
        assert Path("killed/probe/probe.safetensors").read_bytes() == probe

    # What was scored trains other probes.
    assert job("--data.path", "run/scored.jsonl", "--layers", "1", "3", run_dir="again") == 0
    assert Path("again/probe/probe.safetensors").read_bytes() == probe

    # Neither prompts nor a reward of another kind are gone on with.
    capsys.readouterr()
    Path("letters.py").write_text(REWARD + "\n")
    partial.write_bytes(whole.replace(b"sha256:", b"sha256:0"))
    assert job(*sampled("--layers", "1", "3", "--resume"), run_dir="killed") == 2
    assert "scored.jsonl:1: not the text that is to be scored" in one_line(capsys)
    Path("prompts.txt").write_text("a film\nno film\n")
    assert job(*sampled("--layers", "1", "3", "--resume"), run_dir="killed") == 2
    assert "prompts.jsonl' holds other prompts than" in one_line(capsys)
    assert job(*sampled("--layers", "1", "--resume"), run_dir="killed") == 2
    assert "cannot continue 'killed': layers differ" in one_line(capsys)


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("rewardjax: error: ")
    assert error.count("\n") == 1
    return error


def test_a_task_through_a_chat_template(job, capsys):
    """A random LM solves nothing: all is sampled and checked, and there is nothing to learn."""
    flags = ["--prompts.task", "arithmetic", "--prompts.limit", 4, "--chat"]
    flags += ["--sampling.num-samples", 2, "--sampling.max-new-tokens", 3, "--sampling.stop", "xx"]
    assert job(*flags, "--sampling.seed", 5) == 2
    assert "rewards of the 6 completions to train on are all 0" in one_line(capsys)
    found = read_rows("run/completions.jsonl")
    assert found[0].prompt.endswith("\nAnswer:")
    # With answers put in their place, it trains on the ids behind the template.
    lines = [json.loads(line) for line in Path("run/scored.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        line["reward"] = float(i % 2)
    data = write("made.jsonl", lines)
    assert job("--data.path", data, "--chat", run_dir="other") == 0
    assert load_probe("other/probe").record["chat"]
    for line in lines:  # without ids the texts are encoded, behind the template as well
        del line["token_ids"]
        line["completion"] += " a"
    assert job("--data.path", write("text.jsonl", lines), "--chat", run_dir="third") == 0


def test_checkers_score_rows():
    config = ProbeTrainConfig(prompts=PromptsConfig(task="arithmetic", limit=5, seed=3))
    prompts, tasks = samples.read_tasks(config.prompts)
    reward = open_reward(config, tasks)
    right = [Row(row.text, tasks[row.index].solution, row.index, 0) for row in prompts]
    wrong = [Row(row.text, " 9999", row.index, 1) for row in prompts]
    assert reward.score([*right, *wrong]).tolist() == [1.0] * 5 + [0.0] * 5
    assert reward.version == "checker arithmetic 1"


GOOD = [{"prompt": f"{i % 4}", "completion": " a", "reward": i / 8} for i in range(8)]
BAD = {
    "nothing": ([], "either data.path, .* or prompts.path or prompts.task, got neither"),
    "both": (["--data.path", "d.jsonl", "--prompts.task", "gsm8k"], "got both"),
    "reward of rows": (["--data.path", "d.jsonl", "--reward", "vader"], "reward is 'vader', but"),
    "no reward": (["--prompts.path", "p.txt"], "reward is empty; expected a scorer"),
    "scorer": (["--prompts.path", "p.txt", "--reward", "vadr"], "unknown scorer 'vadr'; did you"),
    "checker": (
        ["--prompts.path", "p.txt", "--reward", "mbpp"],
        "reward is the checker 'mbpp' and prompts.task is None",
    ),
    "code": (
        ["--prompts.task", "mbpp", "--prompts.path", "m.jsonl", "--held-out", "0"],
        "allow it with --allow-code-execution",
    ),
    "task file": (["--prompts.task", "arithmetic", "--prompts.path", "p.txt"], "no meaning"),
    "where": (["--prompts.task", "gsm8k", "--prompts.where", "a>1"], "prompts.where has no"),
    "held out": (["--data.path", "d.jsonl", "--held-out", "1"], "held_out is 1.0; expected 0 <="),
    "all held out": (["--data.path", "d.jsonl", "--held-out", "0.99"], "leave none to train on"),
    "choice": (["--data.path", "d.jsonl", "--held-out", "0", "--layers", "1", "2"], "several"),
    "layer": (["--data.path", "d.jsonl", "--layers", "9"], "layers: 9: this LM has layers 0"),
    "depth": (["--data.path", "d.jsonl", "--probe.depth", "4"], "probe.depth is 4; expected 1"),
    "rate": (["--data.path", "d.jsonl", "--optim.learning-rate", "nan"], "learning_rate is nan"),
    "group": (["--data.path", "d.jsonl", "--objective.group-size", "1"], "group_size is 1"),
    "top k": (
        ["--prompts.path", "p.txt", "--reward", "vader", "--sampling.top-k", "999"],
        "top_k is 999; expected at most",
    ),
    "samples": (
        ["--prompts.path", "p.txt", "--reward", "vader", "--sampling.num-samples", "0"],
        "num_samples is 0",
    ),
    "long": (["--data.path", "long.jsonl"], "long.jsonl:1: prompt and completion have .* tokens"),
    "ids": (["--data.path", "ids.jsonl"], "ids.jsonl:1: token_ids do not read as the completion"),
    "range": (
        ["--data.path", "r.jsonl", "--objective.name", "L_CE"],
        "L_CE and rewards go from 0 to 14; expected 0 to 1",
    ),
    "row": (["--data.path", "b.jsonl"], "b.jsonl:9: no field 'reward'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(job, case, capsys):
    arguments, expected = BAD[case]
    Path("p.txt").write_text("a film\nthe film\nno\n")
    write("d.jsonl", GOOD)
    write("b.jsonl", [*GOOD, {"prompt": "a", "completion": "b"}])
    write("r.jsonl", [{**row, "reward": 16 * row["reward"]} for row in GOOD])
    write("long.jsonl", [{**GOOD[0], "completion": "x" * 300}, *GOOD])
    write("ids.jsonl", [{**GOOD[0], "token_ids": [4]}, *GOOD])
    task = {"text": "t", "code": "c", "task_id": 601, "test_list": ["assert True"]}
    write("m.jsonl", [task])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewardjax.lm.OpenedLM.load", None)  # weights are not read for this
        assert job(*arguments) == 2
    assert re.search(expected, one_line(capsys))
    assert not Path("run").exists()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("probe_*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_every_key_is_commented(path):
    config = settings_file.from_dict(ProbeTrainConfig, settings_file.load_yaml(path))
    if config.prompts.task is None:
        with pytest.raises(RewardJaxError, match=r"expected either data\.path"):
            probe_settings.check(config)  # its prompts come from the command line
    else:
        probe_settings.check(config)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        code, _, comment = line.partition("#")
        if ":" in code and code.split(":", 1)[1].strip():
            assert comment.strip(), f"{path}:{number} has no comment"
