"""CONTRIBUTING's parametrization is executed as written: it trains, decodes and is analysed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import rewardjax as rj
from rewardjax import rewards
from rewardjax.cli import main
from rewardjax.data.generations import read_rows

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## Add a parametrization")[1]
CODE, IMPORTS, LINE = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture
def table(monkeypatch):
    """The table with the documented line in it; everything else is untouched."""
    names = {}
    exec(IMPORTS + CODE, names)
    for name, kind in eval("{" + LINE + "}", names).items():
        monkeypatch.setitem(rewards.PARAMETRIZATIONS, name, kind)


def test_it_is_about_ten_lines():
    lines = [line for line in CODE.splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 10


def test_it_trains_decodes_and_is_analysed(table, tiny_lm, tiny_lm_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with open("ratings.jsonl", "w") as file:
        for _ in range(80):
            good = bool(rng.integers(2))
            words = [" film", " was", " it", " is"]
            rng.shuffle(words)
            text = "the" + "".join(words) + (" good" if good else " bad")
            file.write(json.dumps({"text": text, "rating": float(good)}) + "\n")
    Path("low_rank.yaml").write_text(YAML)
    lm = ["--lm", str(tiny_lm_dir)]

    assert main(["train", "reward-model", "low_rank.yaml", "--run-dir", "run", *lm]) == 0
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    errors = [row["eval/squared_error"] for row in metrics if "eval/squared_error" in row]
    assert errors[-1] < errors[0]

    guide = ["--reward-model", "run/reward_model", "--beta", "20"]
    out = ["--prompt", "the film", "I", "--max-new-tokens", "4", "--out", "rows.jsonl"]
    assert main(["decode", "guided", *lm, *guide, *out]) == 0
    assert [len(row.rewards) for row in read_rows("rows.jsonl")] == [4, 4]

    reward_model = rj.load_reward_model("run/reward_model")
    prefixes = ["the film", "it is", "I was not", "bad"] * 5 + ["a" * n for n in range(1, 13)]
    rows = rj.reward_rows(tiny_lm, reward_model, prefixes)[..., 0].astype(np.float64)
    singular = np.linalg.svd(rows, compute_uv=False)
    assert (singular > 1e-5 * singular[0]).sum() <= 8  # its rank
    assert rows.std() > 0
