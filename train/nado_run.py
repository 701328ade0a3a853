"""What a round of NADO trains from: its samples as tokens, labels, weights, and the LM's view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from rewardjax.data import examples, features
from rewardjax.data.examples import Examples
from rewardjax.data.generations import Row
from rewardjax.export import TrainedRewardModel, architecture, context, start
from rewardjax.lm import LM, OpenedLM
from rewardjax.rewards import RewardModelConfig, RewardParams
from rewardjax.sharding import place
from rewardjax.text import EncodedPrompt

from .candidates import lm_candidates
from .nado_loss import NadoLoss
from .nado_settings import NadoConfig
from .run import Run, init_key
from .sample_settings import SampleConfig
from .sampled import Sampled, check_labels, log_weights, normalised, warn_of_few
from .samples import names_of, token_ids


def longest_text(config: RewardModelConfig, lm: OpenedLM) -> int:
    """Tokens of the longest text that the LM and a model of this config can read."""
    model, room = architecture(config, lm), context(lm, None)
    if model.transformer is None:
        return room
    return min(room, model.transformer.max_position_embeddings - 1)  # its BOS takes one place


def prepare(
    config: NadoConfig,
    opened: LM | OpenedLM,
    directory: Path,
    rows: Sequence[Row],
    labels: Float32[np.ndarray, "N"],
    prompts: Mapping[int, EncodedPrompt],
    sampling: SampleConfig,
    weighted: bool,
    before: TrainedRewardModel | None,
) -> Run:
    """A run on these samples.

    Args:
      labels: the oracle's word on each row.
      prompts: by their index.
      sampling: that the rows were drawn by, `resolved`.
      weighted: they were not drawn from the LM itself at temperature 1.
      before: the model of the round before, whose parameters this one begins with.

    Raises:
      RewardJaxError: labels that teach nothing, or too little space on the disk.
    """
    starts = np.array([len(prompts[row.prompt_index].token_ids) for row in rows], np.int32)
    tokens = [token_ids(prompts[row.prompt_index], row) for row in rows]
    train, held = examples.split([row.prompt for row in rows], config.held_out, config.seed)
    check_labels(labels, train)
    lm = opened.load() if isinstance(opened, OpenedLM) else opened
    model, canonical, backbone_fingerprint = start(config.reward_model, lm)
    top, states = lm.config.num_hidden_layers, None
    consistent = config.objective.consistency_weight > 0
    whole = sampling.top_k >= lm.config.vocab_size
    layers = {*model.layers, *([top] if whole and consistent else [])}
    dtype = config.features.dtype
    if layers:
        states = features.load_or_compute(
            lm, tokens, sorted(layers), dtype=dtype, shared=starts.tolist()
        )
    candidates = None
    if not whole and (consistent or weighted):
        candidates = lm_candidates(
            lm,
            tokens,
            sampling.top_k,
            include_observed=False,
            dtype=dtype,
            states=[states] if states else [],
            logprobs=True,
        )
    params = model.init(init_key(config.seed), canonical)
    if before is not None:
        params = RewardParams(before.trainable, params.frozen)
    if whole and consistent:
        name = "embed_tokens" if lm.config.tie_word_embeddings else "lm_head"
        params = params._replace(frozen={**params.frozen, "lm": {name: lm.params[name]}})
    log_w = log_weights(rows, starts, candidates) if weighted else np.zeros(len(rows))
    weights, effective = normalised(log_w, train)
    warn_of_few(effective, len(train))
    numbers = {
        "data/satisfied": float(labels.mean()),
        "data/satisfied_by_lm": float(np.average(labels[train], weights=weights[train])),
        "data/effective_samples": effective,
    }
    return Run(
        config=config,
        directory=directory,
        lm=lm,
        model=model,
        loss=NadoLoss(config.objective, model.probability_link, 0 if whole else sampling.top_k),
        link=model.probability_link,
        params=place(params),
        backbone_fingerprint=backbone_fingerprint,
        examples=Examples(
            [row.prompt + row.text for row in rows],
            labels[:, None],
            names_of(rows),
        ),
        tokens=tokens,
        train_rows=train,
        eval_rows=held,
        features=states,
        targets=None,
        sampled=Sampled(starts, weights, candidates if consistent else None, numbers),
    )
