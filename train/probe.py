"""Train a score of whole completions on the frozen LM's hidden states: `rewardjax train probe`.

Completions with rewards are read, or sampled and scored; one pass of the LM gives the states of all
layers; a probe of each layer is trained, and the one that earns most on held-out prompts is kept.

A run directory holds config.yaml, run.json, metrics.jsonl (a row per epoch), probe/ and, where it
sampled, what `train/samples.py` keeps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rewardjax.config import parse
from rewardjax.data.completions import Completions, CompletionsConfig, read_completions
from rewardjax.data.examples import split
from rewardjax.data.pooled import pooled_states
from rewardjax.errors import RewardJaxError
from rewardjax.lm import OpenedLM, open_lm
from rewardjax.lock import hold
from rewardjax.probe_fit import FitConfig, check_rewards, fit
from rewardjax.probes import TrainedProbe, save_probe
from rewardjax.report.table import print_table
from rewardjax.rewards import resolve_layer
from rewardjax.rewards.probe import ProbeConfig
from rewardjax.sequence import Completion, encode
from rewardjax.text import check_fit, continuation_text, encode_prompt, encode_text

from . import samples
from .logs import MetricsLog
from .probe_report import layers_table, record
from .probe_reward import open_reward
from .probe_settings import MAY_CHANGE, ProbeTrainConfig, check
from .run import check_directory, write_config
from .sample_settings import resolved, sampling_config
from .settings import PROBE_METRIC


def train_probe(config: ProbeTrainConfig) -> TrainedProbe:
    """Make or read the completions, train probes of every layer, and save the best.

    Returns:
      The probe as saved. Its `record` has "layers": the held-out numbers of every layer.

    Raises:
      RewardJaxError: bad settings or data, cheapest checks first; rewards to learn nothing from.
    """
    fitting = FitConfig(
        ProbeConfig(**dataclasses.asdict(config.probe)), config.objective, config.optim
    )
    check(config)
    check_directory(config, MAY_CHANGE)
    ready = _open_data(config)
    opened = open_lm(config.lm, dtype=config.dtype)
    layers = _layers(config.layers, opened.config.num_hidden_layers)
    found, encoded = ready(opened)
    folder = Path(config.run_dir)
    with hold(folder, "run_dir"):
        check_directory(config, MAY_CHANGE)  # again: another run may have come first
        write_config(folder, config, {})
        if found is None:
            found, encoded = _sample(config, opened)
        train, held = split(found.prompts, config.held_out, config.seed)
        check_rewards(config.objective.name, found.rewards, found.groups, train)
        lm = opened.load()
        features = pooled_states(lm, *encoded, layers, config.probe.pooling)
        log = MetricsLog(folder, after=-1)
        try:
            fitted = fit(
                jnp.asarray(features),
                found.rewards,
                found.groups,
                fitting,
                config.seed,
                train=train,
                held_out=held,
                each=_logger(log, layers),
            )
        finally:
            log.close()
        probe = TrainedProbe(
            dataclasses.replace(fitting.probe, layer=layers[fitted.best]),
            config.lm,
            lm.fingerprint,
            config.objective.name,
            fitted.layer(fitted.best),
            record(config, found, held, layers, fitted),
        )
        save_probe(probe, folder / "probe")
    return probe


Encoded = tuple[list[np.ndarray], list[int]]
Ready = Callable[[OpenedLM], tuple[Completions | None, Encoded]]


def _open_data(config: ProbeTrainConfig) -> Ready:
    """Reads what there is without an LM; what it returns looks at that with one."""
    if config.data.path is not None:
        found = read_completions(config.data)
        train, _ = split(found.prompts, config.held_out, config.seed)
        check_rewards(config.objective.name, found.rewards, found.groups, train)
        return lambda lm: (found, _encode(lm, found, config.chat))
    prompts, tasks = samples.read_tasks(config.prompts)
    split([row.text for row in prompts], config.held_out, config.seed)
    open_reward(config, tasks)

    def look(lm: OpenedLM) -> tuple[None, Encoded]:
        encoded = (
            encode_prompt(lm, row.text, row.index, chat=config.chat, where=row.where)
            for row in prompts
        )
        sampling = sampling_config(resolved(config.sampling, lm.config.vocab_size))
        check_fit(lm, encoded, sampling, lm.config.max_position_embeddings)
        return None, ([], [])

    return look


def _sample(config: ProbeTrainConfig, lm: OpenedLM) -> tuple[Completions, Encoded]:
    prompts, tasks = samples.read_tasks(config.prompts)
    folder = Path(config.run_dir)
    rows = samples.sample(
        folder / "completions.jsonl",
        samples.keep_prompts(folder, prompts),
        resolved(config.sampling, lm.config.vocab_size),
        lm=config.lm,
        fingerprint=lm.load().fingerprint,
        dtype=config.dtype,
        chat=config.chat,
    )
    scored = folder / "scored.jsonl"
    samples.score(scored, rows, open_reward(config, tasks))
    found = read_completions(CompletionsConfig(path=str(scored)))
    return found, _encode(lm, found, config.chat)


def _encode(lm: OpenedLM, found: Completions, chat: bool) -> Encoded:
    """Ids of every prompt and completion, and where the completions begin.

    Raises:
      RewardJaxError: `file:line`: too long for the LM, without a token, or ids of another LM.
    """
    prompts: dict[str, list[int]] = {}
    tokens, starts = [], []
    for prompt, text, own, where in zip(
        found.prompts, found.texts, found.token_ids, found.ids, strict=True
    ):
        new = prompt not in prompts
        if new:
            prompts[prompt] = encode_prompt(lm, prompt, 0, chat=chat, where=where).token_ids
        if own is not None and new:
            _check_own(lm, prompts[prompt], own, text, where)
        if own is None and chat:
            own = encode_text(lm, text, where)
        completion = Completion(prompt, text, prompts[prompt], own or ())
        try:
            ids, start = encode(lm, completion, own is not None)
        except RewardJaxError as error:
            raise RewardJaxError(f"{where}: {error}") from error
        if len(ids) > lm.config.max_position_embeddings:
            raise RewardJaxError(
                f"{where}: prompt and completion have {len(ids)} tokens and the LM reads at most"
                f" {lm.config.max_position_embeddings}; shorten them"
            )
        tokens.append(ids)
        starts.append(start)
    return tokens, starts


def _check_own(lm: OpenedLM, prompt: list[int], own: list[int], text: str, where: str) -> None:
    """Refuses ids that are not this LM's for the text (they may go on behind it: stop strings)."""
    inside = max(own) < lm.config.vocab_size
    if not inside or not continuation_text(lm, prompt, own).startswith(text):
        raise RewardJaxError(
            f"{where}: token_ids do not read as the completion under the LM {lm.source!r}; name the"
            " LM that sampled them, or take the field out"
        )


def _layers(layers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Places in 0 … count, each once, in rising order; all where none is named."""
    try:
        return tuple(sorted({resolve_layer(x, count) for x in layers})) or tuple(range(count + 1))
    except RewardJaxError as error:
        raise RewardJaxError(str(error).replace("reward_model.layer", "layers:", 1)) from error


def _logger(log: MetricsLog, layers: tuple[int, ...]) -> Callable[[int, dict[str, Any]], None]:
    """Writes a row of metrics.jsonl for each epoch: a number of every layer."""
    began = time.perf_counter()

    def write(epoch: int, values: dict[str, Float[np.ndarray, "L"]]) -> None:
        named = {
            f"{'train/loss' if name == 'train_loss' else f'eval/{name}'}/layer_{layer}": float(x)
            for name, numbers in values.items()
            for layer, x in zip(layers, numbers, strict=True)
        }
        best = {PROBE_METRIC: float(values["expected_reward"].max())}
        log.write(epoch, {**named, **best, "train/seconds": time.perf_counter() - began})

    return write


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        ProbeTrainConfig,
        argv,
        prog="rewardjax train probe",
        description="Train a score of whole completions on the LM's hidden states.",
        yaml_positional=True,
    )
    probe = train_probe(config)
    print_table(layers_table(probe))
    print(f"wrote {Path(config.run_dir) / 'probe'}")
    return 0
