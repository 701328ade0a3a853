"""What attribute-controlled fine-tuning refuses, and when."""

import dataclasses
from pathlib import Path

import jax
import pytest

from rewardjax import config as settings_file
from rewardjax.errors import RewardJaxError
from rewardjax.lm import OpenedLM
from rewardjax.oracle import OracleConfig
from rewardjax.rewards import RewardModelConfig
from rewardjax.train.attribute import attribute
from rewardjax.train.attribute_settings import (
    AttributeConfig,
    AttributeObjective,
    LearnerConfig,
    LoraConfig,
    check,
)
from rewardjax.train.sample_settings import PromptsConfig
from rewardjax.train.settings import ComputeConfig
from tests.train.attribute.common import ORACLE, SAMPLING
from tests.trained import save_random

NO_REWARD = {"reward_model": None}
LEARNS = {"refit": True, "oracle": ORACLE, **NO_REWARD}
BAD = {
    "no reward model": (NO_REWARD, "objective.kl_weight is 1 and there is no reward model"),
    "two": ({"refit": True, "oracle": ORACLE}, "reward_model has no meaning where refit"),
    "invert": ({**LEARNS, "invert": True}, "invert says how to read reward_model, and there is"),
    "parallel": ({"scheme": "parallel"}, "scheme parallel trains a reward model beside"),
    "oracle": ({"refit": True, **NO_REWARD}, "oracle: expected exactly one of scorer, words"),
    "prompts": (
        {"objective": AttributeObjective(prefixes="samples"), "prompts": PromptsConfig()},
        "prompts.path is empty",
    ),
    "offset": (
        {
            "objective": AttributeObjective(prefixes="samples"),
            "prompts": PromptsConfig("prompts.txt", offset=-1),
        },
        "prompts.offset is -1; expected at least 0",
    ),
    "kl label": (
        {"objective": AttributeObjective(kl_label="relevent")},
        "expected one of data.labels, good, relevant; did you mean 'relevant'",
    ),
    "tau": ({"objective": AttributeObjective(tau=0.001)}, "objective.tau is 0.001; expected at"),
    "weight": ({"objective": AttributeObjective(kl_weight=-1.0)}, "objective.kl_weight is -1"),
    "lora": ({"lora": LoraConfig(-1)}, "lora.rank is -1; expected at least 0"),
    "alpha": ({"lora": LoraConfig(2, 0.0)}, "lora.alpha is 0.0; expected more than 0"),
    "packing": ({"compute": ComputeConfig(packing=True)}, "compute.packing is true, but"),
    "parts": ({"compute": ComputeConfig(accumulate=3)}, "compute.accumulate is 3"),
    "rounds": ({"rounds": 0}, "rounds is 0; expected at least 1"),
    "output": ({"output": 1}, "output is 1; expected less than 1"),
    "outputs": (
        {**LEARNS, "nado": LearnerConfig(RewardModelConfig("nado", outputs=2))},
        "nado: reward_model.outputs is 2; expected 1",
    ),
    "greedy": (
        {**LEARNS, "sampling": dataclasses.replace(SAMPLING, temperature=0)},
        "sampling.temperature is 0, where every",
    ),
    "sentiment": ({"oracle": OracleConfig("vader")}, "gives -[0-9.]+; expected 0 to 1: set oracle"),
    "no text": (
        {
            "objective": AttributeObjective(texts="accepted"),
            "oracle": OracleConfig(words=("excellent",)),
        },
        "no text is left to train on in L_LM: the oracle accepts none",
    ),
    "range": (
        {"oracle": OracleConfig("score=tests.train.attribute.common:letters")},
        "gives [0-9]+; expected 0 to 1: set oracle.threshold",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name, job, monkeypatch):
    """Before weights are read; where no text need be judged, before anything is written."""
    monkeypatch.setattr(OpenedLM, "load", lambda self: pytest.fail("weights were read"))
    changes, expected = BAD[name]
    config = job(**changes)
    with pytest.raises(RewardJaxError, match=expected):
        attribute(config)
    written = Path(config.run_dir).exists()
    assert written is (name in ("sentiment", "no text", "range"))


def test_bad_reward_models(job, lm, tmp_path):
    rad = RewardModelConfig("rad", "own", num_layers=1)
    for config, link, changes, expected in (
        (
            RewardModelConfig(),
            "clip",
            {},
            "has the link 'clip'; expected raw, sigmoid, log_sigmoid",
        ),
        (rad, "sigmoid", {}, "is 'rad', which reads every candidate on its own"),
    ):
        save_random(tmp_path / "bad", lm, config, link=link)
        with pytest.raises(RewardJaxError, match=expected):
            attribute(job(reward_model=str(tmp_path / "bad"), **changes))
        assert not (tmp_path / "run").exists()
    other = dataclasses.replace(lm, params=jax.tree.map(lambda x: 2 * x, lm.params))
    save_random(tmp_path / "bad", other, RewardModelConfig(), link="raw")
    with pytest.raises(RewardJaxError, match="this reward model belongs to the LM"):
        attribute(job(reward_model=str(tmp_path / "bad")))
    assert not (tmp_path / "run" / "round-1").exists()


def test_the_config_file_is_valid():
    path = Path(__file__).parents[3] / "configs" / "attribute_nontoxic.yaml"
    config = settings_file.from_dict(AttributeConfig, settings_file.load_yaml(path))
    check(dataclasses.replace(config, prompts=PromptsConfig(path="prompts.jsonl")))
