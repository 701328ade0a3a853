"""What `build` refuses, and with which words."""

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardModelConfig, build


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RewardModelConfig("amr"), "'amr' is unknown; expected one of arm, rad (nearest: arm)"),
        (RewardModelConfig(layer=9), "layer 9: this LM has layers 0 (embeddings) to 3"),
        (RewardModelConfig(layer=-5), "layer -5"),
        (RewardModelConfig(outputs=0), "outputs is 0; expected at least 1"),
        (RewardModelConfig("rad"), "set reward_model.backbone to own"),
        (RewardModelConfig(num_layers=2), "set reward_model.backbone to own"),
    ],
)
def test_build_refuses(tiny_lm, config, words):
    with pytest.raises(RewardJaxError) as error:
        build(config, tiny_lm.config)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_negative_layers_count_from_the_end(tiny_lm):
    assert build(RewardModelConfig(layer=-1), tiny_lm.config).layers == (3,)
    assert build(RewardModelConfig(layer=-2), tiny_lm.config).layers == (2,)
    assert build(RewardModelConfig(layer=0), tiny_lm.config).layers == (0,)
