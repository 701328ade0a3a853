"""Sharded on eight devices equals a single one: parameters, losses, gradients, steps and texts."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import rewardjax as rj
from rewardjax import sharding
from rewardjax.errors import RewardJaxError
from rewardjax.lm import forward, init_params, load_lm, unembed
from rewardjax.lm.params import param_shapes, stack_layers
from rewardjax.mesh import MeshConfig
from rewardjax.rewards import RewardModelConfig
from rewardjax.train.reward_model import train
from rewardjax.train.settings import EvalConfig, ObjectiveConfig, OptimConfig, TrainConfig
from tests.conftest import tiny_config
from tests.trained import save_random

MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(tensor=2),
    "all": MeshConfig(2, 2, 2),
    "fill": MeshConfig(data=1, fsdp=-1, tensor=2),
}
HEADS = {
    "arm own": RewardModelConfig(backbone="own", num_layers=1),
    "rad": RewardModelConfig("rad", "own", num_layers=1),
    "rad lora": RewardModelConfig("rad", "own", num_layers=1, lora_rank=2),
    "factors": RewardModelConfig("arm_factors", rank=3),
}
TRAINED = [("arm own", "fsdp"), ("rad lora", "all"), ("factors", "tensor")]
"""Every axis; heads on the LM's states, on a backbone, on candidates, with adapters."""
DECODED = [("arm own", "fsdp"), ("rad", "all")]
"""Every axis; a head on the state before, and one on candidates."""
PROMPTS = ["the film was", "it is", "a good", "not a bad film"]


@pytest.mark.parametrize("name", MESHES)
def test_meshes(name):
    mesh = sharding.make_mesh(MESHES[name])
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.size == (2 if name == "tensor" else 8)
    if name == "fill":
        assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(-1, -1), "-1 for one of them"),
        (MeshConfig(0), "expected sizes of at least 1"),
        (MeshConfig(16), "takes 16 devices and there are 8"),
        (MeshConfig(-1, 3), "takes 6 devices and there are 8"),
    ],
)
def test_impossible_meshes_are_refused(config, words):
    with pytest.raises(RewardJaxError, match=re.escape(words)):
        sharding.make_mesh(config)


def test_one_device_is_no_mesh():
    with sharding.use_mesh(MeshConfig()) as mesh:
        assert mesh is None
        tree = {"any": np.ones(3)}
        assert sharding.place(tree) is tree
        assert sharding.batch_parts() == 1


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("layers/0/self_attn/q_proj/kernel", (32, 32), P("fsdp", "tensor")),
        ("layers/self_attn/o_proj/kernel", (3, 32, 32), P(None, "tensor", "fsdp")),
        ("layers/1/mlp/up_proj/bias", (64,), P("tensor")),
        ("layers/1/input_layernorm/scale", (32,), P()),
        ("norm/bias", (32,), P()),
        ("trainable/backbone/embed_tokens/embedding", (128, 32), P("tensor", "fsdp")),
        ("opt_state/1/0/mu/backbone/lm_head/kernel", (32, 128), P("fsdp", "tensor")),
        ("trainable/head/projection", (1, 32, 32), P()),
        ("trainable/head/vocabulary", (1, 128, 32), P(None, "tensor", "fsdp")),
        ("opt_state/1/0/mu/head/level/bias", (1,), P()),
        ("frozen/lm/lm_head/kernel", (32, 128), P("fsdp", "tensor")),
        ("opt_state/1/0/count", (), P()),
    ],
)
def test_rules(path, shape, expected):
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    assert sharding.spec(path, shape, mesh) == expected


def test_a_parameter_without_a_rule_and_one_that_does_not_divide():
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    with pytest.raises(RewardJaxError, match="no rule for parameter 'layers/0/gate/weird'"):
        sharding.spec("layers/0/gate/weird", (8, 8), mesh)
    with pytest.raises(RewardJaxError, match="dimension 0 of 'lm_head/kernel', 30, is not div"):
        sharding.spec("lm_head/kernel", (30, 128), mesh)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "qk_norm": True},
        {"learned_positions": True, "norm": "layer", "mlp_gated": False, "attention_bias": True,
         "attention_out_bias": True, "mlp_bias": True},
        {"norm_offset": True, "post_norms": True},
    ],
    ids=["llama", "qwen3", "gpt2", "gemma"],
)  # fmt: skip
def test_every_parameter_of_every_family_has_a_rule(changes):
    with sharding.use_mesh(MeshConfig(2, 2, 2)) as mesh:
        assert mesh is not None
        flat = jax.tree_util.tree_leaves_with_path(param_shapes(tiny_config(**changes)))
        for path, x in flat:
            sharding.spec("/".join(key.key for key in path), x.shape, mesh)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_weights_are_read_onto_the_mesh(tiny_lm, tiny_lm_dir, scan):
    with sharding.use_mesh(MESHES["all"]):
        lm = load_lm(tiny_lm_dir, scan_layers=scan)
        tokens = np.arange(1, 25).reshape(2, 12)
        logits = lm.logits(tokens, [12, 7])
    layers = lm.params["layers"] if scan else lm.params["layers"]["0"]
    kernel = layers["mlp"]["up_proj"]["kernel"]
    expected = P(None, "fsdp", "tensor") if scan else P("fsdp", "tensor")
    assert kernel.sharding.spec == expected
    assert {shard.data.nbytes for shard in kernel.addressable_shards} == {kernel.nbytes // 4}
    np.testing.assert_allclose(logits, tiny_lm.logits(tokens, [12, 7]), rtol=1e-5, atol=1e-5)
    assert lm.fingerprint == tiny_lm.fingerprint


def test_heads_are_not_cut(tiny_lm_dir):
    with (
        sharding.use_mesh(MeshConfig(tensor=4)),
        pytest.raises(RewardJaxError, match="num_key_value_heads is 2, which mesh axis 'tensor'"),
    ):
        load_lm(tiny_lm_dir)


@pytest.fixture(scope="module")
def saved(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return {name: save_random(folder / name, tiny_lm, HEADS[name]) for name, _ in DECODED}


def texts(folder, source, **settings):
    lm = load_lm(source)
    reward_model = rj.load_reward_model(folder)
    return rj.generate(
        lm, PROMPTS, reward_model=reward_model, beta=5.0, max_new_tokens=12, num_samples=3,
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize(("head", "mesh"), DECODED)
def test_the_same_texts(saved, tiny_lm_dir, head, mesh):
    """Also of a batch that the devices do not divide, which refills its slots."""
    alone = texts(saved[head], tiny_lm_dir, batch_size=5)
    with sharding.use_mesh(MESHES[mesh]):
        together = texts(saved[head], tiny_lm_dir, batch_size=5)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.token_ids == b.token_ids
            np.testing.assert_allclose(a.rewards, b.rewards, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head", "mesh"), TRAINED)
def test_five_steps_are_the_same(tiny_lm_dir, tmp_path, monkeypatch, head, mesh):
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "film", "was", "not"])
    lines = [" ".join(rng.choice(words, 6)) for _ in range(48)]
    labels = [float("good" in line) for line in lines]
    prior = 0.0 if HEADS[head].parametrization == "rad" else 1.0

    def run(name, mesh):
        config = TrainConfig(
            run_dir=str(tmp_path / name),
            lm=str(tiny_lm_dir),
            reward_model=HEADS[head],
            objective=ObjectiveConfig(prior_weight=prior),
            optim=OptimConfig(batch_size=16, steps=5, learning_rate=1e-2),
            eval=EvalConfig(every=5, log_every=1),
            mesh=mesh,
        )
        return train(config, texts=lines, labels=labels)

    alone, sharded = run("alone", MeshConfig()), run("sharded", MESHES[mesh])
    for a, b in zip(alone.history, sharded.history, strict=True):
        for key in ("train/loss", "train/prior", "l2_grads", "eval/squared_error"):
            if key in a:
                np.testing.assert_allclose(b[key], a[key], rtol=1e-4, atol=1e-6)
    trained = [result.reward_model.trainable for result in (alone, sharded)]
    for a, b in zip(*map(jax.tree.leaves, trained), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-5)


def test_gradients_are_the_same_and_lie_as_their_parameters(tiny_lm):
    tokens = jnp.asarray(np.random.default_rng(1).integers(3, 128, (8, 10)))
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((10, 10), bool)), (8, 10, 10))
    positions = jnp.broadcast_to(jnp.arange(10), (8, 10))

    @jax.jit
    def grad(params):
        def loss(params):
            hidden, _ = forward(tiny_lm.config, params, tokens, positions, mask, capture=(3,))
            return jnp.mean(unembed(tiny_lm.config, params, hidden[3]) ** 2)

        return sharding.constrain_params(jax.grad(loss)(params))

    alone = grad(tiny_lm.params)
    with sharding.use_mesh(MESHES["all"]):
        sharded = grad(sharding.place(tiny_lm.params))
    kernel = sharded["layers"]["1"]["self_attn"]["o_proj"]["kernel"]
    assert kernel.sharding.spec == P("tensor", "fsdp")
    for a, b in zip(*map(jax.tree.leaves, (alone, sharded)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_the_compiled_program_gathers_no_weights_under_tensor(scan):
    """Under `tensor` partial products are summed; under `fsdp` weights are gathered for use."""
    config = dataclasses.replace(tiny_config(intermediate_size=96), scan_layers=scan)
    plain = init_params(dataclasses.replace(config, scan_layers=False), jax.random.key(0))
    params = stack_layers(plain) if scan else plain

    def compiled(mesh):
        with sharding.use_mesh(mesh):
            placed = sharding.place(params)
            tokens = sharding.place_batch(np.ones((8, 6), np.int32))
            mask = jnp.broadcast_to(jnp.tril(jnp.ones((6, 6), bool)), (8, 6, 6))
            positions = jnp.broadcast_to(jnp.arange(6), (8, 6))

            def logits(params, tokens):
                hidden, _ = forward(config, params, tokens, positions, mask, capture=(3,))
                return unembed(config, params, hidden[3])

            return jax.jit(logits).lower(placed, tokens).compile().as_text()

    gathered = r"= f32\[(?:\d+,)*{}\]\S* all-gather"
    whole = {"up": "32,96", "down": "96,32", "embedding": "128,32", "head": "32,128"}
    tensor = compiled(MeshConfig(data=4, tensor=2))
    assert "all-reduce" in tensor
    for name, shape in whole.items():
        assert not re.search(gathered.format(shape), tensor), name
    fsdp = compiled(MeshConfig(fsdp=8))
    for name in ("up", "down"):
        assert re.search(gathered.format(whole[name]), fsdp), name
    data = compiled(MeshConfig(data=8))
    assert "all-gather" not in data
    assert "all-reduce" not in data


def test_a_batch_that_the_mesh_does_not_divide(tiny_lm_dir, tmp_path):
    config = TrainConfig(
        run_dir=str(tmp_path / "run"),
        lm=str(tiny_lm_dir),
        optim=OptimConfig(batch_size=6),
        mesh=MeshConfig(data=4),
    )
    with pytest.raises(RewardJaxError, match=r"optim.batch_size is 6; expected a multiple of 4"):
        train(config, texts=["the film", "it was"] * 20, labels=[0.0, 1.0] * 20)


def test_a_run_goes_on_on_another_mesh(tiny_lm_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("REWARDJAX_CACHE", str(tmp_path / "cache"))
    lines = [f"the film {'good' if i % 2 else 'bad'} {i}" for i in range(48)]
    labels = [float(i % 2) for i in range(48)]

    def run(name, steps, mesh, resume=False):
        config = TrainConfig(
            run_dir=str(tmp_path / name),
            lm=str(tiny_lm_dir),
            reward_model=HEADS["rad"],
            optim=OptimConfig(batch_size=16, steps=steps, learning_rate=1e-2, schedule="constant"),
            eval=EvalConfig(every=4),
            mesh=mesh,
            resume=resume,
        )
        return train(config, texts=lines, labels=labels)

    whole = run("whole", 8, MeshConfig())
    run("parts", 4, MESHES["all"])
    parts = run("parts", 8, MeshConfig(data=4), resume=True)
    trained = [result.reward_model.trainable for result in (whole, parts)]
    for a, b in zip(*map(jax.tree.leaves, trained), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-5)
