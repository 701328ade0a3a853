"""Perplexity against whole-text logits, computed one text at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.metrics import perplexity
from rewardjax.metrics.perplexity import continuation_perplexity, drop_large, token_nll


def naive(lm, ids):
    """−log p of tokens 1.. of one text, from its full table of log-probabilities."""
    padded = ids + [0] * (-len(ids) % 64)  # few shapes to compile
    logits = lm.logits(np.array([padded]), np.array([len(ids)]))[0]
    logp = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)), np.float64)
    return np.array([-logp[t - 1, ids[t]] for t in range(1, len(ids))])


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    lengths = [1, 2, 16, 17, 40, 40, 3]
    return [rng.integers(3, 128, n).tolist() for n in lengths]


@pytest.mark.parametrize(("batch_tokens", "chunk"), [(2048, 256), (64, 4)])
def test_equals_the_naive_computation(tiny_lm, texts, batch_tokens, chunk):
    seen = []
    got = token_nll(
        tiny_lm.config,
        tiny_lm.params,
        texts,
        batch_tokens=batch_tokens,
        chunk=chunk,
        progress=seen.append,
    )
    for ids, nll in zip(texts, got, strict=True):
        assert nll.shape == (len(ids) - 1,)
        np.testing.assert_allclose(nll, naive(tiny_lm, ids), rtol=1e-4, atol=1e-4)
    assert sum(seen) == len(texts) - 1  # the text of one token has nothing to score


def test_starts(tiny_lm, texts):
    starts = [0, 1, 10, 16, 0, 39, 7]
    got = token_nll(tiny_lm.config, tiny_lm.params, texts, starts=starts)
    for ids, start, nll in zip(texts, starts, got, strict=True):
        expected = naive(tiny_lm, ids)[max(1, start) - 1 :]
        np.testing.assert_allclose(nll, expected, rtol=1e-4, atol=1e-4)


def test_a_text_does_not_depend_on_its_neighbours(tiny_lm, texts):
    together = token_nll(tiny_lm.config, tiny_lm.params, texts)
    for ids, nll in zip(texts, together, strict=True):
        alone = token_nll(tiny_lm.config, tiny_lm.params, [ids])[0]
        np.testing.assert_allclose(nll, alone, rtol=1e-5, atol=1e-5)


def test_logits_of_a_chunk_only(tiny_lm, texts, monkeypatch):
    """No more positions than a chunk at once, and every chunk but the last one is full."""
    sizes, whole = [], perplexity._nll

    def counted(config, params, states, targets):
        sizes.append(len(targets))
        return whole(config, params, states, targets)

    monkeypatch.setattr(perplexity, "_nll", counted)
    token_nll(tiny_lm.config, tiny_lm.params, texts, batch_tokens=32, chunk=24)
    assert sum(len(ids) - 1 for ids in texts) == 112
    assert sizes == [24, 24, 24, 24, 16]


def test_continuation_is_the_difference_of_two_sums(tiny_lm):
    rng = np.random.default_rng(4)
    prompt = rng.integers(3, 128, 6).tolist()
    plain = prompt + rng.integers(3, 128, 9).tolist()
    merged = [*prompt[:-1], 77, 78, 79, 80]  # the prompt's last token became another one
    bare = rng.integers(3, 128, 12).tolist()
    got = continuation_perplexity(
        tiny_lm.config, tiny_lm.params, [prompt, prompt, []], [plain, merged, bare]
    )
    assert got.dtype == np.float64
    base = naive(tiny_lm, prompt).sum()
    expected = [
        np.exp((naive(tiny_lm, plain).sum() - base) / 9),
        np.exp((naive(tiny_lm, merged).sum() - base) / (len(merged) - 6)),
        np.exp(naive(tiny_lm, bare).mean()),
    ]
    assert merged[5] != prompt[5]
    np.testing.assert_allclose(got, expected, rtol=2e-4)


def test_a_prompt_of_one_token_costs_nothing(tiny_lm):
    ids = [5, 9, 30, 31]
    got = continuation_perplexity(tiny_lm.config, tiny_lm.params, [[5], []], [ids, ids])
    np.testing.assert_allclose(got, np.exp(naive(tiny_lm, ids).mean()), rtol=1e-4)


def test_nothing_to_score_is_nan(tiny_lm):
    got = continuation_perplexity(
        tiny_lm.config, tiny_lm.params, [[5, 6], [5, 6, 7], []], [[5, 6], [5, 9], [4]]
    )
    assert np.isnan(got).all()


def test_drop_large():
    kept, dropped = drop_large(np.array([10.0, 1e5, np.inf, 99999.0, np.nan]))
    assert dropped == 2
    np.testing.assert_array_equal(kept, [10.0, np.nan, np.nan, 99999.0, np.nan])


@pytest.mark.parametrize("length", [0, 257])
def test_refuses_what_does_not_fit(tiny_lm, length):
    with pytest.raises(RewardJaxError, match=f"text 1 has {length} tokens; expected 1 to 256"):
        token_nll(tiny_lm.config, tiny_lm.params, [[4, 5], [4] * length])


def test_longest_text_that_fits(tiny_lm):
    ids = np.random.default_rng(5).integers(3, 128, 256).tolist()
    got = token_nll(tiny_lm.config, tiny_lm.params, [ids])[0]
    np.testing.assert_allclose(got, naive(tiny_lm, ids), rtol=1e-4, atol=1e-4)
