"""The estimate of memory against XLA's own account of the compiled programs; what is refused."""

import jax
import pytest

from rewardjax.decoding.loop import Program, TransformerLM, run
from rewardjax.decoding.memory import Need, available_memory, check_memory, decoding_need
from rewardjax.decoding.runner import Request, SamplingConfig, start_batch
from rewardjax.engine import make_engine
from rewardjax.errors import RewardJaxError
from rewardjax.export import load_reward_model
from rewardjax.lm import LM, init_params
from rewardjax.rewards import RewardModelConfig, RewardParams
from tests.conftest import tiny_config, tiny_tokenizer
from tests.trained import save_random


@pytest.fixture(scope="module")
def lm():
    """Wide enough, in its context, for caches and scores to outweigh the weights."""
    config = tiny_config(max_position_embeddings=2048)
    return LM(config, init_params(config, jax.random.key(0)), tiny_tokenizer(), "wide")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        RewardModelConfig(),
        RewardModelConfig(parametrization="arm", backbone="own"),
        RewardModelConfig(parametrization="rad", backbone="own"),
        RewardModelConfig(parametrization="rad", backbone="own", num_layers=1, lora_rank=2),
    ],
    ids=["arm", "arm own", "rad", "rad lora"],
)
def test_shapes_are_those_of_bind(lm, tmp_path, config, dtype):
    trained = load_reward_model(
        save_random(
            tmp_path / "rm",
            lm,
            config,
        )
    )
    params = jax.tree.map(lambda x: x.astype(dtype), lm.params)
    loaded = LM(lm.config, params, lm.tokenizer, lm.source)
    model, bound = trained.bind(loaded)
    got_model, got = trained.shapes(lm.config, dtype)
    assert got_model == model
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert described(got) == described(bound)


@pytest.mark.parametrize(
    ("kind", "longest", "samples"),
    [
        ("plain", 10, 1),
        ("plain", 500, 1),
        ("arm, every token", 10, 1),
        ("rad", 10, 1),
        ("rad", 500, 1),
        ("rad", 500, 4),
    ],
)
def test_need_is_near_what_xla_reports(lm, tmp_path, kind, longest, samples):
    """Peak of the programs: arguments, results and temporaries, donated buffers once."""
    rows, new, candidates = 8, 8, 128 if "every" in kind else 20
    models, model, params = [], None, RewardParams((), ())
    if kind != "plain":
        own = kind == "rad"
        config = RewardModelConfig(parametrization=kind[:3], backbone="own" if own else "base")
        trained = load_reward_model(save_random(tmp_path / "rm", lm, config))
        models, (model, params) = [trained.shapes(lm.config, "float32")], trained.bind(lm)
    need = decoding_need(
        lm.config,
        "float32",
        models,
        longest=longest,
        max_new_tokens=new,
        num_candidates=candidates,
        samples=samples,
    )
    program = Program(TransformerLM(lm.config), model, candidates)
    requests = [Request([(i + samples // 2) // samples] * longest, i, 0) for i in range(rows)]
    sampling = SamplingConfig(max_new_tokens=new, top_k=candidates)

    # Leaves go in and out: what `lower` puts in their places is no array, and checked types mind.
    def start(lm_params, reward_params):
        state = start_batch(program, lm_params, reward_params, requests, sampling, rows)
        leaves, trees[:] = jax.tree.flatten(state)[0], [jax.tree.structure(state)]
        return leaves

    def steps(lm_params, reward_params, leaves):
        state = run(program, lm_params, reward_params, trees[0].unflatten(leaves), new)
        return jax.tree.leaves(state)

    trees = []
    starting = jax.jit(start).lower(lm.params, params).compile()
    state = starting(lm.params, params)
    stepping = jax.jit(steps, donate_argnums=2).lower(lm.params, params, state).compile()
    peaks = [
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        + used.temp_size_in_bytes
        - used.alias_size_in_bytes
        for used in (starting.memory_analysis(), stepping.memory_analysis())
    ]
    assert 0.9 < need.total(rows) / max(peaks) < 1.6, peaks


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does():
    need = Need(weights=10**9, state=10**6, reading=10**6, step=10**5)
    assert need.total(333) == 10**9 + 333 * 3 * 10**6
    check_memory(need, 333, 2 * 10**9)
    check_memory(need, 10**9, None)
    with pytest.raises(RewardJaxError) as error:
        check_memory(need, 400, 2 * 10**9)
    assert str(error.value) == (
        "batch_size 400 needs about 2.2 GB of memory (1.0 GB of it for weights), and 2.0 GB is"
        " free; lower --batch-size to 333"
    )
    with pytest.raises(RewardJaxError, match="not even one row fits: lower --max-new-tokens"):
        check_memory(need, 1, 10**9)


def test_samples_of_a_prompt_share_its_reading():
    alone, shared = (Need(0, state=1, reading=100, step=1, samples=n) for n in (1, 25))
    assert alone.total(50) == 50 + 50 * 101
    assert shared.total(50) == 50 + 4 * 101  # 3 prompts: two whole, or parts of two more
    assert shared.total(1) == 1 + 101


def test_memory_grows_with_everything_that_takes_it(lm):
    def need(models=(), **changes):
        sizes = {"longest": 100, "max_new_tokens": 10, "num_candidates": 20, **changes}
        return decoding_need(lm.config, "float32", models, **sizes)

    params = sum(x.nbytes for x in jax.tree.leaves(lm.params))
    assert need().weights == params
    assert need(longest=128) == need()  # the same bucket
    assert need(longest=129).reading > need().reading
    assert need(max_new_tokens=1000).state > need().state
    assert need(num_candidates=128).step > need().step
    assert decoding_need(
        lm.config, "bfloat16", [], longest=100, max_new_tokens=10, num_candidates=20
    ).weights == params // 2  # fmt: skip


def test_rads_cache_holds_a_prefix_once_whatever_k(lm, tmp_path):
    """Candidates have a slot each behind the one prefix: no k copies of it."""
    config = RewardModelConfig(parametrization="rad", backbone="own")
    trained = load_reward_model(save_random(tmp_path / "rm", lm, config))

    def held(top_k):
        sampling = SamplingConfig(beta=1.0, top_k=top_k, max_new_tokens=100)
        engine = make_engine(lm, trained, sampling)
        params = (engine.lm_params, engine.reward_params)
        request = Request([5] * 500, 0, 0)
        state = start_batch(engine.program, *params, [request] * 2, sampling, 2)
        return sum(x.nbytes for x in jax.tree.leaves(state.reward_cache.kv))

    assert held(11) == held(20)  # one capacity
    slots = 512 + 1 + 100  # the prompt's bucket, BOS, and what is generated
    assert held(128) / held(20) == pytest.approx((slots + 128) / (slots + 20))


def test_available_memory(monkeypatch):
    found = available_memory()
    assert found is None or found > 10**6

    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 300}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert available_memory() == 700
