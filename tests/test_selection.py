"""`rj.select` and `rewardjax decode select`: whatever scores, one of k completions is chosen."""

import dataclasses
import json
import sys

import numpy as np
import pytest

import rewardjax as rj
from rewardjax import selection
from rewardjax.cli import main
from rewardjax.data.generations import read_rows
from rewardjax.decoding import loop
from rewardjax.errors import RewardJaxError
from rewardjax.lm import OpenedLM
from rewardjax.probes import TrainedProbe, save_probe
from rewardjax.rewards import RewardModelConfig, RewardParams
from rewardjax.rewards.probe import ProbeConfig
from rewardjax.sequence import Completion, open_sequence_reward
from tests.trained import save_random

PROMPTS = ["the film was", "I", "not a good film", "great, it is"]
HOW = {"num_samples": 5, "max_new_tokens": 7, "top_k": 30, "batch_size": 4}


def count_a(completions):
    return [one.text.count("a") for one in completions]


@pytest.fixture
def probe(tmp_path, tiny_lm):
    """A random linear probe on layer 2."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(32, 1)).astype(np.float32)
    layers = [{"kernel": kernel, "bias": np.zeros(1, np.float32)}]
    frozen = {"mean": np.zeros(32, np.float32), "scale": np.ones(32, np.float32)}

    def save(**config):
        made = TrainedProbe(
            ProbeConfig(layer=2, **config),
            tiny_lm.source,
            tiny_lm.fingerprint,
            "L_Q",
            RewardParams({"layers": layers}, frozen),
        )
        save_probe(made, tmp_path / "probe")
        return str(tmp_path / "probe")

    return save


def test_the_best_is_chosen_of_the_samples_of_generate(tiny_lm):
    found = rj.select(tiny_lm, PROMPTS, count_a, policy="best", **HOW)
    plain = rj.generate(tiny_lm, PROMPTS, **HOW)
    assert [one.candidates for one in found] == plain
    for one in found:
        assert one.scores == [g.text.count("a") for g in one.candidates]
        assert one.chosen == int(np.argmax(one.scores))
        assert one.generation is one.candidates[one.chosen]
        assert sum(one.probabilities) == pytest.approx(1)
    assert len({one.chosen for one in found}) > 1


def test_softmax_draws_by_its_probabilities(tiny_lm):
    many = {**HOW, "max_new_tokens": 2, "num_samples": 2, "batch_size": 64}
    found = [
        one
        for seed in range(20)
        for one in rj.select(tiny_lm, PROMPTS * 5, count_a, tau=1.0, seed=seed, **many)
    ]
    expected = sum(one.probabilities[1] for one in found)
    spread = sum(one.probabilities[1] * one.probabilities[0] for one in found) ** 0.5
    assert abs(sum(one.chosen for one in found) - expected) < 4 * spread
    again = rj.select(tiny_lm, PROMPTS * 5, count_a, tau=1.0, seed=0, **many)
    assert again == found[: len(again)]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_probes_states_come_out_of_decoding_and_equal_reading_again(tiny_lm, probe, pooling):
    reward = open_sequence_reward(probe(pooling=pooling), tiny_lm)
    assert reward.layers == (2,)
    for one in rj.select(tiny_lm, PROMPTS, reward, stop="t", **HOW):
        ids = tiny_lm.tokenizer(one.prompt)["input_ids"]
        read = [Completion(g.prompt, g.text, ids, g.token_ids) for g in one.candidates]
        np.testing.assert_allclose(one.scores, reward(read), rtol=1e-3, atol=1e-3)
        assert len(set(one.scores)) > 1


def test_a_probe_of_another_lm_reads_the_text(tiny_lm, probe):
    """With ids of its own: those that decoding drew are another vocabulary's."""
    own = open_sequence_reward(probe(), tiny_lm)
    other = dataclasses.replace(own, is_base=False)
    assert other.layers == ()
    for one in rj.select(tiny_lm, PROMPTS, other, **HOW):
        read = []
        for g in one.candidates:
            ids = tiny_lm.tokenizer(g.prompt + g.text)["input_ids"]
            read.append(Completion(g.prompt, g.text, ids[:1], ids[1:]))
        np.testing.assert_allclose(one.scores, own(read), rtol=1e-3, atol=1e-3)


def test_a_probe_of_an_lm_that_is_not_there(tiny_lm, tiny_lm_dir, probe, tmp_path):
    folder, path = probe(), tmp_path / "probe" / "probe.json"
    text = path.read_text().replace('"tiny"', json.dumps(str(tiny_lm_dir)))
    path.write_text(text)
    assert open_sequence_reward(folder, tiny_lm).name == folder
    path.write_text(text.replace(tiny_lm.fingerprint, "0" * 64))
    with pytest.raises(RewardJaxError, match=f"fingerprint {'0' * 64}, and neither that name nor"):
        open_sequence_reward(folder, tiny_lm)


def test_a_reward_model_gives_the_reward_of_the_last_token(tiny_lm, tmp_path):
    folder = save_random(tmp_path / "head", tiny_lm, RewardModelConfig())
    model = rj.load_reward_model(folder)
    for one in rj.select(tiny_lm, PROMPTS, str(folder), **HOW):
        ids = tiny_lm.tokenizer(one.prompt)["input_ids"]
        want = [rj.reward(tiny_lm, model, [[*ids, *g.token_ids]])[0][-1, 0] for g in one.candidates]
        np.testing.assert_allclose(one.scores, want, rtol=1e-4, atol=1e-5)


def test_guidance_and_selection_compose(tiny_lm, tmp_path):
    head = rj.load_reward_model(save_random(tmp_path / "head", tiny_lm, RewardModelConfig()))
    guided = {**HOW, "reward_model": head, "beta": 8.0}
    found = rj.select(tiny_lm, PROMPTS, count_a, policy="best", **guided)
    assert [one.candidates for one in found] == rj.generate(tiny_lm, PROMPTS, **guided)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda c: [1.0], "returned .* for 5 completions of prompt 0"),
        (lambda c: [float("nan")] * 5, "expected as many finite numbers"),
    ],
)
def test_a_scorer_that_gives_other_than_a_number_each(tiny_lm, scores, message):
    with pytest.raises(RewardJaxError, match=message):
        rj.select(tiny_lm, PROMPTS, scores, **HOW)


def test_settings_that_make_no_sense(tiny_lm):
    with pytest.raises(RewardJaxError, match="tau is -1"):
        rj.select(tiny_lm, PROMPTS, count_a, tau=-1, **HOW)
    with pytest.raises(RewardJaxError, match=r"unknown scorer 'vadr'.*vader"):
        rj.select(tiny_lm, PROMPTS, "vadr", **HOW)


@pytest.fixture
def command(tiny_lm_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "vowels.py").write_text("def a(texts):\n    return [t.count('a') for t in texts]\n")
    (tmp_path / "p.txt").write_text("".join(prompt + "\n" for prompt in PROMPTS))
    argv = ["decode", "select", "--lm", str(tiny_lm_dir), "--prompts", str(tmp_path / "p.txt")]
    argv += ["--num-samples", "5", "--max-new-tokens", "7", "--top-k", "30", "--batch-size", "4"]
    return lambda *more: main([*argv, *more])


def test_the_command_writes_a_row_for_each_prompt(command, tiny_lm, tmp_path):
    out = tmp_path / "rows.jsonl"
    assert command("--scorer", "vowels:a", "--tau", "0.5", "--out", str(out)) == 0
    rows = [json.loads(line) for line in out.open()]
    want = rj.select(tiny_lm, PROMPTS, count_a, tau=0.5, **HOW)
    for row, one in zip(rows, want, strict=True):
        assert row["text"] == one.generation.text
        assert row["chosen"] == one.chosen
        assert [c["text"] for c in row["candidates"]] == [g.text for g in one.candidates]
        assert [c["score"] for c in row["candidates"]] == one.scores
        np.testing.assert_allclose([c["probability"] for c in row["candidates"]], one.probabilities)
        assert row["probability"] == row["candidates"][row["chosen"]]["probability"]
    assert len(read_rows(out)) == len(PROMPTS)  # `rewardjax evaluate` reads what was chosen


def test_the_command_goes_on_where_it_was(command, tmp_path):
    out = tmp_path / "rows.jsonl"
    assert command("--scorer", "vowels:a", "--out", str(out)) == 0
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert command("--scorer", "vowels:a", "--out", str(out)) == 2
    out.rename(tmp_path / "whole")
    partial = tmp_path / "rows.jsonl.partial"
    kept = selection.iterate_selections

    def cut(*args, **kwargs):
        found = kept(*args, **kwargs)
        yield next(found)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "iterate_selections", cut)
        assert command("--scorer", "vowels:a", "--out", str(out)) == 130
    assert partial.read_bytes() == lines[0]
    assert command("--scorer", "vowels:a", "--tau", "2", "--out", str(out), "--resume") == 2
    assert command("--scorer", "vowels:a", "--out", str(out), "--resume") == 0
    assert out.read_bytes() == whole


def test_warm_up_compiles_the_reading_of_states_too(command, probe, tmp_path, monkeypatch):
    programs = (loop.prefill, loop.run, loop.read_last)
    compiled, kept = [], selection.iterate_selections

    def counting(*args, **kwargs):
        compiled.append([program._cache_size() for program in programs])
        return kept(*args, **kwargs)

    monkeypatch.setattr(selection, "iterate_selections", counting)
    assert command("--scorer", probe(), "--warmup", "--out", str(tmp_path / "rows.jsonl")) == 0
    assert [program._cache_size() for program in programs] == compiled[0]


def test_bad_input(command, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(OpenedLM, "load", lambda lm: pytest.fail("read the weights first"))
    assert command("--out", "x.jsonl") == 2
    assert "--scorer is unset; name what scores" in capfd.readouterr().err
    assert command("--scorer", "nothing", "--out", "x.jsonl") == 2
    assert "unknown scorer 'nothing'" in capfd.readouterr().err
    assert command("--scorer", "vader", "--tau", "-1", "--out", "x.jsonl") == 2
    assert "tau is -1" in capfd.readouterr().err
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "probe.json").write_text("{}")
    assert command("--scorer", str(tmp_path / "probe"), "--out", "x.jsonl") == 2
    assert "probe.json" in capfd.readouterr().err
