"""What `build` refuses, and with which words."""

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardModelConfig, build


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RewardModelConfig("amr"), "'amr' is unknown; expected one of arm, arm_factors, arm_rank,"),
        (RewardModelConfig("arm_rnk"), "(nearest: arm_rank)"),
        (RewardModelConfig(layer=9), "layer 9: this LM has layers 0 (embeddings) to 3"),
        (RewardModelConfig(layer=-5), "layer -5"),
        (RewardModelConfig(outputs=0), "outputs is 0; expected at least 1"),
        (RewardModelConfig("rad"), "set reward_model.backbone to own"),
        (RewardModelConfig(num_layers=2), "set reward_model.backbone to own"),
        (RewardModelConfig(backbone="own", layer=2), "layer is 2, but a backbone of its own is"),
        (RewardModelConfig("arm_rank"), "rank is unset and 'arm_rank' needs it; expected an int"),
        (RewardModelConfig("mlp"), "rank is unset and 'mlp' needs it; expected at least 1"),
        (RewardModelConfig("arm_rank", rank=0), "reward_model.rank is 0; expected an integer from"),
        (RewardModelConfig("arm_rank", rank=33), "rank is 33; expected an integer from 1 to 32,"),
        (RewardModelConfig("arm_factors", rank=33), "reward_model.rank is 33; expected an integer"),
        (RewardModelConfig("mlp", rank=0), "reward_model.rank is 0; expected at least 1"),
        (RewardModelConfig(rank=4), "'arm' has no rank to set; remove it, or set reward_model."),
        (RewardModelConfig("rad", "own", rank=4), "one of arm_rank, arm_factors, mlp"),
        (RewardModelConfig("rad", "own", baseline=False), "reward_model.baseline is false, but"),
        (RewardModelConfig(lora_rank=4), "lora_rank is 4, but the base LM's own layers never"),
        (RewardModelConfig(backbone="own", lora_rank=-1), "lora_rank is -1; expected 0 (no LoRA)"),
        (RewardModelConfig(backbone="own", lora_rank=33), "lora_rank is 33; expected 0 (no LoRA)"),
        (RewardModelConfig(backbone="own", lora_alpha=0.0), "reward_model.lora_alpha is 0.0;"),
        (RewardModelConfig(backbone="own", lora_alpha=float("nan")), "lora_alpha is nan; expected"),
    ],
)
def test_build_refuses(tiny_lm, config, words):
    transformer = tiny_lm.config if config.backbone == "own" else None
    with pytest.raises(RewardJaxError) as error:
        build(config, tiny_lm.config, transformer)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_negative_layers_count_from_the_end(tiny_lm):
    assert build(RewardModelConfig(layer=-1), tiny_lm.config).layers == (3,)
    assert build(RewardModelConfig(layer=-2), tiny_lm.config).layers == (2,)
    assert build(RewardModelConfig(layer=0), tiny_lm.config).layers == (0,)


def test_the_largest_rank_is_the_width_where_it_bounds_the_matrix(tiny_lm):
    for config in (RewardModelConfig("arm_rank", rank=32), RewardModelConfig("mlp", rank=100)):
        assert build(config, tiny_lm.config).rank == config.rank
