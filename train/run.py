"""What a training run starts from: its directory, its texts as tokens, its hidden states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rewardjax import config as settings_file
from rewardjax.data import batches, examples, features, files
from rewardjax.data.batches import Batch
from rewardjax.data.examples import Examples
from rewardjax.errors import RewardJaxError
from rewardjax.export import architecture, start
from rewardjax.lm import LM, OpenedLM, open_lm
from rewardjax.rewards import RewardModel, RewardParams

from .settings import TrainConfig, differences


@dataclass(frozen=True)
class Run:
    """Everything that stays the same while a run goes on."""

    config: TrainConfig
    directory: Path
    lm: LM
    model: RewardModel
    params: RewardParams
    """as initialised"""
    backbone_fingerprint: str | None
    examples: Examples
    tokens: list[np.ndarray]
    train_rows: np.ndarray
    eval_rows: np.ndarray
    features: features.Features | None
    """hidden states of all examples; None with a backbone of its own"""

    def hidden(self, batch: Batch) -> dict[int, np.ndarray]:
        """The base LM's states that the reward model wants for a batch."""
        if self.features is None:
            return {}
        return self.features.batch(batch.ids, batch.tokens.shape[1])

    @property
    def identity(self) -> str:
        """Hash of the LM, the token ids and the labels: a run continues only on the same."""
        digest = hashlib.sha256(
            features.cache_key(self.lm.fingerprint, (), "", self.tokens).encode()
        )
        digest.update(self.examples.labels.tobytes())
        return digest.hexdigest()[:32]


def check_directory(config: TrainConfig) -> None:
    """Refuse to start over an existing run, or to continue one with other settings.

    Raises:
      RewardJaxError: saying which.
    """
    directory = Path(config.run_dir)
    above = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not above.is_dir():
        inside = f" lies in {str(above)!r}, which" if above != directory else ""
        raise RewardJaxError(f"run_dir {str(directory)!r}{inside} is a file; expected a folder")
    if not directory.exists():
        return
    if not any(directory.iterdir()):
        return
    if not config.resume:
        raise RewardJaxError(
            f"run_dir {str(directory)!r} is not empty; continue its run with --resume, or choose "
            "another --run-dir"
        )
    path = directory / "config.yaml"
    if not path.is_file():
        raise RewardJaxError(
            f"run_dir {str(directory)!r} holds files but no run (no config.yaml); choose another"
        )
    old = settings_file.from_dict(TrainConfig, settings_file.load_yaml(path), source=str(path))
    if changed := differences(old, config):
        raise RewardJaxError(
            f"cannot continue {str(directory)!r}: {', '.join(changed)} differ from its "
            "config.yaml; set them as they were, or choose another --run-dir"
        )


def prepare(config: TrainConfig, lm: LM | None, texts: Any, labels: Any) -> Run:
    """Read, check and tokenize the texts, then load the LM and compute or find hidden states.

    Raises:
      RewardJaxError: for everything that is wrong with the input, cheapest checks first.
    """
    data = config.data
    if texts is None:
        found = files.read_examples(data)
    else:
        found = examples.from_memory(texts, labels, data)
    found = examples.subset(found, data.max_examples, config.seed)
    opened = lm or open_lm(config.lm, dtype=config.dtype)
    model = architecture(config.reward_model, opened)
    context = opened.config.max_position_embeddings
    if model.transformer is not None:  # its BOS takes one place
        context = min(context, model.transformer.max_position_embeddings - 1)
    found, tokens = batches.tokenize(
        found,
        opened.tokenizer,
        context=context,
        shortest=model.first_scored + 1,
        max_length=data.max_length,
        on_bad_row=data.on_bad_row,
    )
    train_rows, eval_rows = examples.split(found.texts, data.held_out, config.seed)
    lm = opened.load() if isinstance(opened, OpenedLM) else opened
    model, weights, backbone_fingerprint = start(config.reward_model, lm)
    states = None
    if model.layers:
        states = features.load_or_compute(lm, tokens, model.layers, dtype=config.features.dtype)
    params = model.init(jax.random.fold_in(jax.random.key(config.seed), 2**31), weights)
    directory = Path(config.run_dir)
    return Run(
        config, directory, lm, model, params, backbone_fingerprint, found, tokens,
        train_rows, eval_rows, states,
    )  # fmt: skip
