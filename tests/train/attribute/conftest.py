"""A one-layer LM, and short runs of attribute-controlled fine-tuning on it."""

import json

import jax
import pytest

from rewardjax.data.settings import DataConfig
from rewardjax.lm import LM, init_params, load_lm
from rewardjax.lm.save import save_lm
from rewardjax.rewards import RewardModelConfig
from rewardjax.train.attribute_settings import AttributeConfig, LoraConfig
from rewardjax.train.sample_settings import PromptsConfig
from rewardjax.train.settings import EvalConfig, OptimConfig
from tests.conftest import tiny_config, tiny_tokenizer
from tests.train.attribute.common import NADO, SAMPLING
from tests.trained import save_random


@pytest.fixture(scope="session")
def lm_dir(tmp_path_factory):
    """A one-layer LM as a Hugging Face directory."""
    config = tiny_config(num_hidden_layers=1)
    params = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 10 if x.ndim == 2 else x, params)
    folder = tmp_path_factory.mktemp("one_layer") / "lm"
    return save_lm(folder, LM(config, params, tiny_tokenizer(), "one layer"))


@pytest.fixture(scope="session")
def lm(lm_dir):
    return load_lm(lm_dir)


@pytest.fixture
def job(tmp_path, lm, lm_dir, reviews):
    """Settings of a short run on labelled reviews, with changes."""
    rows = [
        {"text": text, "good": label, "relevant": float(i % 3 == 0)}
        for i, (text, label) in enumerate(zip(*reviews, strict=True))
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.txt").write_text("the film\nit was\na great\nnot a\n")
    save_random(tmp_path / "reward", lm, RewardModelConfig(), link="log_sigmoid", scale=0.3)

    def make(run_dir="run", **changes):
        data = {"path": str(tmp_path / "d.jsonl"), "labels": ("good", "relevant"), "max_length": 8}
        values = {
            "run_dir": str(tmp_path / run_dir),
            "lm": str(lm_dir),
            "reward_model": str(tmp_path / "reward"),
            "data": DataConfig(**data),
            "prompts": PromptsConfig(path=str(tmp_path / "prompts.txt")),
            "sampling": SAMPLING,
            "lora": LoraConfig(rank=2),
            "optim": OptimConfig(batch_size=8, steps=4, learning_rate=1e-2),
            "eval": EvalConfig(every=4),
            "nado": NADO,
        }
        return AttributeConfig(**{**values, **changes})

    return make
