"""Attribute-controlled fine-tuning: whole runs on a tiny LM, in rounds and resumed."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardjax import cli
from rewardjax.data.generations import read_rows
from rewardjax.export import load_reward_model
from rewardjax.lm import load_lm, open_lm
from rewardjax.metrics.likelihood import mean_nll
from rewardjax.oracle import open_oracle
from rewardjax.train import runs
from rewardjax.train import samples as samples_of
from rewardjax.train.attribute import attribute
from rewardjax.train.attribute_data import Samples
from rewardjax.train.attribute_guide import learner
from rewardjax.train.attribute_settings import AttributeObjective, LoraConfig, nado_config
from rewardjax.train.attribute_trainer import AttributeTrainer
from rewardjax.train.sample_settings import resolved
from rewardjax.train.settings import OBJECTIVE_METRIC, OptimConfig
from tests.train.attribute.common import NADO, ORACLE, SAMPLING, TOKENS, V, same_leaves


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
    kept = json.loads((plain.lm.parent / "held_out.json").read_text())
    good, tokens = np.array(kept["accepted"]), np.array(kept["tokens"])
    assert 0 < good.sum() < len(good)
    nll = np.array(kept["nll"])[good].sum() / tokens[good].sum()
    assert nll == pytest.approx(plain.metrics["eval/nll_accepted"])
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
        ["sampling", "reading", "reward_model", "states", "lm"]
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
    drawn = Samples(rows, values, prompts, sampling)
    alone = learner(settings, opened.load(), drawn, by_length=False).train()
    same_leaves(
        alone.reward_model.trainable,
        load_reward_model(folder / "round-1" / "nado" / "reward_model").trainable,
        rtol=1e-5,
        atol=1e-7,
    )
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(alone.reward_model.trainable)) > 0.01
