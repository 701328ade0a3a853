"""One round of attribute-controlled fine-tuning: sample, train a NADO, fine-tune the LM."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from rewardjax.lm import LM, lora
from rewardjax.lm.save import save_adapter, save_lm
from rewardjax.oracle import Oracle
from rewardjax.report.write import write_text
from rewardjax.rewards import RewardParams
from rewardjax.rewards.backbone import as_float32
from rewardjax.sharding import place
from rewardjax.text import EncodedPrompt

from . import attribute_guide, memory, samples
from .attribute_data import Samples, TextSet, read_samples, samples_beside
from .attribute_guide import Reward
from .attribute_loss import Policy
from .attribute_run import AttributeRun
from .attribute_settings import AttributeConfig, nado_config
from .attribute_trainer import AttributeTrainer
from .run import write_config

_merged = jax.jit(Policy.merged, static_argnums=0)
_init = jax.jit(lora.init, static_argnums=0)


@dataclass(frozen=True)
class Stage:
    """What a round begins with, and ends in."""

    lm: LM
    trainable: Any
    """what trains: {"lora": adapters} or {"lm": weights}"""
    reward: Reward | None
    """of the KL term; where rounds train their own, the newest"""
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)


def begin(config: AttributeConfig, lm: LM, reward: Reward | None) -> Stage:
    """Before the first round: fresh adapters, or the LM's weights."""
    how = config.lora()
    if how is None:
        return Stage(lm, {"lm": as_float32(lm.params)}, reward)
    key = jax.random.fold_in(jax.random.key(config.seed), 2**31)
    return Stage(lm, {"lora": _init(how, key, lm.params)}, reward)


def run_round(
    config: AttributeConfig,
    number: int,
    base: LM,
    stage: Stage,
    corpus: TextSet,
    prompts: Mapping[int, EncodedPrompt],
    oracle: Oracle | None,
) -> Stage:
    """Make what is left of round `number` (from 1); see `Stage`. A finished one is read again.

    Args:
      base: the LM of the first round's beginning, beside which adapters stand.
      prompts: those of RUN_DIR/prompts.jsonl, by their index.
      oracle: judges samples; None: nothing does.
    """
    folder = Path(config.run_dir) / f"round-{number}"
    own = dataclasses.replace(config, seed=(config.seed + number - 1) % 2**32)
    write_config(folder, own, {"lm_fingerprint": stage.lm.fingerprint})
    phases, drawn, sampled, partner = Phases(folder), None, None, None
    if config.samples:
        with phases.time("sampling"):
            drawn = _sample(config, number, folder, stage.lm, prompts, oracle)
        sampled = read_samples(config, drawn)
        phases.note("sampling", tokens=sum(map(len, sampled.tokens)) - int(sampled.starts.sum()))
        if config.objective.source == "samples":
            corpus = samples_beside(config, sampled, corpus)
    reward, newest = stage.reward, stage.reward
    if config.refit:
        assert drawn is not None
        settings = nado_config(config, number, str(folder / "nado"), stage.lm.source)
        with phases.time("reading"):
            alone = config.scheme == "sequential"
            learner = attribute_guide.learner(settings, stage.lm, drawn, by_length=alone)
        if alone:
            found = learner.train()
            phases.note("reward_model", updates=found.step, seconds=found.seconds)
            reward = newest = Reward(found.reward_model, stage.lm)
        else:
            partner = learner
            reward = reward or Reward(attribute_guide.untrained(partner.run), stage.lm)
    with phases.time("states"):
        run = _prepare(own, folder, base, stage, reward, corpus, sampled)
    memory.announce_lm(run)
    trainer = AttributeTrainer(run, partner)
    trainable, _, updates = trainer.fit()
    phases.note("lm" if partner is None else "joint", updates=updates, seconds=trainer.seconds)
    if partner is not None:
        partner.state = trainer.state.reward
        newest = Reward(partner.export(partner.state.trainable), stage.lm)
    params = RewardParams(trainable, run.params.frozen)
    lm = LM(base.config, _merged(run.policy, params), base.tokenizer, str(folder / "lm"))
    _export(config, folder, lm, trainable, base)
    return Stage(lm, trainable, newest, trainer.metrics)


def _sample(
    config: AttributeConfig,
    number: int,
    folder: Path,
    lm: LM,
    prompts: Mapping[int, EncodedPrompt],
    oracle: Oracle | None,
) -> Samples:
    """Samples of the LM, judged by the oracle."""
    sampling = samples.of_round(config.sampling, number, lm.config.vocab_size)
    path = Path(config.run_dir) / "prompts.jsonl"
    rows = samples.sample(
        folder / "completions.jsonl",
        path,
        sampling,
        lm=lm.source,
        fingerprint=lm.fingerprint,
        dtype="float32",
        chat=False,
    )
    values = None
    if oracle is not None:
        values = samples.score(folder / "scored.jsonl", rows, samples.oracle_reward(oracle))
    return Samples(rows, values, prompts, sampling)


def _prepare(
    config: AttributeConfig,
    folder: Path,
    base: LM,
    stage: Stage,
    reward: Reward | None,
    corpus: TextSet,
    sampled: TextSet | None,
) -> AttributeRun:
    """The round's run, with the states that its KL term reads."""
    how, guide, frozen = config.lora(), None, {}
    if how is not None:
        frozen["lm"] = base.params
    origin = [stage.lm.fingerprint, base.fingerprint]
    chosen = sampled if config.objective.prefixes == "samples" else None
    if reward is None:
        chosen = None
    else:
        guide, frozen["reward"] = reward.bind()
        table = "embed_tokens" if base.config.tie_word_embeddings else "lm_head"
        frozen["old"] = {table: stage.lm.params[table]}
        origin.append(reward.fingerprint)
        if chosen is None:
            corpus = corpus.with_states(stage.lm, reward.lm, guide.model.layers)
        else:
            chosen = chosen.with_states(stage.lm, reward.lm, guide.model.layers)
    params = place(RewardParams(stage.trainable, frozen))
    digest = hashlib.sha256(" ".join(origin).encode()).hexdigest()[:32]
    policy = Policy(base.config, how, guide)
    return AttributeRun(config, folder, policy, params, corpus, chosen, digest)


def _export(config: AttributeConfig, folder: Path, lm: LM, trainable: Any, base: LM) -> None:
    """lm/, and adapter/ of LoRA, where they are not there yet."""
    if not (folder / "lm" / "config.json").is_file():
        save_lm(folder / "lm", lm)
    how = config.lora()
    if how is not None and not (folder / "adapter" / "adapter_config.json").is_file():
        save_adapter(folder / "adapter", base.config, how, trainable["lora"], base.source)


class Phases:
    """What each part of a round took, in ROUND/phases.json; a continued round goes on counting."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "phases.json"
        self.found: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            self.found = json.loads(self._path.read_text("utf-8"))

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the block's wall-clock seconds, until it was finished once."""
        before = self.found.get(name, {})
        began, done = time.perf_counter(), False
        try:
            yield
            done = True
        finally:
            if not before.get("done"):
                seconds = before.get("seconds", 0.0) + time.perf_counter() - began
                self.note(name, seconds=seconds, done=done)

    def note(self, name: str, **values: Any) -> None:
        """Write down what is known of a part."""
        self.found[name] = self.found.get(name, {}) | values
        write_text(self._path, json.dumps(self.found, indent=1) + "\n")
