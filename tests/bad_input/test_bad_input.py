"""Whatever is wrong with the input: exit 2, one line on standard error that names it, no trace.

Every row runs a real command in a folder of good files. Where the row is about arguments or files,
no weights may have been loaded; no path may have been tried on a hub; the folder stays as it was.
"""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from rewardjax.lm import init_params
from rewardjax.rewards import RewardModelConfig
from tests.bad_input.cases import ROWS
from tests.bad_input.commands import DATA, PROMPT, STEER, command, put, refused
from tests.trained import save_random


@pytest.mark.usefixtures("folder", "no_weights", "no_hub")
@pytest.mark.parametrize(("name", "arguments", "files", "expected"), ROWS)
def test_bad_input(name, arguments, files, expected, tiny_lm_dir, capsys, monkeypatch):
    put(files, monkeypatch)
    refused(command(name, arguments, tiny_lm_dir), capsys, expected)


@pytest.mark.usefixtures("folder", "no_hub")
def test_tensors_that_do_not_fit_the_config(capsys):
    put({"model/config.json": Path("model/config.json").read_text().replace("64", "96")})
    refused(command("guided", [*PROMPT, "--lm", "model"], ""), capsys, "tensors do not fit")


@pytest.mark.usefixtures("folder", "no_hub")
def test_reward_model_of_another_lm(tiny_lm, tiny_lm_dir, capsys):
    params = init_params(tiny_lm.config, jax.random.key(9))
    other = dataclasses.replace(tiny_lm, params=params, source="other")
    save_random("rm", other, RewardModelConfig())
    argv = command("guided", [*STEER, "rm"], tiny_lm_dir)
    refused(argv, capsys, f"belongs to the LM 'other' with fingerprint {other.fingerprint}, but")
    refused(argv, capsys, f"has fingerprint {tiny_lm.fingerprint}")


@pytest.mark.usefixtures("folder", "no_weights", "no_hub")
def test_backbone_of_another_vocabulary(tiny_lm_dir, capsys):
    path = Path("model/tokenizer.json")
    tokenizer = json.loads(path.read_text())
    ids = tokenizer["model"]["vocab"]
    ids["A"], ids["B"] = ids["B"], ids["A"]
    path.write_text(json.dumps(tokenizer))
    own = ["--reward-model.backbone", "own", "--reward-model.init", "model"]
    argv = command("train", [*DATA, *own], tiny_lm_dir)
    refused(argv, capsys, "vocabularies differ: 2 tokens have other ids in 'model'")
