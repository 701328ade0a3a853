"""Sliding windows in the compiled loop, against whole texts read without a cache.

A window that rolls in place, w <- (w[1:], new) in a loop's carry under jit, comes out wrong on
XLA's CPU backend. Here nothing moves within an array: keys stay in their slots, the mask moves.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardjax as rj


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("sliding_layers", [None, (0, 2)], ids=["every layer", "two of three"])
def test_texts_far_longer_than_the_window(tiny_lm, scan, sliding_layers):
    from rewardjax.lm.params import stack_layers

    config = dataclasses.replace(tiny_lm.config, sliding_window=4, sliding_layers=sliding_layers)
    narrow = dataclasses.replace(tiny_lm, config=config)
    decoded = narrow
    if scan:
        scanned = dataclasses.replace(config, scan_layers=True)
        decoded = dataclasses.replace(narrow, config=scanned, params=stack_layers(tiny_lm.params))
    settings = {"max_new_tokens": 40, "min_new_tokens": 40, "num_samples": 2, "top_k": 20}
    samples = rj.generate(decoded, ["the film was good"], **settings)[0]
    for found in samples:
        prompt = narrow.tokenizer.encode("the film was good")
        text = np.array([[*prompt, *found.token_ids]], np.int32)
        logits = narrow.logits(text, np.array([text.shape[1]]))
        every = np.asarray(jax.nn.log_softmax(jnp.asarray(logits[0]), axis=-1))
        at = np.arange(len(prompt) - 1, text.shape[1] - 1)
        expected = every[at, text[0, at + 1]]
        np.testing.assert_allclose(found.base_logprobs, expected, rtol=1e-4, atol=1e-4)
        wide = np.asarray(jax.nn.log_softmax(jnp.asarray(tiny_lm.logits(text, [text.shape[1]])[0])))
        assert np.abs(wide[at, text[0, at + 1]] - expected).max() > 1e-2
