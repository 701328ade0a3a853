"""Attribute-controlled fine-tuning: its loss against slow formulas, and whole runs on a tiny LM."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardjax import cli
from rewardjax import config as settings_file
from rewardjax.data.batches import make_batch
from rewardjax.data.generations import Row, read_rows
from rewardjax.data.settings import DataConfig
from rewardjax.errors import RewardJaxError
from rewardjax.export import load_reward_model
from rewardjax.lm import LM, OpenedLM, init_params, load_lm, lora, open_lm
from rewardjax.lm.decoder import read
from rewardjax.lm.lora import Lora
from rewardjax.lm.save import save_lm
from rewardjax.metrics.likelihood import mean_nll
from rewardjax.oracle import OracleConfig, open_oracle
from rewardjax.rewards import RewardModelConfig, RewardParams
from rewardjax.sequence import TextReward
from rewardjax.text import encode_prompt
from rewardjax.train import attribute_loss, runs, step
from rewardjax.train import samples as samples_of
from rewardjax.train.attribute import attribute
from rewardjax.train.attribute_data import (
    Samples,
    accepted,
    judge_texts,
    read_samples,
    read_texts,
    samples_beside,
)
from rewardjax.train.attribute_guide import learner
from rewardjax.train.attribute_loss import AttributeLoss, Guide, LMInputs, Policy, row_sums
from rewardjax.train.attribute_settings import (
    AttributeConfig,
    AttributeObjective,
    LearnerConfig,
    LoraConfig,
    check,
    nado_config,
)
from rewardjax.train.attribute_trainer import AttributeTrainer
from rewardjax.train.losses import Inputs
from rewardjax.train.nado_loss import NadoLoss
from rewardjax.train.nado_settings import NadoObjectiveConfig
from rewardjax.train.sample_settings import PromptsConfig, SampleConfig, resolved
from rewardjax.train.settings import (
    OBJECTIVE_METRIC,
    ComputeConfig,
    EvalConfig,
    OptimConfig,
)
from tests.conftest import tiny_config, tiny_tokenizer
from tests.rewards.calls import equations
from tests.trained import random_params, save_random

V = 128
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(3, V, (4, 8)), jnp.int32)
LENGTHS = jnp.array([8, 5, 2, 0])
STARTS = jnp.array([1, 3, 1, 1])
WEIGHTS = jnp.array([[1.0, 0.5], [0.25, 2.0], [1.0, 0.0], [0.0, 0.0]])
GUIDES = {
    "states": (RewardModelConfig(), "log_sigmoid", False),
    "inner states, log R": (RewardModelConfig("nado_norm", layer=0), "raw", False),
    "its own backbone, 1 - R": (RewardModelConfig("arm", "own", num_layers=1), "sigmoid", True),
}


ROW_SUMS = jax.jit(row_sums, static_argnums=(0, 3))
INIT = jax.jit(lora.init, static_argnums=0)
LOSS = jax.jit(step.loss, static_argnums=(0, 1))


@pytest.fixture(scope="module")
def lm_dir(tmp_path_factory):
    """A one-layer LM as a Hugging Face directory."""
    config = tiny_config(num_hidden_layers=1)
    params = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 10 if x.ndim == 2 else x, params)
    folder = tmp_path_factory.mktemp("one_layer") / "lm"
    return save_lm(folder, LM(config, params, tiny_tokenizer(), "one layer"))


@pytest.fixture(scope="module")
def lm(lm_dir):
    return load_lm(lm_dir)


def steered(lm, name="states", scale=0.2, adapted=0.3):
    """A policy away from θ_old, its parameters, and inputs of its batch."""
    config, link, invert = GUIDES[name]
    model, reward, _ = random_params(lm, config, scale=scale)
    how = Lora(2, 4.0)
    adapters = INIT(how, jax.random.key(1), lm.params)
    if adapted:
        adapters = jax.tree.map(
            lambda x: x + adapted * jax.random.normal(jax.random.key(2), x.shape), adapters
        )
    frozen = {"lm": lm.params, "old": {"lm_head": lm.params["lm_head"]}, "reward": reward}
    top = lm.config.num_hidden_layers
    states = read(lm.config, lm.params, TOKENS, jnp.maximum(LENGTHS, 1), {top, *model.layers})
    hidden = {layer: states[layer] for layer in model.layers}
    inputs = LMInputs(TOKENS, LENGTHS, STARTS, WEIGHTS, states[top], hidden)
    policy = Policy(lm.config, how, Guide(model, link, 0, invert))
    return policy, RewardParams({"lora": adapters}, frozen), inputs


def slow(lm, policy, params, inputs):
    """Sums of each row, one token at a time, in float64."""
    weights = lora.add(policy.lora, lm.params, params.trainable["lora"])
    lengths = jnp.maximum(LENGTHS, 1)
    new = dataclasses.replace(lm, params=weights).logits(TOKENS, lengths)
    old = lm.logits(TOKENS, lengths)
    every = jnp.broadcast_to(jnp.arange(V), (*TOKENS.shape, V))
    reward, guide = params.frozen["reward"], policy.guide
    rewards = guide.model.position_rewards(reward, TOKENS, lengths, inputs.hidden, every)[..., 0]
    out = np.zeros((4, 3))
    for b, (first, last) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        for t in range(first, last):
            log_p = np.asarray(jax.nn.log_softmax(new[b, t - 1]), np.float64)
            p_old = np.exp(np.asarray(jax.nn.log_softmax(old[b, t - 1]), np.float64))
            r = np.asarray(rewards[b, t], np.float64)
            r = np.exp(r) if guide.link == "raw" else 1 / (1 + np.exp(-r))
            r = 1 - r if guide.invert else r
            z = np.sum(p_old * r)
            q = p_old * r / z
            out[b] += -log_p[TOKENS[b, t]], q @ (np.log(q) - log_p), q @ np.log(r) - np.log(z)
    return out


@pytest.mark.parametrize("name", GUIDES)
def test_sums_of_rows_are_the_formula(lm, name, monkeypatch):
    monkeypatch.setattr(attribute_loss, "CHUNK_LOGITS", 5 * V)  # 28 positions, 5 at a time
    policy, params, inputs = steered(lm, name)
    expected = slow(lm, policy, params, inputs)
    found = ROW_SUMS(policy, params, inputs, True)
    np.testing.assert_allclose(np.stack(found, axis=1), expected, rtol=2e-4, atol=1e-4)
    assert expected[:3, 1:].min() > 0.01


def test_terms_are_weighted_means_over_tokens(lm):
    """And parts of a batch add up to it, also where the KL is over other texts."""
    policy, params, inputs = steered(lm)
    sums = np.stack(ROW_SUMS(policy, params, inputs, True), axis=1)
    counts = jnp.maximum(LENGTHS - STARTS, 0)
    keys = jax.random.split(jax.random.key(0), 4)
    objective = AttributeLoss(0.7)
    wanted = [(WEIGHTS[:, i] @ sums[:, i]) / (WEIGHTS[:, i] @ counts) for i in (0, 1)]
    total, terms = LOSS(policy, objective, params, inputs, keys)
    np.testing.assert_allclose(terms, wanted, rtol=1e-5)
    np.testing.assert_allclose(total, 0.75 * (wanted[0] + 0.7 * wanted[1]), rtol=1e-5)
    turned = jax.tree.map(lambda x: x[::-1], inputs)
    both = inputs._replace(old=None, hidden=None, samples=turned)
    np.testing.assert_allclose(LOSS(policy, objective, params, both, keys)[0], total, rtol=1e-5)
    halves = [jax.tree.map(lambda x, i=i: x[i::2], (both, keys)) for i in (0, 1)]
    parts = [LOSS(policy, objective, params, x, k, both)[0] for x, k in halves]
    np.testing.assert_allclose(sum(parts), total, rtol=1e-5)


def kl_sum(trainable, policy, frozen, inputs):
    return row_sums(policy, RewardParams(trainable, frozen), inputs, True).kl.sum()


KL_GRADIENT = jax.jit(jax.grad(kl_sum), static_argnums=1)


def test_a_zero_head_pulls_nowhere_at_the_old_weights(lm):
    largest = []
    for scale in (0.0, 0.2):
        policy, params, inputs = steered(lm, scale=scale, adapted=0)
        found = KL_GRADIENT(params.trainable, policy, params.frozen, inputs)
        largest.append(max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found)))
    assert largest[0] < 1e-6 * largest[1], largest


def test_rows_over_the_vocabulary_exist_for_a_chunk_alone(lm, monkeypatch):
    """In the gradient too, whose head has a row for each token."""
    policy, params, inputs = steered(lm, "inner states, log R")

    positions = TOKENS[:, 1:].size
    for chunk, whole in ((5, False), (positions, True)):
        monkeypatch.setattr(attribute_loss, "CHUNK_LOGITS", chunk * V)
        program = jax.make_jaxpr(jax.grad(kl_sum), static_argnums=1)
        made = {
            v.aval.shape
            for eqn in equations(program(params.trainable, policy, params.frozen, inputs).jaxpr)
            for v in eqn.outvars
        }
        rows = {int(np.prod(x)) // V for x in made if V in x}
        assert (positions in rows) is whole
        assert chunk in rows


def test_both_updates_of_a_joint_step_are_those_made_alone(lm):
    """One program: the LM's with the old reward model, and the next NADO's."""
    policy, params, inputs = steered(lm)
    nado, own, _ = random_params(lm, RewardModelConfig("nado"))
    own = own._replace(frozen={**own.frozen, "lm": {"lm_head": lm.params["lm_head"]}})
    theirs = Inputs(
        TOKENS, LENGTHS, jnp.array([[1.0], [0.0], [1.0], [0.0]]), {1: inputs.old},
        prompt_lengths=STARTS, weights=jnp.array([1.0, 2.0, 0.5, 0.0]),
    )  # fmt: skip
    loss = NadoLoss(NadoObjectiveConfig(), nado.probability_link, 0)
    hows = (
        step.Update(policy, AttributeLoss(0.7), OptimConfig(learning_rate=1e-2), 10),
        step.Update(nado, loss, OptimConfig(learning_rate=3e-2), 5),
    )
    trees, both = (params, own), (inputs, theirs)
    frozen, untouched = tuple(p.frozen for p in trees), jax.tree.map(np.array, lm.params)

    def states():
        return tuple(
            step.new_state(p.trainable, step.optimizer(how.optim, how.steps), 3)
            for p, how in zip(trees, hows, strict=True)
        )

    alone, joint = states(), states()
    for _ in range(2):
        alone = [
            step.train_step(state, f, x, **how._asdict())
            for state, f, x, how in zip(alone, frozen, both, hows, strict=True)
        ]
        joint = step.joint_step(joint, frozen, both, hows)
        for one, other in zip(alone, joint, strict=True):
            same_leaves(one[1]._replace(finite=1), other[1]._replace(finite=1), rtol=1e-5)
        alone, joint = (tuple(state for state, _ in made) for made in (alone, joint))
    for one, other, before in zip(alone, joint, states(), strict=True):
        same_leaves(one.trainable, other.trainable, rtol=1e-6, atol=1e-7)
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), other.trainable, before.trainable)
        assert min(map(float, jax.tree.leaves(moved))) > 1e-3
    jax.tree.map(np.testing.assert_array_equal, lm.params, untouched)


def same_leaves(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def badness(texts):
    """A scorer in [0, 1]: the share of some letters."""
    return [sum(c in "bdnt" for c in text) / max(len(text), 1) for text in texts]


SAMPLING = SampleConfig(num_samples=6, max_new_tokens=4, top_k=V)
SCORER = "score=tests.train.test_attribute:badness"
ORACLE = OracleConfig(scorer=SCORER, threshold=0.2, invert=True)
SOFT = OracleConfig(scorer=SCORER, invert=True)
NADO = LearnerConfig(optim=OptimConfig(batch_size=8, steps=6, learning_rate=3e-2), held_out=0.25)


@pytest.fixture
def job(tmp_path, lm, lm_dir, reviews):
    """Settings of a short run on labelled reviews, with changes."""
    rows = [
        {"text": text, "good": label, "relevant": float(i % 3 == 0)}
        for i, (text, label) in enumerate(zip(*reviews, strict=True))
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.txt").write_text("the film\nit was\na great\nnot a\n")
    save_random(tmp_path / "reward", lm, RewardModelConfig(), link="log_sigmoid", scale=0.3)

    def make(run_dir="run", **changes):
        data = {"path": str(tmp_path / "d.jsonl"), "labels": ("good", "relevant"), "max_length": 8}
        values = {
            "run_dir": str(tmp_path / run_dir),
            "lm": str(lm_dir),
            "reward_model": str(tmp_path / "reward"),
            "data": DataConfig(**data),
            "prompts": PromptsConfig(path=str(tmp_path / "prompts.txt")),
            "sampling": SAMPLING,
            "lora": LoraConfig(rank=2),
            "optim": OptimConfig(batch_size=8, steps=4, learning_rate=1e-2),
            "eval": EvalConfig(every=4),
            "nado": NADO,
        }
        return AttributeConfig(**{**values, **changes})

    return make


def log(result):
    return [json.loads(line) for line in (result.lm.parent / "metrics.jsonl").open()]


def saved(folder):
    """Every array of a safetensors file."""
    return load_file(next(folder.glob("*.safetensors")))


def same_files(a, b):
    first, second = saved(a), saved(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_no_weight_is_plain_fine_tuning_bit_for_bit(job):
    objective = AttributeObjective(kl_weight=0.0)
    plain = attribute(job("plain", reward_model=None, objective=objective))
    beside = attribute(job("beside", objective=objective))
    same_files(plain.adapter, beside.adapter)
    more = {"eval/kl", "eval/closed_form"}  # that are looked at all the same
    assert beside.metrics.keys() - plain.metrics.keys() == more
    assert {k: v for k, v in beside.metrics.items() if k not in more} == plain.metrics
    found = {Path(run.run).parent.name: run for run in runs.find(beside.lm.parents[2])}
    assert found.keys() == {"plain", "beside"}
    run = found["plain"]
    assert (run.state, run.metric) == ("finished", OBJECTIVE_METRIC)
    assert run.parametrization == "the LM itself"
    assert run.best == pytest.approx(plain.metrics[OBJECTIVE_METRIC])
    first = log(plain)[0]
    assert first["eval/nll"] > plain.metrics["eval/nll"]  # it learns
    assert 0 <= first["eval/detection"]["low"] <= first["eval/detection_auc"] <= 1


def test_a_run_lowers_the_kl_and_its_lm_is_used_by_others(job, lm, lm_dir, tmp_path):
    """By PEFT, transformers, our loader and `decode guided`; the base LM's files stay."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    before = (lm_dir / "model.safetensors").read_bytes()
    steps = OptimConfig(batch_size=8, steps=12, learning_rate=1e-2)
    result = attribute(job(objective=AttributeObjective(50.0), optim=steps))
    assert (lm_dir / "model.safetensors").read_bytes() == before
    first, last = log(result)[0], result.metrics
    np.testing.assert_allclose(first["eval/kl"], first["eval/closed_form"], rtol=1e-4)
    assert first["eval/closed_form"] == pytest.approx(last["eval/closed_form"], rel=1e-6)
    assert last["eval/kl"] < 0.9 * first["eval/kl"]
    assert last["eval/objective"] == pytest.approx(last["eval/nll"] + 50 * last["eval/kl"])

    def theirs(model):
        with torch.no_grad():
            return model.eval()(torch.tensor(np.array(TOKENS))).logits.numpy()

    tuned = load_lm(result.lm)
    ours = tuned.logits(TOKENS, [8] * 4)
    assert np.abs(ours - lm.logits(TOKENS, [8] * 4)).max() > 0.01
    base = AutoModelForCausalLM.from_pretrained(lm_dir)
    adapted = theirs(PeftModel.from_pretrained(base, result.adapter))
    np.testing.assert_allclose(ours, adapted, atol=1e-4)
    merged = theirs(AutoModelForCausalLM.from_pretrained(result.lm))
    np.testing.assert_allclose(ours, merged, atol=1e-4)
    nll = -np.asarray(jax.nn.log_softmax(ours))[:, :-1]
    np.testing.assert_allclose(
        mean_nll(tuned, list(np.asarray(TOKENS))),
        np.take_along_axis(nll, np.asarray(TOKENS)[:, 1:, None], 2)[..., 0].mean(1),
        rtol=1e-4,
    )
    out = tmp_path / "out.jsonl"
    argv = ["decode", "guided", "--lm", str(result.lm), "--prompt", "the film", "--out", str(out)]
    assert cli.main([*argv, "--max-new-tokens", "4"]) == 0
    assert json.loads(out.read_text())["token_ids"]


def test_sequential_rounds_over_samples_of_all_weights(job, lm):
    """Each round's reward model belongs to the LM that the round begins with."""
    result = attribute(
        job(
            reward_model=None, refit=True, rounds=2, oracle=ORACLE, lora=LoraConfig(rank=0),
            objective=AttributeObjective(prefixes="samples"),
        )
    )  # fmt: skip
    path = result.schedule["critical_path"]
    assert path["updates"] == result.schedule["updates"] == 2 * (6 + 4)
    assert [list(found) for found in result.schedule["rounds"]] == 2 * [
        ["sampling", "reward_model", "states", "lm"]
    ]
    folder = result.lm.parents[1]
    bases = [lm.fingerprint, load_lm(folder / "round-1" / "lm").fingerprint]
    for number, base in enumerate(bases, 1):
        nado = load_reward_model(folder / f"round-{number}" / "nado" / "reward_model")
        assert (nado.base_fingerprint, nado.link) == (base, "log_sigmoid")
    assert bases[0] != bases[1]
    assert result.adapter is None
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), load_lm(result.lm).params, lm.params)
    assert min(jax.tree.leaves(moved)) > 0
    rows = [json.loads(line) for line in (folder / "round-2" / "scored.jsonl").open()]
    assert len(rows) == 4 * 6
    assert path["sampled_tokens"] > 2 * len(rows)
    for number in (1, 2):  # each begins where the one before it ended, with a new reward model
        path = folder / f"round-{number}" / "metrics.jsonl"
        first = json.loads(path.read_text().split("\n")[0])
        np.testing.assert_allclose(first["eval/kl"], first["eval/closed_form"], rtol=1e-3)
        assert first["eval/closed_form"] > 1e-4


def test_parallel_rounds_resume_bit_for_bit(job, monkeypatch):
    """Stopped in the middle of a round's joint steps: LM and reward model are those unstopped."""
    changes = {"reward_model": None, "refit": True, "rounds": 2, "oracle": ORACLE}
    changes |= {"scheme": "parallel", "optim": OptimConfig(batch_size=8, steps=2)}
    changes |= {"objective": AttributeObjective(prefixes="samples")}
    whole = attribute(job("whole", **changes))
    assert whole.schedule["updates"] == 2 * whole.schedule["critical_path"]["updates"] == 8
    once = AttributeTrainer._step
    made = []

    def stop(self, batch):
        made.append(self.run.directory.name)
        if len(made) == 3:  # the first step of the second round
            os.kill(os.getpid(), signal.SIGINT)
        return once(self, batch)

    monkeypatch.setattr(AttributeTrainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        attribute(job("stopped", **changes))
    stopped = attribute(job("stopped", resume=True, **changes))
    assert made == 2 * ["round-1"] + 2 * ["round-2"]
    same_files(whole.adapter, stopped.adapter)
    for number in (1, 2):
        first, second = (
            x.lm.parents[1] / f"round-{number}" / "nado" / "reward_model" for x in (whole, stopped)
        )
        same_files(first, second)
    assert stopped.metrics == whole.metrics
    untaught = log(whole)[-1]["eval/closed_form"]
    assert untaught > 1e-4  # round 2 has round 1's reward model; in round 1 there is none yet:
    rows = [json.loads(x) for x in (whole.lm.parents[1] / "round-1" / "metrics.jsonl").open()]
    assert rows[0]["eval/closed_form"] == pytest.approx(0, abs=1e-6)
    assert {"reward_model/data/satisfied", "reward_model/eval/consistency"} <= rows[0].keys()

    # The NADO that trained beside the LM is the one that its own trainer makes of these samples.
    folder = whole.lm.parents[1]
    own = dataclasses.replace(NADO, optim=dataclasses.replace(NADO.optim, steps=2))
    config = job("whole", **{**changes, "nado": own})
    opened = open_lm(config.lm)
    prompts, _ = samples_of.read_tasks(config.prompts)
    rows = read_rows(folder / "round-1" / "completions.jsonl")
    values = samples_of.oracle_reward(open_oracle(ORACLE)).score(rows)
    values = np.where(values == 1, 0.7, 0.2).astype(np.float32)  # a soft oracle's: C is the same
    sampling = resolved(SAMPLING, V)
    prompts = samples_of.encode_prompts(opened, prompts, sampling, 64)
    settings = nado_config(config, 1, str(folder / "alone"), config.lm)
    alone = learner(settings, opened.load(), Samples(rows, values, prompts, sampling)).train()
    same_leaves(
        alone.reward_model.trainable,
        load_reward_model(folder / "round-1" / "nado" / "reward_model").trainable,
        rtol=1e-5,
        atol=1e-7,
    )
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(alone.reward_model.trainable)) > 0.01


def test_the_lms_own_samples_as_texts(job, tmp_path):
    """Accepted ones train, each from behind its prompt; texts of data judge."""
    config = job(objective=AttributeObjective(source="samples", texts="accepted"), oracle=ORACLE)
    corpus = corpus_of(config)
    texts = [" good", " bad", " great", " not", " a film", " bd"]
    opened = open_lm(config.lm)
    rows = [
        Row(prompt, text, i, j, opened.tokenizer(text)["input_ids"])
        for i, prompt in enumerate(("the film", "it"))
        for j, text in enumerate(texts)
    ]
    prompts = {i: encode_prompt(opened, text, i) for i, text in enumerate(("the film", "it"))}
    values = 1 - np.array(badness([row.text for row in rows]), np.float32)
    values = (values > 0.8).astype(np.float32)
    samples = read_samples(config, Samples(rows, values, prompts, resolved(SAMPLING, V)))
    both = samples_beside(config, samples, corpus)
    np.testing.assert_array_equal(both.eval_rows, corpus.eval_rows)
    trained = {both.examples.texts[i] for i in both.train_rows}
    good = [row.prompt + row.text for row in rows if badness([row.text])[0] < 0.2]
    assert trained == {text for text in good if text.startswith(tuple(kept_prompts(samples)))}
    assert trained
    prompts = {p: len(open_lm(config.lm).tokenizer(p)["input_ids"]) for p in ("the film", "it")}
    for i in both.train_rows:
        prompt = next(p for p in prompts if both.examples.texts[i].startswith(p))
        assert both.starts[i] == prompts[prompt]
    batch = make_batch(
        both.train_rows[:2].tolist(),
        both.tokens,
        both.examples.labels,
        width=8,
        batch_size=3,
        starts=both.starts,
    )
    found = both.inputs(batch, with_kl=False)
    np.testing.assert_array_equal(found.starts, [*both.starts[both.train_rows[:2]], 0])


def kept_prompts(samples):
    """The prompts whose samples train: held out are all of a prompt's, or none."""
    prompts = {"the film", "it"}
    held = {
        p for i in samples.eval_rows for p in prompts if samples.examples.texts[i].startswith(p)
    }
    kept = {
        p for i in samples.train_rows for p in prompts if samples.examples.texts[i].startswith(p)
    }
    assert held | kept == prompts
    assert not held & kept
    return kept


def test_states_are_those_of_the_right_lm(job, lm):
    """θ_old's, and those of the LM that the reward model belongs to, which may be an older one."""
    corpus = corpus_of(job())
    older = dataclasses.replace(lm, params=jax.tree.map(lambda x: 1.1 * x, lm.params))
    rows = corpus.train_rows[:2].tolist()
    batch = make_batch(rows, corpus.tokens, corpus.examples.labels, width=8, batch_size=2)
    for reader in (older, lm):
        found = corpus.with_states(lm, reader, (0, 1)).inputs(batch, with_kl=True)
        want = [
            read(x.config, x.params, jnp.asarray(batch.tokens), jnp.asarray(batch.lengths), {0, 1})
            for x in (lm, reader)
        ]
        pairs = [(found.old, want[0][1]), *((found.hidden[i], want[1][i]) for i in (0, 1))]
        for row, length in enumerate(batch.lengths):
            for got, expected in pairs:
                np.testing.assert_allclose(
                    got[row, :length], expected[row, :length], rtol=1e-4, atol=1e-5
                )


def corpus_of(config):
    """The texts D of a run, judged."""
    Path(config.run_dir).mkdir(exist_ok=True)
    oracle = open_oracle(config.oracle) if config.judged else None
    return judge_texts(config, read_texts(config, open_lm(config.lm)), oracle)


def test_arms_differ_by_their_texts_and_weights(job, monkeypatch):
    """Filtered: accepted texts alone train; the same texts are held out in every arm.

    The oracle's values are kept: the same are not asked for again.
    """

    def corpus(**changes):
        return corpus_of(
            job(objective=AttributeObjective(**changes.pop("objective", {})), **changes)
        )

    every = corpus()
    assert (every.examples.labels == 1).all()
    bad = np.array([text.endswith((" bad", " not")) for text in every.examples.texts])
    np.testing.assert_array_equal(every.accepted, ~bad)
    kept = corpus(objective={"texts": "accepted"})
    np.testing.assert_array_equal(kept.train_rows, [i for i in every.train_rows if not bad[i]])
    np.testing.assert_array_equal(kept.eval_rows, every.eval_rows)
    scored = corpus(objective={"texts": "accepted"}, oracle=ORACLE)
    shares = np.array(badness(every.examples.texts))
    assert 0 < len(scored.train_rows) < len(every.train_rows)
    assert set(scored.train_rows) == {i for i in every.train_rows if shares[i] < 0.2}
    (Path(job().run_dir) / "texts.jsonl").unlink()  # values of another oracle
    linear = corpus(objective={"weighting": "linear"}, oracle=SOFT)
    np.testing.assert_array_equal(linear.accepted, shares <= 0.5)
    monkeypatch.setattr(TextReward, "__call__", lambda *_: pytest.fail("scored again"))
    np.testing.assert_allclose(linear.examples.labels[:, 0], 1 - shares, rtol=1e-6)
    weighted = corpus(
        objective={"weighting": "exponential", "tau": 0.3, "kl_label": "relevant"}, oracle=SOFT
    ).examples.labels
    np.testing.assert_allclose(weighted[:, 0], np.exp(-shares / 0.3), rtol=1e-5)
    np.testing.assert_array_equal(weighted[:, 1], np.arange(len(shares)) % 3 == 0)
    soft = np.array([0, 0.4999, 0.5, 1], np.float32)
    np.testing.assert_array_equal(accepted(soft), [False, False, True, True])
    none = corpus(data=dataclasses.replace(job().data, labels=()))
    assert none.accepted is None


NO_REWARD = {"reward_model": None}
LEARNS = {"refit": True, "oracle": ORACLE, **NO_REWARD}
BAD = {
    "no reward model": (NO_REWARD, "objective.kl_weight is 1 and there is no reward model"),
    "two": ({"refit": True, "oracle": ORACLE}, "reward_model has no meaning where refit"),
    "parallel": ({"scheme": "parallel"}, "scheme parallel trains a reward model beside"),
    "oracle": ({"refit": True, **NO_REWARD}, "oracle: expected exactly one of scorer, words"),
    "prompts": (
        {"objective": AttributeObjective(prefixes="samples"), "prompts": PromptsConfig()},
        "prompts.path is empty",
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
        {"oracle": OracleConfig("score=tests.train.test_attribute:letters")},
        "gives [0-9]+; expected 0 to 1: set oracle.threshold",
    ),
}  # fmt: skip


def letters(texts):
    return [len(text) for text in texts]


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
    path = Path(__file__).parents[2] / "configs" / "attribute_nontoxic.yaml"
    config = settings_file.from_dict(AttributeConfig, settings_file.load_yaml(path))
    check(dataclasses.replace(config, prompts=PromptsConfig(path="prompts.jsonl")))
