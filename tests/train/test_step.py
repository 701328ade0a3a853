"""One training step against slow formulas, on a hand-made reward model without a transformer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardjax import rewards
from rewardjax.rewards import RewardModelConfig, RewardParams
from rewardjax.train import step
from rewardjax.train.losses import Inputs, LabelLoss
from rewardjax.train.settings import ObjectiveConfig, OptimConfig

D, V = 32, 128
MSE, ADAMW = ObjectiveConfig(), OptimConfig()
RNG = np.random.default_rng(0)
LENGTHS = jnp.array([5, 8, 2, 0])
TOKENS = jnp.asarray(RNG.integers(0, V, (4, 8)), jnp.int32)
LABELS = jnp.array([[1.0], [0.0], [0.5], [0.0]])
HIDDEN = {3: jnp.asarray(RNG.normal(size=(4, 8, D)), jnp.float32)}
INPUTS = Inputs(TOKENS, LENGTHS, LABELS, HIDDEN)
KEYS = jax.random.split(jax.random.key(5), 4)


def drawn(count):
    """The prior's random tokens, each row's by its own key."""
    rows = [jax.random.randint(key, (count, 8), 0, V, TOKENS.dtype) for key in KEYS]
    return np.stack(rows, axis=1)


@pytest.fixture(scope="module")
def arm(tiny_lm):
    return rewards.build(RewardModelConfig(), tiny_lm.config)


@pytest.fixture(scope="module")
def start_params(arm, tiny_lm):
    params = arm.init(jax.random.key(0), tiny_lm.params)
    noise = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32) * 0.1,
        params.trainable,
    )
    return RewardParams(noise, params.frozen)


def slow_loss(params, objective, random_tokens=None):
    """The objective for ARM on given states, one token at a time."""
    w = np.float64(params.trainable["head"]["baseline"])[0]
    big = np.float64(params.trainable["head"]["projection"])[0]
    e = np.float64(params.frozen["embedding"])
    texts, deltas = [], []
    for b, length in enumerate(LENGTHS.tolist()):
        if not length:
            continue
        total = weight = 0.0
        for t in range(1, length):
            h = np.float64(HIDDEN[3][b, t - 1])
            r = w @ h + e[TOKENS[b, t]] @ big @ h
            y = float(LABELS[b, 0])
            if objective.name == "mse":
                error = (r - y) ** 2
            else:
                error = np.log1p(np.exp(-r)) * y + np.log1p(np.exp(r)) * (1 - y)
            total += (t + 1) * error
            weight += t + 1
            if random_tokens is not None:
                deltas.append((e[random_tokens[b, t]] @ big @ h) ** 2)
        texts.append(total / weight)
    prior = np.mean(deltas) if deltas else 0.0
    share = len(texts) / len(LENGTHS)
    return share * (np.mean(texts) + objective.prior_weight * prior), np.mean(texts), prior


@pytest.mark.parametrize("name", ["mse", "bce"])
@pytest.mark.parametrize("prior", [0.0, 0.7])
def test_loss_is_the_slow_formula(arm, start_params, name, prior):
    objective = ObjectiveConfig(name, prior)
    got, (mean, penalty) = step.loss(arm, LabelLoss(objective), start_params, INPUTS, KEYS)
    (random_tokens,) = drawn(1)
    want = slow_loss(start_params, objective, random_tokens if prior else None)
    np.testing.assert_allclose([got, mean, penalty], want, rtol=2e-5)


def test_the_prior_is_a_mean_over_several_random_tokens(arm, start_params):
    objective = ObjectiveConfig(prior_weight=0.7, num_random_tokens=3)
    _, (mean, penalty) = step.loss(arm, LabelLoss(objective), start_params, INPUTS, KEYS)
    tokens = drawn(3)
    assert not (tokens[0] == tokens[1]).all()
    each = [slow_loss(start_params, objective, random_tokens) for random_tokens in tokens]
    np.testing.assert_allclose(penalty, np.mean([prior for _, _, prior in each]), rtol=2e-5)
    np.testing.assert_allclose(mean, each[0][1], rtol=2e-5)


def run(arm, params, state, objective=MSE, optim=ADAMW, **changes):
    inputs, loss = INPUTS._replace(**changes), LabelLoss(objective)
    return step.train_step(
        state, params.frozen, inputs, model=arm, objective=loss, optim=optim, steps=10
    )


def fresh(params, optim=ADAMW):
    return step.new_state(params.trainable, step.optimizer(optim, 10), seed=0)


def test_padding_rows_change_nothing(arm, start_params):
    """Twice the rows, half of them padding: half the gradient, for the sum is divided by B."""
    twice = {
        "tokens": np.concatenate([TOKENS, TOKENS]),
        "lengths": np.concatenate([LENGTHS, LENGTHS * 0]),
        "labels": np.concatenate([LABELS, LABELS]),
        "hidden": {3: np.concatenate([HIDDEN[3], HIDDEN[3]])},
    }
    _, one = run(arm, start_params, fresh(start_params))
    _, two = run(arm, start_params, fresh(start_params), **twice)
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-6)
    np.testing.assert_allclose(two.l2_grads, one.l2_grads / 2, rtol=1e-5)


def test_first_update_is_adamw_by_hand(arm, start_params):
    """Adam's first step is -lr * sign(gradient), after weight decay, whatever the clip."""
    optim = OptimConfig(learning_rate=0.01, weight_decay=0.1, clip=1e-3)
    objective = ObjectiveConfig()
    before = jax.tree.map(np.array, start_params.trainable)

    def objective_of(trainable):
        params = RewardParams(trainable, start_params.frozen)
        return step.loss(arm, LabelLoss(objective), params, INPUTS, KEYS)[0]

    grads = jax.grad(objective_of)(start_params.trainable)
    state, metrics = run(arm, start_params, fresh(start_params, optim), optim=optim)
    assert int(state.step) == 1
    np.testing.assert_allclose(metrics.learning_rate, 0.01)
    np.testing.assert_allclose(metrics.l2_grads, optax.tree.norm(grads), rtol=1e-5)
    for name in ("baseline", "projection"):
        old, grad = before["head"][name], np.asarray(grads["head"][name])
        want = old - 0.01 * (np.sign(grad) + 0.1 * old)
        clear = np.abs(grad) > 1e-6 * np.abs(grad).max()
        np.testing.assert_allclose(
            np.asarray(state.trainable["head"][name])[clear], want[clear], atol=1e-5
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_batch_never_reaches_the_parameters(arm, start_params, bad):
    state, metrics = run(arm, start_params, fresh(start_params))
    assert bool(metrics.finite)
    before = jax.tree.map(np.array, state._replace(key=None))
    poisoned = {3: np.where(np.arange(8)[None, :, None] == 1, bad, HIDDEN[3]).astype(np.float32)}
    state, metrics = run(arm, start_params, state, hidden=poisoned)
    assert not bool(metrics.finite)
    # The next step was dispatched before the host saw the number: it must not train either.
    state, metrics = run(arm, start_params, state)
    assert not bool(metrics.finite)
    after = state._replace(key=None, healthy=before.healthy)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, after), before)


def test_prior_tokens_differ_from_step_to_step_and_by_seed(arm, start_params):
    objective = ObjectiveConfig(prior_weight=1.0)
    optim = OptimConfig(learning_rate=0.0, weight_decay=0.0)
    state = fresh(start_params, optim)
    state, first = run(arm, start_params, state, objective, optim)
    state, second = run(arm, start_params, state, objective, optim)
    assert float(first.loss) == float(second.loss)
    assert float(first.prior) != float(second.prior)
    _, again = run(arm, start_params, fresh(start_params, optim), objective, optim)
    assert float(again.prior) == float(first.prior)
    other = fresh(start_params, optim)._replace(key=jax.random.key(1))
    assert float(run(arm, start_params, other, objective, optim)[1].prior) != float(first.prior)


def test_weight_decay_leaves_biases_and_norms(tiny_lm):
    config = RewardModelConfig("rad", backbone="own", num_layers=1)
    transformer = dataclasses.replace(tiny_lm.config, num_hidden_layers=1)
    rad = rewards.build(config, tiny_lm.config, transformer)
    params = rad.init(
        jax.random.key(0), {**tiny_lm.params, "layers": {"0": tiny_lm.params["layers"]["0"]}}
    )
    decays = step.decays(params.trainable)
    named = {
        jax.tree_util.keystr(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(decays)
    }
    for path, value in named.items():
        assert value == ("norm" not in path and "bias" not in path), path
    assert {True, False} == set(named.values())
    # Without gradients only decay moves anything: p <- p - lr * wd * p where it applies.
    optim = OptimConfig(learning_rate=0.1, weight_decay=0.5, schedule="constant")
    tx = step.optimizer(optim, 10)
    zeros = jax.tree.map(jnp.zeros_like, params.trainable)
    updates, _ = tx.update(zeros, tx.init(params.trainable), params.trainable)

    def expected(decay, update, value):
        np.testing.assert_allclose(update, -0.05 * value if decay else 0 * value, rtol=1e-5)

    jax.tree.map(expected, decays, updates, params.trainable)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, 0.5 + 2**0.5 / 4, 0.5, 0.5 - 2**0.5 / 4, 0]),
    ],
)
def test_schedules(schedule, expected):
    config = OptimConfig(learning_rate=1.0, warmup_steps=2, schedule=schedule)
    rates = [float(step.schedule(config, 6)(n)) for n in range(7)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_schedule_without_warm_up_starts_at_the_peak():
    assert float(step.schedule(OptimConfig(learning_rate=0.3), 6)(0)) == pytest.approx(0.3)
