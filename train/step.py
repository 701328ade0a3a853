"""One training step of what trains, as a pure function of the state and a batch."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from rewardjax.rewards import RewardParams
from rewardjax.sharding import constrain_params, place

from .losses import Loss
from .settings import OptimConfig

PyTree = Any


class TrainState(NamedTuple):
    """All that changes while training. Frozen arrays are not in it."""

    step: Int[Array, ""]
    """number of updates made"""
    trainable: PyTree
    """what the optimizer sees, float32"""
    opt_state: PyTree
    key: Key[Array, ""]
    """base key; what a step draws for its rows comes from split(fold_in(key, step), B)"""
    healthy: Bool[Array, ""]
    """False once a loss or gradient was not finite and the policy is to stop: no update is applied
    from there on"""


class StepMetrics(NamedTuple):
    """Scalars of one step."""

    loss: Float[Array, ""]
    """the objective without the prior, mean over the batch's texts or positions"""
    prior: Float[Array, ""]
    """the second term, unweighted (0 when it is off): the prior regulariser, or an LM's KL"""
    l2_grads: Float[Array, ""]
    """global norm of the gradients, before clipping"""
    learning_rate: Float[Array, ""]
    finite: Bool[Array, ""]
    """whether loss and gradients are"""


def decays(trainable: PyTree) -> PyTree:
    """True for the arrays that weight decay touches: all but biases and norms' scales."""

    def decide(path: tuple[Any, ...], _: Array) -> bool:
        return getattr(path[-1], "key", None) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decide, trainable)


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate of step 0, 1, …: linear warm-up, then constant, linear or cosine to 0."""
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = max(steps - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    }[config.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW on the schedule."""
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    if not config.clip:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def new_state(trainable: PyTree, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. The arrays are copied, for the step donates them."""
    trainable = jax.tree.map(lambda x: jnp.array(x, copy=True), trainable)
    key = jax.random.key(seed)
    return place(TrainState(jnp.int32(0), trainable, tx.init(trainable), key, jnp.bool_(True)))


def loss(
    model: Any,
    objective: Loss,
    params: RewardParams,
    inputs: Any,
    keys: Key[Array, "B"],
    batch: Any = None,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """The batch's objective, and its two terms.

    A term is a mean over the batch's texts or positions. The objective weighs it by the share of
    the batch's rows that are texts: a text counts the same in a full batch and in a leftover one
    that is padded with rows of length 0.

    Args:
      model, inputs: as `objective` takes them; `inputs.lengths` are the rows' tokens.
      keys: one for each row.
      batch: the whole batch, where `inputs` are a part of it. What is given back is then the
        share of the part: over all parts it adds up to what the whole batch gives.
    """
    batch = inputs if batch is None else batch
    parts, wholes = objective.sizes(model, inputs), objective.sizes(model, batch)
    terms = objective(model, params, inputs, keys)
    mean, prior = (
        term * part / jnp.where(whole > 0, whole, 1)
        for term, part, whole in zip(terms, parts, wholes, strict=True)
    )
    return jnp.mean(batch.lengths > 0) * (mean + objective.prior_weight * prior), (mean, prior)


def _gradients(state, frozen, inputs, model, objective, accumulate):
    """(loss, terms) and gradients of a batch, computed in parts that are added up."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), len(inputs.lengths))

    def of(part: Any, keys: Array) -> Any:
        def objective_of(trainable):
            params = RewardParams(trainable, frozen)
            return loss(model, objective, params, part, keys, inputs)

        return jax.value_and_grad(objective_of, has_aux=True)(state.trainable)

    if accumulate == 1:
        return of(inputs, keys)
    # Every n-th row is a part: rows that lie on one device stay there.
    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), (inputs, keys)
    )

    def add(total, part):
        return jax.tree.map(jnp.add, total, of(*part)), None

    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(of, *jax.tree.map(lambda x: x[0], parts)),
    )
    return jax.lax.scan(add, zero, parts)[0]


class Update(NamedTuple):
    """How a state is updated: all that a compiled step holds fast."""

    model: Any
    """what `objective` computes with: a reward model, or an LM that is fine-tuned"""
    objective: Loss
    optim: OptimConfig
    steps: int
    """length of the whole run, for the schedule"""
    accumulate: int = 1
    """parts that the batch is computed in, one after the other; it divides B"""


def _updated(
    state: TrainState, frozen: PyTree, inputs: Any, how: Update
) -> tuple[TrainState, StepMetrics]:
    model, objective, optim, steps, accumulate = how
    (total, (mean, prior)), grads = _gradients(state, frozen, inputs, model, objective, accumulate)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    healthy = state.healthy & (finite | (optim.non_finite != "stop"))
    applied = healthy & (finite | (optim.non_finite == "warn"))
    updates, opt_state = optimizer(optim, steps).update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)

    def keep(new, old):
        return jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)

    new = TrainState(
        state.step + applied,
        keep(trainable, state.trainable),
        keep(opt_state, state.opt_state),
        state.key,
        healthy,
    )
    new = constrain_params(new)
    rate = schedule(optim, steps)(state.step)
    # A run that stopped goes on being told so, whatever the batches after it.
    finite = finite & healthy
    return new, StepMetrics(mean, prior, norm, jnp.asarray(rate, jnp.float32), finite)


@functools.partial(jax.jit, static_argnames="hows", donate_argnames="states")
def _steps(states, frozen, inputs, *, hows):
    return tuple(map(_updated, states, frozen, inputs, hows))


def joint_step(
    states: tuple[TrainState, ...],
    frozen: tuple[PyTree, ...],
    inputs: tuple[Any, ...],
    hows: tuple[Update, ...],
) -> tuple[tuple[TrainState, StepMetrics], ...]:
    """Updates of several states that do not depend on each other, as one program.

    Each is `train_step`'s; the old states are donated. XLA is free to run them at the same time.
    """
    return _steps(states, frozen, inputs, hows=hows)


def train_step(
    state: TrainState,
    frozen: PyTree,
    inputs: Any,
    *,
    model: Any,
    objective: Loss,
    optim: OptimConfig,
    steps: int,
    accumulate: int = 1,
) -> tuple[TrainState, StepMetrics]:
    """One update (see `Update` for the arguments); the old state is donated.

    A non-finite loss or gradient leaves the parameters and moments as they were, unless
    `optim.non_finite` is `warn`.

    Args:
      frozen: the model's frozen tree, an argument so that it is no constant of the program.
    """
    how = Update(model, objective, optim, steps, accumulate)
    return joint_step((state,), (frozen,), (inputs,), (how,))[0]
