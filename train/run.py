"""What a training run starts from: its directory, its texts as tokens, what is computed of them."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from rewardjax import config as settings_file
from rewardjax.data import batches, examples, features, files
from rewardjax.data.batches import Batch
from rewardjax.data.examples import Examples
from rewardjax.errors import RewardJaxError
from rewardjax.export import architecture, load_reward_model, start
from rewardjax.export import context as longest_text
from rewardjax.lm import LM, OpenedLM, open_lm
from rewardjax.lock import LOCK
from rewardjax.provenance import commit, machine, versions
from rewardjax.report.write import write_text
from rewardjax.rewards import RewardModel, RewardParams, build
from rewardjax.sharding import place, place_batch

from . import compute, targets
from .attribute_settings import AttributeConfig
from .checks import RESUME_MAY_CHANGE, differences, labelled
from .losses import Inputs, LabelLoss, Loss, TeacherLoss
from .nado_settings import NadoConfig
from .probe_settings import ProbeTrainConfig
from .sampled import Sampled
from .settings import DistillConfig, TextsRun

AnyConfig = TextsRun | NadoConfig | AttributeConfig | ProbeTrainConfig
LINKS = {"mse": "clip", "bce": "sigmoid"}
"""Objective → how decoding turns raw rewards into [0, 1]."""


@dataclass(frozen=True)
class Run:
    """Everything that stays the same while a run goes on."""

    config: TextsRun | NadoConfig
    directory: Path
    lm: LM
    model: RewardModel
    loss: Loss
    link: str
    """how decoding turns raw rewards into [0, 1]; a student has its teacher's"""
    params: RewardParams
    """as initialised"""
    backbone_fingerprint: str | None
    examples: Examples
    tokens: list[np.ndarray]
    train_rows: np.ndarray
    eval_rows: np.ndarray
    features: features.Features | None
    """hidden states of all examples; None with a backbone of its own"""
    targets: targets.Targets | None
    """the teacher's rewards; None when labels are learned"""
    sampled: Sampled | None = None
    """of texts that the LM wrote; None of others"""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels that evaluation compares rewards with; none where they mean nothing,
        and of NADO's, which have an evaluation of their own."""
        if isinstance(self.config, NadoConfig) or not labelled(self.config):
            return ()
        return self.config.data.labels

    @property
    def starts(self) -> Int[np.ndarray, "N"] | None:
        """Tokens of each text that are its prompt; None: of none."""
        return self.sampled.starts if self.sampled else None

    def inputs(self, batch: Batch) -> Inputs:
        """What a step takes of a batch; each process reads the rows that its devices hold."""
        own = batch.own()
        found = self.targets.batch(own) if self.targets else ()
        more = self.sampled.batch(own) if self.sampled else {}
        inputs = Inputs(own.tokens, own.lengths, own.labels, self.hidden(own), *found, **more)
        return place_batch(inputs, len(batch.lengths))

    def hidden(self, batch: Batch) -> dict[int, np.ndarray]:
        """The base LM's states that the reward model wants for a batch."""
        if self.features is None:
            return {}
        return self.features.batch(batch.ids, batch.tokens.shape[1])

    @property
    def identity(self) -> str:
        """Hash of LM, token ids, labels and teacher: a run continues only on the same."""
        digest = hashlib.sha256(
            features.cache_key(self.lm.fingerprint, (), "", self.tokens).encode()
        )
        digest.update(self.examples.labels.tobytes())
        if self.targets is not None:
            digest.update(self.targets.rewards.directory.name.encode())
        if self.sampled is not None:
            digest.update(self.sampled.starts.tobytes() + self.sampled.weights.tobytes())
        return digest.hexdigest()[:32]


def check_directory(config: AnyConfig, may_change: frozenset[str] = RESUME_MAY_CHANGE) -> None:
    """Refuse to start over an existing run, or to continue one with other settings.

    Args:
      may_change: dotted names of settings that may be other ones.

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
    if not any(path.name != LOCK for path in directory.iterdir()):
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
    old = settings_file.from_dict(type(config), settings_file.load_yaml(path), source=str(path))
    if changed := differences(old, config, may_change):
        raise RewardJaxError(
            f"cannot continue {str(directory)!r}: {', '.join(changed)} differ from its "
            "config.yaml; set them as they were, or choose another --run-dir"
        )


def write_config(directory: Path, config: AnyConfig, made_of: dict[str, str]) -> None:
    """All settings as RUN_DIR/config.yaml; what each start was made with in RUN_DIR/run.json."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "config.yaml", settings_file.to_yaml(config))
    path = directory / "run.json"
    starts = json.loads(path.read_text("utf-8"))["starts"] if path.is_file() else []
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    starts.append(
        {"time": moment, "versions": versions(), "machine": machine(), "commit": commit()}
    )
    write_text(path, json.dumps(made_of | {"starts": starts}, indent=1) + "\n")


def prepare(config: TextsRun, lm: LM | None, texts: Any, labels: Any) -> Run:
    """Read, check and tokenize the texts, then load the LM and compute or find what is needed.

    Raises:
      RewardJaxError: for everything that is wrong with the input, cheapest checks first.
    """
    compute.check(config)
    data = config.data
    teacher = load_reward_model(config.teacher) if isinstance(config, DistillConfig) else None
    if texts is None:
        found = files.read_examples(data)
    else:
        found = examples.from_memory(texts, labels, data)
    split_seed = config.seed if data.split_seed is None else data.split_seed
    found = examples.subset(found, data.max_examples, split_seed)
    opened = lm or open_lm(config.lm, dtype=config.dtype)
    model = architecture(config.reward_model, opened)
    context = longest_text(opened, teacher)
    if model.transformer is not None:  # its BOS takes one place
        context = min(context, model.transformer.max_position_embeddings - 1)
    first = model.first_scored
    if isinstance(config, DistillConfig) and teacher is not None:
        targets.check_teacher(teacher, config, opened.config)
        first = max(first, build(teacher.config, opened.config, teacher.transformer).first_scored)
    found, tokens = batches.tokenize(
        found,
        opened.tokenizer,
        context=context,
        shortest=first + 1,
        max_length=data.max_length,
        on_bad_row=data.on_bad_row,
    )
    train_rows, eval_rows = examples.split(found.texts, data.held_out, split_seed)
    lm = opened.load() if isinstance(opened, OpenedLM) else opened
    bound = teacher.bind(lm) if teacher else None
    model, weights, backbone_fingerprint = start(config.reward_model, lm)
    states, dtype = None, config.features.dtype
    if model.layers:
        states = features.load_or_compute(lm, tokens, model.layers, dtype=dtype)
    if isinstance(config, DistillConfig) and teacher is not None and bound is not None:
        taught = targets.load_or_compute(
            lm, teacher, bound, config.objective, tokens, dtype=dtype, states=states
        )
        loss, link = TeacherLoss(config.objective, first), teacher.link
    else:
        assert not isinstance(config, DistillConfig)
        taught, loss, link = None, LabelLoss(config.objective), LINKS[config.objective.name]
    params = place(model.init(init_key(config.seed), weights))
    directory = Path(config.run_dir)
    return Run(
        config, directory, lm, model, loss, link, params, backbone_fingerprint, found, tokens,
        train_rows, eval_rows, states, taught,
    )  # fmt: skip


def init_key(seed: int) -> Key[Array, ""]:
    """The key that a reward model's head is drawn from."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)
