"""A folder of good files, in which no weights are loaded and no hub is asked."""

import shutil

import pytest

from rewardjax.rewards import RewardModelConfig
from tests.bad_input.commands import ROW, TEXT
from tests.trained import save_random


@pytest.fixture
def folder(tmp_path, tiny_lm, tiny_lm_dir, monkeypatch):
    """The working directory: good data, rows, LM and reward model (copies, to be damaged)."""
    here = tmp_path / "here"
    shutil.copytree(tiny_lm_dir, here / "model")
    save_random(here / "rm", tiny_lm, RewardModelConfig())
    (here / "data.jsonl").write_text(TEXT * 4 + TEXT.replace("film", "bad film") * 4)
    (here / "rows.jsonl").write_text(ROW)
    monkeypatch.chdir(here)
    monkeypatch.setenv("REWARDJAX_CACHE", str(here / "cache"))
    return here


@pytest.fixture
def no_weights(monkeypatch):
    for name in ("load_hf_params", "load_gguf_params"):
        monkeypatch.setattr(
            f"rewardjax.lm.load.{name}", lambda *a, **k: pytest.fail("weights were loaded")
        )


@pytest.fixture
def no_hub(monkeypatch):
    def asked(*args, **kwargs):
        pytest.fail(f"the hub was asked for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.setattr("datasets.load_dataset", asked)
