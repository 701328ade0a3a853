"""The README's Python is executed as written, on the tiny LM and a random reward model."""

import re
from pathlib import Path

import rewardjax.export
import rewardjax.lm
from rewardjax.cli import COMMANDS
from rewardjax.lm import open_lm
from rewardjax.rewards import RewardModelConfig
from rewardjax.train import run
from tests.trained import save_random

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(tiny_lm, tiny_lm_dir, tmp_path, monkeypatch, capsys):
    trained = rewardjax.export.load_reward_model(
        save_random(tmp_path / "rm", tiny_lm, RewardModelConfig())
    )
    monkeypatch.setattr(rewardjax.lm, "load_lm", lambda source: tiny_lm)
    monkeypatch.setattr(rewardjax.export, "load_reward_model", lambda directory: trained)
    monkeypatch.setattr(run, "open_lm", lambda source, dtype: open_lm(tiny_lm_dir, dtype))
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    steering, training = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(steering, names)
    assert [len(samples) for samples in names["texts"]] == [4, 4]
    assert "array" in capsys.readouterr().out
    exec(training, names)
    assert (names["result"].run_dir / "reward_model" / "config.json").is_file()


def test_the_commands_and_files_it_names_exist():
    for command in re.findall(r"^    rewardjax (.*)$", README, re.MULTILINE):
        assert any(tuple(command.split()[: len(words)]) == words for words in COMMANDS), command
    for name in re.findall(r"(?:configs|docs)/[\w./-]+\w", README):
        assert (ROOT / name).is_file(), name
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b", README)  # a placeholder left in
