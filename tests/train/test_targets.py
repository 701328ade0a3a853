"""The teacher's targets: what they are, and that they are computed once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.data import features, made_once
from rewardjax.data.batches import make_batch
from rewardjax.errors import RewardJaxError
from rewardjax.export import load_reward_model
from rewardjax.rewards import RewardModelConfig
from rewardjax.train import candidates, targets, token_rows
from rewardjax.train.settings import DistillObjectiveConfig
from tests.rewards.calls import candidate_rewards, compiled
from tests.trained import save_random

LENGTHS = [7, 3, 12, 2, 9]
WIDTH = max(LENGTHS)
TOKENS = [
    np.random.default_rng(i).integers(3, 128, n).astype(np.int32) for i, n in enumerate(LENGTHS)
]
OBSERVED = DistillObjectiveConfig("observed")
TOP3 = DistillObjectiveConfig("candidates", 3)
KINDS = {
    "arm on the LM's states": RewardModelConfig(layer=2, outputs=2),
    "arm of its own": RewardModelConfig("arm", "own", num_layers=1),
    "rad": RewardModelConfig("rad", "own", num_layers=1, outputs=2),
}


@pytest.fixture
def teacher(tiny_lm, tmp_path):
    def make(config=KINDS["arm on the LM's states"], **options):
        directory = tmp_path / f"teacher-{len(list(tmp_path.iterdir()))}"
        return load_reward_model(save_random(directory, tiny_lm, config, **options))

    return make


def ask(lm, trained, objective=TOP3, tokens=TOKENS, **options):
    return targets.load_or_compute(lm, trained, trained.bind(lm), objective, tokens, **options)


def slow_candidates(lm, ids, k, include_observed):
    """One prefix at a time, from the LM's logits after it."""
    rows = []
    for t in range(len(ids)):
        if t == 0:
            rows.append([ids[0]] * (k + include_observed))
            continue
        logits = np.array(lm.logits(ids[None, :t], np.array([t])))[0, -1]
        order = np.argsort(-logits, kind="stable").tolist()
        if include_observed:
            order = [ids[t], *(v for v in order if v != ids[t])]
        rows.append(order[: k + include_observed])
    return np.array(rows)


@pytest.mark.parametrize("include_observed", [True, False])
def test_candidates_are_the_lms_most_probable(tiny_lm, include_observed, monkeypatch):
    monkeypatch.setattr(candidates, "_CHUNK_LOGITS", 128 * 5)  # five positions at a time
    candidates.top_candidates.clear_cache()
    options = {"include_observed": include_observed, "dtype": "float32"}
    found = candidates.lm_candidates(tiny_lm, TOKENS, 4, **options)
    for i, ids in enumerate(TOKENS):
        got = found.batch("candidates", np.array([i]), len(ids))[0]
        np.testing.assert_array_equal(got, slow_candidates(tiny_lm, ids, 4, include_observed))


def test_candidates_from_cached_states_are_the_same(tiny_lm, monkeypatch):
    options = {"include_observed": True, "dtype": "float32"}
    direct = candidates.lm_candidates(tiny_lm, TOKENS, 4, **options)
    states = features.load_or_compute(tiny_lm, TOKENS, (3,))
    monkeypatch.setattr(candidates, "hidden_states", no_forward)
    again = candidates.lm_candidates(tiny_lm, TOKENS, 4, states=[states], **options)
    assert not again.computed
    monkeypatch.setattr(candidates, "_VERSION", 0)
    cached = candidates.lm_candidates(tiny_lm, TOKENS, 4, states=[states], **options)
    assert cached.computed
    np.testing.assert_array_equal(cached.arrays["candidates"], direct.arrays["candidates"])


def no_forward(*args, **kwargs):
    pytest.fail("computed again")


def hidden_of(lm, model, index):
    if not model.layers:
        return {}
    found = features.load_or_compute(lm, TOKENS, model.layers)
    states = found.batch(np.array([index]), WIDTH)
    return {layer: jnp.asarray(h) for layer, h in states.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_the_teachers_raw_rewards(kind, tiny_lm, teacher):
    """Text by text and prefix by prefix, through the calls that decoding makes."""
    trained = teacher(KINDS[kind])
    model, params = trained.bind(tiny_lm)
    found, observed = ask(tiny_lm, trained), ask(tiny_lm, trained, OBSERVED)
    assert found.rewards.computed
    assert found.first_scored == model.first_scored
    first, sizes = model.first_scored, (("max_new_tokens", 0), ("num_candidates", 4))
    for i, ids in enumerate(TOKENS):
        batch = make_batch([i], TOKENS, np.zeros((5, 0), np.float32), width=WIDTH, batch_size=1)
        chosen, rewards = found.batch(batch)
        assert chosen.shape == (1, WIDTH, 4)
        assert rewards.shape == (1, WIDTH, 4, model.outputs)
        hidden, n = hidden_of(tiny_lm, model, i), len(ids)
        text = jnp.asarray(batch.tokens)  # of one width for all, so that each call compiles once
        for t in range(first, n):
            cache = compiled("prefill", model, params, text, jnp.asarray([t]), {}, sizes=sizes)
            state = {layer: h[:, t - 1] for layer, h in hidden.items()}
            want, _ = candidate_rewards(model, params, cache, state, jnp.asarray(chosen[:, t]))
            np.testing.assert_allclose(rewards[:, t], want, rtol=1e-4, atol=1e-5)
        tokens, seen = observed.batch(batch)
        np.testing.assert_array_equal(tokens[0, :n, 0], ids)
        want = compiled("token_rewards", model, params, text, jnp.asarray([n]), hidden)
        want = np.asarray(want)[:, first:n]
        np.testing.assert_allclose(seen[:, first:n, 0], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rewards[:, first:n, 0], want, rtol=1e-4, atol=1e-5)
    assert rewards.min() < 0 or rewards.max() > 1, "raw rewards are not clipped"


def test_padding_is_zero(tiny_lm, teacher):
    found = ask(tiny_lm, teacher())
    batch = make_batch([3], TOKENS, np.zeros((5, 0), np.float32), width=8, batch_size=2)
    chosen, rewards = found.batch(batch)
    assert chosen[0, :2].all()
    assert not chosen[0, 2:].any()
    assert not chosen[1].any()
    assert not rewards[0, 2:].any()
    assert not rewards[1].any()


def test_computed_once_and_again_exactly_the_same(tiny_lm, teacher, monkeypatch):
    trained = teacher(KINDS["rad"])
    first = ask(tiny_lm, trained)
    values = np.array(first.rewards.arrays["rewards"])
    with monkeypatch.context() as patch:
        patch.setattr(targets, "_score", no_forward)
        patch.setattr(candidates, "top_candidates", no_forward)
        again = ask(tiny_lm, trained)
    assert not again.rewards.computed
    assert again.seconds == first.seconds > 0
    np.testing.assert_array_equal(again.rewards.arrays["rewards"], values)
    monkeypatch.setattr(targets, "_VERSION", 0)  # another name: nothing is found
    fresh = ask(tiny_lm, trained)
    assert fresh.rewards.computed
    np.testing.assert_array_equal(fresh.rewards.arrays["rewards"], values)


def test_the_name_covers_teacher_candidates_and_texts(tiny_lm, teacher):
    trained = teacher()
    changed = [*TOKENS[:-1], TOKENS[-1] ^ 1]
    found = [
        ask(tiny_lm, trained),
        ask(tiny_lm, trained, OBSERVED),
        ask(tiny_lm, trained, DistillObjectiveConfig("candidates", 4)),
        ask(tiny_lm, trained, DistillObjectiveConfig("candidates", 3, False)),
        ask(tiny_lm, trained, tokens=changed),
        ask(tiny_lm, trained, dtype="bfloat16"),
        ask(tiny_lm, teacher(scale=0.3)),
        ask(tiny_lm, teacher(RewardModelConfig(layer=1, outputs=2))),
    ]
    assert len({each.rewards.directory for each in found}) == len(found)
    assert all(each.rewards.computed for each in found)
    # Plain and delta distillation compare the same rewards, and other weights change nothing.
    same = DistillObjectiveConfig("delta", 3, level_weight=0.5, prior_weight=1.0)
    assert not ask(tiny_lm, trained, same).rewards.computed


def test_the_lms_candidates_are_shared_between_teachers(tiny_lm, teacher, monkeypatch):
    ask(tiny_lm, teacher())
    monkeypatch.setattr(candidates, "top_candidates", no_forward)
    other = ask(tiny_lm, teacher(KINDS["rad"]))
    assert other.rewards.computed
    assert other.candidates is not None
    assert not other.candidates.computed


def test_interrupted_or_damaged_targets_are_computed_again(tiny_lm, teacher, monkeypatch):
    trained = teacher()
    monkeypatch.setitem(token_rows._QUERIES, jax.default_backend(), 64)
    real, calls = targets._score, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(targets, "_score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(tiny_lm, trained)
    first = ask(tiny_lm, trained)
    assert first.rewards.computed
    folder = first.rewards.directory.parent
    assert not list(folder.glob("unfinished-*"))
    values = np.array(first.rewards.arrays["rewards"])
    path = first.rewards.directory / "rewards.bin"
    path.write_bytes(path.read_bytes()[:-4])
    again = ask(tiny_lm, trained)
    assert again.rewards.computed
    np.testing.assert_array_equal(again.rewards.arrays["rewards"], values)


def test_a_full_disk_is_said_beforehand(tiny_lm, teacher, monkeypatch):
    trained = teacher(KINDS["rad"])
    usage = made_once.shutil.disk_usage("/")
    monkeypatch.setattr(made_once.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(
        RewardJaxError, match=r"The LM's candidates for .* tokens need 0.0 GiB and .* free some"
    ):
        ask(tiny_lm, trained)


def test_a_teachers_fingerprint_is_of_all_its_values(teacher):
    trained = teacher(KINDS["rad"])
    fingerprints = {targets.fingerprint(trained)}
    leaves, tree = jax.tree.flatten(trained.trainable)
    for i in range(len(leaves)):
        last = np.array(leaves[i])
        last.flat[-1] += 1
        other = jax.tree.unflatten(tree, [*leaves[:i], jnp.asarray(last), *leaves[i + 1 :]])
        fingerprints.add(targets.fingerprint(dataclasses.replace(trained, trainable=other)))
    assert len(fingerprints) == len(leaves) + 1
    assert targets.fingerprint(dataclasses.replace(trained, link="sigmoid")) in fingerprints
