"""What a training step needs in memory, from shapes alone: looked at before anything is compiled.

Counted are, on each device, the optimizer's state and the gradients of what trains, and what a
gradient keeps of each layer (arXiv 2205.05198, §4, with the terms of a gated MLP). For backbones of
their own the sum is .8 to 1.3 times what XLA reports of the compiled program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from rewardjax.data.batches import widths_for
from rewardjax.decoding.memory import available_memory, size_words
from rewardjax.errors import RewardJaxError
from rewardjax.lm import LMConfig
from rewardjax.progress import note
from rewardjax.rewards import RewardModel, RewardParams
from rewardjax.rewards.backbone import QUERIES
from rewardjax.sharding import batch_parts, current

from .attribute_loss import CHUNK_LOGITS, Policy
from .attribute_run import AttributeRun
from .run import Run
from .settings import ComputeConfig


class Need(NamedTuple):
    """Bytes on a device, beside the reward model as it was initialised."""

    state: int
    """parameters, moments and gradients"""
    step: int
    """what the gradient of the texts computed at a time keeps"""


def training_need(
    model: RewardModel,
    params: RewardParams,
    compute: ComputeConfig,
    batch_size: int,
    width: int,
    candidates: int = 1,
) -> Need:
    """What training takes with batches of `batch_size` texts of up to `width` tokens.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      candidates: tokens scored at each position.
    """
    state = _state(params.trainable, compute)
    rows = -(-batch_size // (compute.accumulate * batch_parts()))
    body = model.transformer
    hidden = (body or model.lm).hidden_size
    kept = 4 * rows * width * hidden * (4 + 3 * candidates)
    if body is not None:
        kept += _kept(body, compute, rows * (width + 1), width + 1)
        if model.reads_candidates and candidates > 1:  # a chunk of them is computed again, whole
            queries = min(QUERIES, width * candidates)
            kept += _kept(body, ComputeConfig(dtype=compute.dtype), rows * queries, width + queries)
    return Need(state, kept)


def _state(trainable: Any, compute: ComputeConfig) -> int:
    """Bytes of what trains: itself, two moments, its gradient and its new value."""
    return (5 + (compute.accumulate > 1)) * _bytes(trainable)


def _bytes(tree: Any) -> int:
    """Of arrays in float32, on a device."""
    mesh = current()
    split = 1 if mesh is None else mesh.shape["fsdp"] * mesh.shape["tensor"]
    return 4 * sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree)) // split


def lm_training_need(
    policy: Policy, params: RewardParams, compute: ComputeConfig, batch_size: int, width: int
) -> Need:
    """What fine-tuning an LM takes, with batches as in `training_need`.

    Of logits there are a chunk's, some times over: θ's, θ_old's, the rewards and the gradients.
    """
    rows = -(-batch_size // (compute.accumulate * batch_parts()))
    kept = _kept(policy.lm, compute, rows * width, width)
    logits = 4 * min(CHUNK_LOGITS, rows * width * policy.lm.vocab_size) * (8 if policy.guide else 4)
    return Need(_state(params.trainable, compute), kept + logits)


def _kept(body: LMConfig, compute: ComputeConfig, tokens: int, keys: int) -> int:
    """Bytes that the gradient of a transformer keeps of its layers."""
    wide, heads = body.hidden_size, body.num_attention_heads * body.head_dim
    projected = heads + 2 * body.num_key_value_heads * body.head_dim
    scores = 3 * 4 * body.num_attention_heads * keys  # float32 whatever the rest
    size = 2 if compute.dtype == "bfloat16" else 4
    all_ = size * (6 * wide + 2 * projected + heads + 5 * body.intermediate_size) + scores
    each = {
        "none": all_,
        "dots": size * (3 * wide + projected + 2 * body.intermediate_size),
        "layers": size * wide,
    }[compute.remat if jax.default_backend() != "cpu" else "none"]  # XLA undoes it on CPU
    layers = body.num_hidden_layers
    return tokens * (layers * each + (all_ if each < all_ else 0))


def check(
    need: Need,
    batch_size: int,
    compute: ComputeConfig,
    available: int | None,
    smaller: str = "train fewer layers (reward_model.num_layers), or LoRA (reward_model.lora_rank)",
) -> str:
    """What to say of it.

    Args:
      smaller: how less could train.

    Raises:
      RewardJaxError: more than there is, with the setting to change.
    """
    total = need.state + need.step
    words = (
        f"training takes about {size_words(total)} of memory: {size_words(need.state)} for"
        f" parameters, moments and gradients, {size_words(need.step)} for a step"
    )
    if available is None or total <= available:
        return words
    if need.state > available:
        mend = smaller
    else:
        least = -(-compute.accumulate * need.step // max(available - need.state, 1))
        parts = next((n for n in range(least, batch_size + 1) if batch_size % n == 0), batch_size)
        mend = f"set compute.accumulate to {parts}, or lower optim.batch_size or data.max_length"
    raise RewardJaxError(f"{words}; {size_words(available)} is free; {mend}")


def announce(run: Run) -> None:
    """Say what a run's steps will need, or refuse it."""
    config, size = run.config, run.config.optim.batch_size
    width = max(widths_for([len(run.tokens[row]) for row in run.train_rows], size))
    need = training_need(run.model, run.params, config.compute, size, width, run.loss.candidates)
    said = check(need, size, config.compute, available_memory())
    note(said[0].upper() + said[1:])


def announce_lm(run: AttributeRun) -> None:
    """The same of an LM's fine-tuning."""
    config, size = run.config, run.config.optim.batch_size
    width = max(widths_for([len(run.tokens[row]) for row in run.train_rows], size))
    need = lm_training_need(run.policy, run.params, config.compute, size, width)
    mend = "train adapters (lora.rank), or a smaller LM"
    said = check(need, size, config.compute, available_memory(), mend)
    note(said[0].upper() + said[1:])
