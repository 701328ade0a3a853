"""[h; q] Eᵀ, one product for logits and rewards of the whole vocabulary, against two products."""

from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardjax as rj
from rewardjax.engine import make_engine
from rewardjax.lm import output_embedding, unembed, unembed_with
from rewardjax.rewards import RewardModelConfig
from rewardjax.rewards.bilinear import BilinearModel
from tests.conftest import tiny_config
from tests.trained import save_random

HEADS = {
    "arm": RewardModelConfig(layer=1),
    "no baseline": RewardModelConfig(baseline=False),
    "two outputs": RewardModelConfig(outputs=2, layer=1),
    "rank": RewardModelConfig("arm_rank", rank=3),
    "factors": RewardModelConfig("arm_factors", rank=3),
    "own": RewardModelConfig(backbone="own", num_layers=1),
}
SETTINGS = {"top_k": 128, "max_new_tokens": 6, "num_samples": 2, "temperature": 0.7}


@pytest.fixture(scope="module")
def saved(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-product")
    return {
        name: rj.load_reward_model(save_random(folder / name, tiny_lm, config))
        for name, config in HEADS.items()
    }


def program(lm, models, top_k):
    return make_engine(lm, models, rj.SamplingConfig(beta=1.0, top_k=top_k))


@pytest.mark.parametrize(
    "names", [("arm",), ("no baseline",), ("rank",), ("two outputs", "arm"), ("arm", "factors")]
)
def test_texts_and_rewards_are_those_of_two_products(tiny_lm, saved, monkeypatch, names):
    models = [saved[name] for name in names]
    shares = "factors" not in names
    assert program(tiny_lm, models, 128).program.one_product == shares
    one = rj.generate(tiny_lm, ["the film", "it"], reward_model=models, beta=3.0, **SETTINGS)
    monkeypatch.setattr(BilinearModel, "reads_embedding", False)
    jax.clear_caches()
    assert not program(tiny_lm, models, 128).program.one_product
    two = rj.generate(tiny_lm, ["the film", "it"], reward_model=models, beta=3.0, **SETTINGS)
    for a, b in zip(chain(*one), chain(*two), strict=True):
        assert a.token_ids == b.token_ids
        np.testing.assert_allclose(a.rewards, b.rewards, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=2e-4, atol=2e-5)


def test_fewer_candidates_and_own_backbones_are_gathered(tiny_lm, saved):
    assert not program(tiny_lm, saved["arm"], 32).program.one_product
    assert not program(tiny_lm, saved["own"], 128).program.one_product


def test_the_embedding_is_read_once():
    """By XLA's own count of the bytes that the compiled programs access."""
    config = tiny_config(vocab_size=4096, hidden_size=256)
    params = {"lm_head": {"kernel": jax.ShapeDtypeStruct((256, 4096), jnp.float32)}}
    embedding = 4 * 4096 * 256
    hidden = jax.ShapeDtypeStruct((2, 256), jnp.float32)
    queries = jax.ShapeDtypeStruct((2, 1, 256), jnp.float32)

    def two(params, hidden, queries):
        table = output_embedding(config, params)
        return unembed(config, params, hidden), jnp.einsum("bad,vd->bva", queries, table)

    def moved(score):
        compiled = jax.jit(score).lower(params, hidden, queries).compile()
        return compiled.cost_analysis()["bytes accessed"]

    once = moved(partial(unembed_with, config))
    assert once < 1.1 * embedding
    assert moved(two) - once > 0.9 * embedding


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 1e-4)])
def test_queries_keep_their_digits(tiny_lm, dtype, atol):
    """Rounded to bfloat16 they would be off by 1e-2 here."""
    config = tiny_lm.config
    params = jax.tree.map(lambda a: a.astype(dtype), tiny_lm.params)
    keys = jax.random.split(jax.random.key(0))
    hidden = jax.random.normal(keys[0], (3, config.hidden_size)).astype(dtype)
    queries = jax.random.normal(keys[1], (3, 2, config.hidden_size))
    logits, products = unembed_with(config, params, hidden, queries)
    np.testing.assert_allclose(logits, unembed(config, params, hidden), rtol=1e-5, atol=1e-5)
    table = np.asarray(output_embedding(config, params).astype(jnp.float32), np.float64)
    expected = np.einsum("bad,vd->bva", np.asarray(queries, np.float64), table)
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=atol * np.abs(expected).max())
