"""The benchmark's limits and counters, exactly; its PyTorch peers, value for value."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rewardjax.decoding.loop import run
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.bench import limits, parity, timing
from rewardjax.experiments.bench.cases import CASES, PEERS, Sample, ours, prompts
from rewardjax.experiments.bench.counters import compilations, products, transfers
from rewardjax.experiments.bench.limits import Work, floor, layers_work, step_parts
from rewardjax.experiments.bench.machine import prepare, summary
from rewardjax.experiments.bench.models import SHAPES, Models, load_models, make_reward_model
from rewardjax.experiments.bench.torch_models import check_torch, torch_model
from rewardjax.experiments.bench.torch_peers import load_torch, peer
from rewardjax.lm import KVCache, causal_mask, forward, init_params, stack_layers, unembed
from rewardjax.lm.params import param_shapes
from rewardjax.rewards import RewardModelConfig, build
from tests.conftest import tiny_config

torch.set_num_threads(1)
GPT2 = dataclasses.replace(
    SHAPES["gpt2-large"][1],
    vocab_size=128,
    hidden_size=32,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=8,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_ids=(3,),
)


def models_of(config):
    """Random models with spread-out logits and norms that are not one."""

    def params(seed):
        def spread(x):
            noise = jax.random.normal(jax.random.key(9), x.shape)
            return 8 * x if x.ndim == 2 else x + 0.1 * noise

        return jax.tree.map(spread, init_params(config, jax.random.key(seed)))

    return Models("tiny", config, params(0), config, params(1))


# Limits


def test_a_step_by_hand():
    """Llama, 3 layers, D 32, F 64, 4 heads of 8 over 2, V 128; B 2, k 5, T 10; float32."""
    lm = tiny_config()
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64  # q, k and v, o, MLP
    cache = 2 * 3 * 2 * 2 * 8 * 4  # rows x layers x (K, V) x heads x width x bytes
    read = 4 * (3 * (layer + 64) + 32)

    def layers(keys, queries=1):
        attention = 3 * 4 * 4 * 8 * keys
        return Work(read + cache * keys, 2 * queries * (2 * 3 * layer + attention))

    logits = Work(4 * 128 * 32 + 2 * 2 * 128 * 4, 2 * 2 * 128 * 32)
    unguided = {"LM layers": layers(10), "LM logits": logits}
    assert step_parts(lm, None, 4, 2, 5, 10) == unguided

    rad = build(RewardModelConfig("rad", "own"), lm, lm)
    found = step_parts(lm, rad, 4, 2, 5, 10)
    assert found["RM layers"] == layers(12, queries=5)  # BOS, ten tokens, the candidate
    assert found["RM head"] == Work(4 * 33, 2 * 2 * 5 * 32)

    arm = build(RewardModelConfig("arm", "own"), lm, lm)
    found = step_parts(lm, arm, 4, 2, 5, 10)
    assert found["RM layers"] == layers(12)
    head = 32 * 32 + 32
    moved = 4 * head + 4 * 2 * 5 * 32 + 2 * 2 * 5 * 4  # its weights, ten embeddings, rewards
    assert found["RM head"] == Work(moved, 2 * 2 * (head + 5 * 32))


def test_the_whole_vocabulary_is_read_once():
    lm = tiny_config()
    base, own = (
        build(RewardModelConfig("arm", backbone), lm, lm if backbone == "own" else None)
        for backbone in ("base", "own")
    )
    head, rewards, table = 4 * (32 * 32 + 32), 2 * 4 * 3 * 128, 4 * 128 * 32
    # On the LM's states the logits have read the embedding already.
    assert step_parts(lm, base, 4, 3, 128, 9)["RM head"].bytes == head + rewards
    assert step_parts(lm, own, 4, 3, 128, 9)["RM head"].bytes == head + rewards + table
    # 3 rows x 50 candidates are more than there are tokens
    few = step_parts(lm, base, 4, 3, 50, 9)["RM head"].bytes
    assert few == head + 2 * 4 * 3 * 50 + table


def test_a_window_bounds_what_is_read():
    whole, narrow = tiny_config(), tiny_config(sliding_window=4, sliding_layers=(1,))
    at = [layers_work(config, 2, 1, 20) for config in (whole, narrow)]
    per_key = 2 * 2 * 8 * 2  # K and V x heads x width x bytes
    assert at[0].bytes - at[1].bytes == per_key * 16
    assert layers_work(whole, 2, 1, 3) == layers_work(narrow, 2, 1, 3)


def test_parts_follow_each_other():
    parts = {"a": Work(100, 1), "b": Work(1, 100)}
    assert floor(parts, bandwidth=10, peak=5) == pytest.approx(10 + 20)


def step_of(config, batch, capacity):
    """The LM's part of a step, as the loop runs it, and arguments for it."""

    def step(params, cache, token, at):
        mask = jnp.arange(capacity)[None, None] <= at[:, None, None]
        top = config.num_hidden_layers
        hidden, cache = forward(
            config, params, token[:, None], at[:, None], mask, cache=cache, capture=(top,)
        )
        return unembed(config, params, hidden[top][:, 0]), cache

    params = init_params(config, jax.random.key(0))
    ints = jnp.zeros(batch, jnp.int32)
    return step, (params, KVCache.empty(config, batch, capacity, jnp.float32), ints, ints)


def test_flops_are_those_of_the_traced_and_of_the_compiled_step():
    """The program attends to its cache's whole capacity: at T = capacity the counts are equal."""
    config = tiny_config(
        hidden_size=128, intermediate_size=512, head_dim=32, num_hidden_layers=2, vocab_size=512
    )
    step, arguments = step_of(config, 4, 16)
    expected = layers_work(config, 4, 4, 16).flops + limits.logits_work(config, 4, 4).flops
    assert products(step, *arguments).flops == expected
    analysis = jax.jit(step).lower(*arguments).compile().cost_analysis()
    assert expected <= analysis["flops"] <= 1.05 * expected  # norms, rotations and the softmax


# Counters


@pytest.mark.parametrize("scan", [False, True])
def test_tokens_are_counted_whether_layers_are_scanned_or_not(scan):
    models = models_of(tiny_config())
    if scan:
        models = dataclasses.replace(
            models,
            lm=dataclasses.replace(models.lm, scan_layers=True),
            lm_params=stack_layers(models.lm_params),
        )
    system = ours(models, CASES["rad-own"], prompts(128, 3, 5), 4, 6)
    found = products(
        lambda lm, reward, state: run(system.program, lm, reward, state, 6),
        system.lm_params,
        system.reward_params,
        system.start(),
    )
    assert found.tokens_through("[0][0]") == 3
    assert found.tokens_through("[0][1]") == 12


def test_compilations_are_counted():
    f = jax.jit(lambda x: jnp.tanh(x) * 17)
    x, y = jnp.ones(5), jnp.ones(6)
    with compilations() as count:
        f(x)
        f(x)
        assert count.value == 1
        f(y)
    assert count.value == 2
    jax.jit(lambda x: x - 19)(x)
    assert count.value == 2  # nothing is counted behind the block


def test_transfers_are_counted_once_each():
    a, b = (jax.jit(lambda x, n=n: x + n)(jnp.arange(4)) for n in (1, 2))
    with transfers() as count:
        np.asarray(a)
        assert count.value == 1
        bool((a > 9).all())
        assert count.value == 2
        jax.device_get({"a": a, "b": b})
        assert count.value == 4
        np.asarray([1, 2])
        np.array(b)
    assert count.value == 5
    np.asarray(a)
    assert count.value == 5


# PyTorch


@pytest.mark.parametrize(
    "config",
    [tiny_config(), tiny_config(tie_word_embeddings=True, num_hidden_layers=2), GPT2],
    ids=["llama", "tied", "gpt2"],
)
def test_torch_models_give_our_logits(config):
    params = models_of(config).lm_params
    tokens = prompts(128, 2, 7)
    positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
    mask = causal_mask(jnp.array([7, 7]), 7)
    top = config.num_hidden_layers
    hidden, _ = forward(config, params, jnp.asarray(tokens), positions, mask, capture=(top,))
    expected = unembed(config, params, hidden[top])
    found = torch_model(config, params, "float32")(torch.tensor(tokens)).logits
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    body = torch_model(config, params, "float32", lm=False)
    states = body(torch.tensor(tokens)).last_hidden_state
    np.testing.assert_allclose(states.numpy(), hidden[top], atol=1e-4)


@pytest.fixture(scope="module")
def pair():
    """Models and their PyTorch twins; GPT-2, so that learned positions are in the guides too."""
    models = models_of(GPT2)
    guided = [case for case in PEERS.values() if CASES[case].parametrization]
    return models, load_torch(models, guided, ["float32"])


@pytest.mark.parametrize("case", ["arm-own", "rad-own"])
def test_guides_equal_the_rewards_of_whole_texts(pair, case):
    """Step by step with a cache of their own = our reward model on whole texts."""
    models, theirs = pair
    model, params = make_reward_model(models, CASES[case].parametrization, "own")
    tokens, rows, k, steps = prompts(128, 2, 6), np.arange(2), 4, 5
    system = peer(theirs, case, "float32", tokens, k, steps)
    guide = system._new_guide()
    rewards = jax.jit(model.token_rewards)
    texts = tokens
    for step in range(steps):
        scores = torch.randn(2, 128, generator=torch.Generator().manual_seed(step))
        found = guide(torch.tensor(texts).long(), scores).numpy()
        best = np.argsort(-scores.numpy(), axis=1)[:, :k]
        expected = np.full_like(found, -np.inf)
        for i in range(k):
            more = np.concatenate([texts, best[:, i : i + 1]], axis=1).astype(np.int32)
            lengths = jnp.full(2, more.shape[1], jnp.int32)
            reward = rewards(params, jnp.asarray(more), lengths, {})[:, -1, 0]
            steered = scores.numpy()[rows, best[:, i]] + 10 * np.clip(reward, 0, 1)
            expected[rows, best[:, i]] = steered
        np.testing.assert_allclose(found, expected, atol=1e-3)
        chosen = best[rows, [step % k, (step + 1) % k]]
        texts = np.concatenate([texts, chosen[:, None]], axis=1).astype(np.int32)


def test_parity_holds_and_names_the_case_when_it_does_not(pair):
    models, theirs = pair
    assert parity.check(models, theirs, "rad-own", candidates=4, length=5, steps=3) < 1e-3
    body, head, bos = theirs.guides["rad-own"]
    wrong = dataclasses.replace(
        theirs, guides={"rad-own": (body, head | {"bias": head["bias"] + 0.01}, bos)}
    )
    with pytest.raises(RewardJaxError, match=r"case 'rad-own': guided logits .* differ by 0\.1;"):
        parity.check(models, wrong, "rad-own", candidates=4, length=5, steps=3)


def test_other_candidates_and_a_wrong_engine_are_differences():
    ids = np.array([[[3, 1]]])
    steps = parity.Steps(ids, np.array([[[2.0, 1.0]]]), np.array([[[2.5, 1.0]]]))
    scores = np.full((1, 1, 5), -np.inf)
    scores[0, 0, [3, 1]] = 2.5, 1.25
    assert parity.difference(steps, scores) == pytest.approx(0.25)
    scores[0, 0, 3], scores[0, 0, 4] = -np.inf, 2.5
    assert parity.difference(steps, scores) == np.inf
    probabilities = np.exp([2.5, 1.0]) / np.exp([2.5, 1.0]).sum()
    first = np.array([[np.log(probabilities[0])]])
    assert parity.engine_difference(steps, np.array([[3]]), first) == pytest.approx(0, abs=1e-7)
    assert parity.engine_difference(steps, np.array([[1]]), first) == pytest.approx(1.5)
    assert parity.engine_difference(steps, np.array([[2]]), first) == np.inf


def test_families_without_a_twin_are_refused():
    with pytest.raises(RewardJaxError, match="got a qwen3 model"):
        check_torch(tiny_config(model_type="qwen3"))


def test_missing_torch_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        RewardJaxError, match=r"pip install 'rewardjax\[test\]', or pass --no-peers"
    ):
        check_torch(tiny_config())


# Models, machine, timing


def test_shortened_models_are_float32_and_the_first_layers():
    config = tiny_config(num_hidden_layers=3)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), models_of(config).lm_params)
    short = Models("m", config, params, config, params).shortened(2)
    assert (short.lm.num_hidden_layers, short.own.num_hidden_layers) == (2, 2)
    assert short.dtype == "float32"
    kernel = short.lm_params["layers"]["1"]["mlp"]["up_proj"]["kernel"]
    np.testing.assert_array_equal(kernel, params["layers"]["1"]["mlp"]["up_proj"]["kernel"])


def test_a_reward_model_of_its_own_has_its_own_memory(tiny_lm_dir):
    models = load_models(str(tiny_lm_dir), None, "bfloat16", 1, False)
    assert models.own.num_hidden_layers == 1
    pointers = [
        tree["norm"]["scale"].unsafe_buffer_pointer()
        for tree in (models.lm_params, models.own_weights)
    ]
    assert pointers[0] != pointers[1]
    model, params = make_reward_model(models, "arm", "own")
    assert params.trainable["backbone"]["norm"]["scale"].dtype == jnp.bfloat16
    assert params.trainable["head"]["projection"].dtype == jnp.float32
    wanted = jax.eval_shape(model.init, jax.random.key(0), models.own_weights)
    assert jax.tree.structure(params.trainable) == jax.tree.structure(wanted.trainable)
    assert jax.tree.structure(params.frozen) == jax.tree.structure(wanted.frozen)


def test_shapes_hold_as_many_parameters_as_their_names_say():
    def count(config):
        return sum(x.size for x in jax.tree.leaves(param_shapes(config)))

    assert [count(c) for c in SHAPES["gpt2-large"]] == [774_030_080, 124_439_808]
    assert [count(c) for c in SHAPES["llama-7b"]] == [6_738_415_616, 1_100_048_384]


def test_ceilings_are_work_over_the_fastest_time():
    made = prepare("float32", width=32, megabytes=1)
    assert made.flops == 2 * 32**3
    assert made.bytes == 2**20
    fast = dataclasses.replace(made, products=(lambda: None,), reads=(lambda: None,))
    assert all(x > y for x, y in zip(fast.measure(), made.measure(), strict=True))
    found = summary([(1.0, 10.0), (4.0, 30.0), (2.0, 20.0)])
    assert found["flops_per_second"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert found["bytes_per_second"] == {"median": 20.0, "min": 10.0, "max": 30.0}


def test_rounds_are_interleaved_and_first_calls_apart():
    calls = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def measure(self):
            calls.append(self.name)
            return Sample(0.0, float(len(calls)), 1)

    ceilings = prepare("float32", width=8, megabytes=1)
    timed = timing.interleaved({"a": Fake("a"), "b": Fake("b")}, ceilings, 2)
    assert calls == ["a", "b"] * 3
    assert {name: s.steps for name, s in timed.first.items()} == {"a": 1, "b": 2}
    assert [s.steps for s in timed.rounds["a"]] == [3, 5]
    assert len(timed.ceilings) == 2
