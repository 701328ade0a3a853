"""The façade: decoding with real transformers, its invariances, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest

import rewardjax as rj
from rewardjax.decoding import slots
from rewardjax.decoding.loop import prefill, run
from rewardjax.export import load_reward_model
from rewardjax.rewards import RewardModelConfig
from tests.trained import save_random

PROMPTS = ["the film was", "I", "a very good film is not bad it", "xyz"]
SIZES = {"num_samples": 2, "max_new_tokens": 6}
"""The same in most tests, so that they share their compiled programs."""
CONFIGS = {
    "arm-base": RewardModelConfig(layer=2, outputs=2),
    "arm-own": RewardModelConfig(backbone="own", num_layers=2),
    "rad": RewardModelConfig("rad", "own", num_layers=1),
}


@pytest.fixture(scope="module", params=CONFIGS)
def reward_model(request, tiny_lm, tmp_path_factory):
    directory = tmp_path_factory.mktemp("rm") / "reward_model"
    return load_reward_model(save_random(directory, tiny_lm, CONFIGS[request.param]))


def ids(generations):
    return [[sample.token_ids for sample in samples] for samples in generations]


def test_generate_returns_prompts_by_samples(tiny_lm, reward_model):
    out = rj.generate(tiny_lm, PROMPTS, reward_model=reward_model, beta=5.0, **SIZES)
    assert [len(samples) for samples in out] == [2] * len(PROMPTS)
    for i, samples in enumerate(out):
        for j, g in enumerate(samples):
            assert (g.prompt, g.prompt_index, g.sample_index, g.seed) == (PROMPTS[i], i, j, 0)
            n = len(g.token_ids)
            assert n == len(g.logprobs) == len(g.base_logprobs) == len(g.kl) == len(g.rewards)
            assert {len(r) for r in g.rewards} == {reward_model.config.outputs}
            assert g.finish_reason == ("eos" if g.token_ids[-1] == 2 else "length")
            assert all(k > -1e-5 for k in g.kl)
            row = json.loads(json.dumps(g.to_json()))
            assert set(row) == set(rj.Generation.__dataclass_fields__)


def test_rewards_in_the_loop_equal_scoring_the_finished_text(tiny_lm, reward_model):
    """Cached guided decoding = the reward model run from scratch on prompt + continuation."""
    out = rj.generate(tiny_lm, PROMPTS, reward_model=reward_model, beta=3.0, **SIZES)
    for prompt, samples in zip(PROMPTS, out, strict=True):
        before = tiny_lm.tokenizer(prompt)["input_ids"]
        texts = [[*before, *g.token_ids] for g in samples]
        for g, scratch in zip(samples, rj.reward(tiny_lm, reward_model, texts), strict=True):
            np.testing.assert_allclose(g.rewards, scratch[len(before) :], rtol=1e-3, atol=1e-4)


def test_one_step_is_the_formula(tiny_lm, reward_model):
    """log p_beta of the drawn token from `lm.logits` and `rj.reward_rows` alone (methods.md §1)."""
    beta, k = 4.0, 10
    out = rj.generate(
        tiny_lm, PROMPTS, reward_model=reward_model, beta=beta, top_k=k, batch_size=8,
        num_samples=4, max_new_tokens=6,
    )  # fmt: skip
    rows = rj.reward_rows(tiny_lm, reward_model, PROMPTS)
    assert rows.shape == (len(PROMPTS), 128, reward_model.config.outputs)
    for i, prompt in enumerate(PROMPTS):
        before = tiny_lm.tokenizer(prompt)["input_ids"]
        padded = np.array([before + [0] * (32 - len(before))])
        z = np.asarray(tiny_lm.logits(padded, [len(before)])[0, len(before) - 1], np.float64)
        best = np.argsort(-z)[:k]
        scores = z[best] + beta * np.clip(rows[i, best, 0], 0, 1)
        logq = dict(zip(best, scores - np.log(np.exp(scores).sum()), strict=True))
        logp = z - np.log(np.exp(z).sum())
        for g in out[i]:
            token = g.token_ids[0]
            np.testing.assert_allclose(g.logprobs[0], logq[token], atol=1e-3)
            np.testing.assert_allclose(g.base_logprobs[0], logp[token], atol=1e-3)
            kl = sum(np.exp(q) * (q - logp[v]) for v, q in logq.items())
            np.testing.assert_allclose(g.kl[0], kl, atol=2e-3)


@pytest.mark.parametrize("reward_model", ["arm-base"], indirect=True)
def test_the_text_is_the_same_whatever_the_batch(tiny_lm, reward_model):
    """Others: tests/test_invariance.py."""
    settings = {"reward_model": reward_model, "beta": 5.0, **SIZES}
    reference = ids(rj.generate(tiny_lm, PROMPTS, **settings))
    # smaller ones, and another bucket: a long neighbour of 128 tokens
    longer = [*PROMPTS, " good film" * 50]
    found = rj.generate(tiny_lm, longer, batch_size=3, **settings)
    assert ids(found)[: len(PROMPTS)] == reference
    # fewer samples are the first of many
    few = ids(rj.generate(tiny_lm, PROMPTS, **{**settings, "num_samples": 1}, batch_size=3))
    assert few == [samples[:1] for samples in reference]


def test_a_prompt_is_read_once_for_all_its_samples(tiny_lm, monkeypatch):
    read = []

    def counted(*args, **kwargs):
        read.append(args[3].shape[0])
        return prefill(*args, **kwargs)

    monkeypatch.setattr(slots, "prefill", counted)
    prompts = [*PROMPTS, PROMPTS[0]]
    rj.generate(tiny_lm, prompts, num_samples=3, max_new_tokens=1, batch_size=9)
    assert read == [4, 2]  # rows 0-8: three prompts, padded to four; rows 9-14: two
    read.clear()
    rj.generate(tiny_lm, prompts, num_samples=4, max_new_tokens=1, batch_size=9)
    # 9 = 4 + 4 + 1, 3 + 4 + 2, 2: samples that come later find their prompt read
    assert read == [4, 2]


def test_equal_prompts_differ_and_seeds_matter(tiny_lm):
    same = rj.generate(tiny_lm, ["I"] * 8, max_new_tokens=6)
    assert len({tuple(samples[0].token_ids) for samples in same}) == 8
    again = rj.generate(tiny_lm, ["I"] * 8, max_new_tokens=6)
    other = rj.generate(tiny_lm, ["I"] * 8, max_new_tokens=6, seed=1)
    assert ids(again) == ids(same) != ids(other)


def test_a_lower_limit_gives_the_same_text_cut_off(tiny_lm):
    long, short = (rj.generate(tiny_lm, ["I"] * 8, max_new_tokens=n) for n in (6, 1))
    assert ids(short) == [[samples[0].token_ids[:1]] for samples in long]


def test_beta_zero_is_the_plain_lm(tiny_lm, reward_model):
    plain = rj.generate(tiny_lm, PROMPTS, **SIZES)
    steered = rj.generate(tiny_lm, PROMPTS, reward_model=reward_model, **SIZES)
    assert ids(steered) == ids(plain)


def test_guidance_raises_and_invert_lowers_the_reward(tiny_lm, reward_model):
    def mean(**settings):
        out = rj.generate(
            tiny_lm, PROMPTS, reward_model=reward_model, batch_size=8, num_samples=10,
            max_new_tokens=6, **settings,
        )  # fmt: skip
        return np.mean([np.clip(r[0], 0, 1) for samples in out for g in samples for r in g.rewards])

    assert mean(beta=20.0) > mean() + 0.1 > mean(beta=20.0, invert=True) + 0.2


def test_changing_beta_compiles_nothing(tiny_lm, reward_model):
    settings = {"reward_model": reward_model, **SIZES}
    rj.generate(tiny_lm, PROMPTS, beta=1.0, **settings)
    compiled = run._cache_size()
    rj.generate(
        tiny_lm, PROMPTS, beta=9.0, top_k=17, top_p=0.5, temperature=0.7, invert=True, seed=3,
        min_p=0.01, link="sigmoid", schedule="linear", min_entropy=0.1, repetition_penalty=1.1,
        presence_penalty=0.1, frequency_penalty=0.1, min_new_tokens=2, stop_ids=(5,), beta_end=2.0,
        **settings,
    )  # fmt: skip
    assert run._cache_size() == compiled


def test_greedy_ids_and_lists_of_ids(tiny_lm):
    prompt = tiny_lm.tokenizer(PROMPTS[0])["input_ids"]
    by_text = rj.generate(tiny_lm, [PROMPTS[0]], top_k=1, max_new_tokens=5)
    by_ids = rj.generate(tiny_lm, [prompt], temperature=0.0, max_new_tokens=5)
    assert ids(by_text) == ids(by_ids)
    whole = list(prompt)
    for token in by_text[0][0].token_ids:  # recompute everything, no cache
        padded = np.array([whole + [0] * (32 - len(whole))])
        logits = tiny_lm.logits(padded, [len(whole)])[0, len(whole) - 1]
        assert int(logits.argmax()) == token
        whole.append(token)


def test_stop_strings_end_a_text_and_are_left_out(tiny_lm):
    free = rj.generate(tiny_lm, ["I"], num_samples=6, max_new_tokens=40, top_k=128)[0]
    stop = free[0].text[7:9]
    assert stop
    stopped = rj.generate(tiny_lm, ["I"], num_samples=6, max_new_tokens=40, top_k=128, stop=stop)[0]
    assert stopped[0].finish_reason == "stop"
    for before, after in zip(free, stopped, strict=True):
        cut = before.text.find(stop)
        assert after.text == (before.text if cut < 0 else before.text[:cut])
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        assert len(after.logprobs) == len(after.token_ids)


def test_chat_wraps_the_prompt_in_the_template(tiny_lm):
    template = tiny_lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "I"}], add_generation_prompt=True, tokenize=False
    )
    chat = rj.generate(tiny_lm, ["I"], chat=True, max_new_tokens=5)
    plain = rj.generate(tiny_lm, [template], max_new_tokens=5)
    assert ids(chat) == ids(plain)
    assert chat[0][0].prompt == "I"


def test_reward_of_a_text(tiny_lm, reward_model):
    texts = ["the film was good", "I"]
    rewards = rj.reward(tiny_lm, reward_model, texts)
    for text, r in zip(texts, rewards, strict=True):
        assert r.shape == (len(tiny_lm.tokenizer(text)["input_ids"]), reward_model.config.outputs)
        assert r.dtype == np.float32
        unscored = reward_model.config.backbone == "base"
        assert np.isnan(r[0]).all() == unscored
        assert np.isfinite(r[1:]).all()


def test_reward_rows_agree_with_reward(tiny_lm, reward_model):
    prefix = tiny_lm.tokenizer("the film was")["input_ids"]
    rows = rj.reward_rows(tiny_lm, reward_model, [prefix], chunk=48)
    for token in (0, 47, 48, 127):
        (whole,) = rj.reward(tiny_lm, reward_model, [[*prefix, token]])
        np.testing.assert_allclose(rows[0, token], whole[-1], rtol=1e-3, atol=1e-4)


def test_perplexity_is_the_papers(tiny_lm):
    prompts, texts = ["the film was", "I", "a"], [" good", " not bad it is", " very good film"]

    def nll(token_ids):
        padded = np.array([token_ids + [0] * (32 - len(token_ids))])
        logits = np.asarray(tiny_lm.logits(padded, [len(token_ids)])[0], np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -sum(logp[t, token_ids[t + 1]] for t in range(len(token_ids) - 1))

    encode = lambda text: tiny_lm.tokenizer(text)["input_ids"]  # noqa: E731
    full, before = (
        [encode(p + t) for p, t in zip(prompts, texts, strict=True)],
        map(encode, prompts),
    )
    expected = [
        np.exp((nll(f) - nll(b)) / (len(f) - len(b))) for f, b in zip(full, before, strict=True)
    ]
    got = rj.perplexity(tiny_lm, texts, prompts)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    texts = texts[1:]  # a text of one token has none that another precedes
    alone = rj.perplexity(tiny_lm, texts)
    np.testing.assert_allclose(
        alone, [np.exp(nll(encode(t)) / (len(encode(t)) - 1)) for t in texts], rtol=1e-4
    )


BAD_CALLS = {
    "beta": ({"beta": -1.0}, "beta is -1.0"),
    "beta nan": ({"beta": float("nan")}, "beta is nan"),
    "k": ({"top_k": 0}, "top_k is 0"),
    "k large": ({"top_k": 129}, "top_k is 129; expected at most the vocabulary's 128"),
    "p": ({"top_p": 0.0}, "top_p is 0.0"),
    "p large": ({"top_p": 1.5}, "top_p is 1.5"),
    "temperature": ({"temperature": -0.1}, "temperature is -0.1"),
    "new tokens": ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    "samples": ({"num_samples": 0}, "num_samples is 0"),
    "batch": ({"batch_size": 0}, "batch_size is 0"),
    "seed": ({"seed": -1}, "seed is -1"),
    "stop": ({"stop": ["x", ""]}, "stop holds an empty string"),
    "beta large": ({"beta": 1e39}, "beta is 1e+39"),
    "temperature small": ({"temperature": 1e-37}, "temperature is 1e-37"),
    "no reward model": ({"beta": 5.0}, "beta is 5.0 without a reward model"),
    "context": ({"max_new_tokens": 300}, "exceeds the context of 256"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_generate_refuses(tiny_lm, case):
    settings, words = BAD_CALLS[case]
    with pytest.raises(rj.RewardJaxError) as error:
        rj.generate(tiny_lm, ["I"], **settings)
    assert words in str(error.value)


@pytest.mark.parametrize("prompt", ["", [], [128], [-1]])
def test_generate_refuses_bad_prompts(tiny_lm, prompt):
    with pytest.raises(rj.RewardJaxError, match="prompt 1 is"):
        rj.generate(tiny_lm, ["I", prompt])


WRONG_TYPES = """
import sys
import rewardjax as rj

lm = rj.load_lm(sys.argv[1])
calls = [
    lambda: rj.generate(lm, "I was"),
    lambda: rj.generate(lm, [None]),
    lambda: rj.generate(lm, [3]),
    lambda: rj.generate(lm, [[1.5]]),
    lambda: rj.generate(lm, ["I"], beta="3"),
    lambda: rj.generate(lm, ["I"], top_k=2.5),
    lambda: rj.generate(lm, ["I"], invert=1),
    lambda: rj.perplexity(lm, "I was"),
    lambda: rj.perplexity(lm, ["I was", None]),
    lambda: rj.perplexity(lm, ["I was"], [3]),
]
for number, call in enumerate(calls):
    try:
        call()
    except rj.RewardJaxError as error:
        print(number, error)
"""


def test_wrong_types_are_refused_without_a_type_checker(tiny_lm_dir):
    """In a process of its own: under pytest a type checker would refuse them first."""
    run = [sys.executable, "-c", WRONG_TYPES, str(tiny_lm_dir)]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [int(line.split()[0]) for line in out] == list(range(10)), out
    assert all("; expected" in line for line in out), out


def test_importing_the_package_loads_nothing_heavy():
    code = "import rewardjax, sys; print([m for m in ('jax', 'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
