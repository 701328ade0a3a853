"""The later steps of a selection experiment: states are read, probes are fitted and judged."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rewardjax.config import from_dict, to_plain
from rewardjax.data.pooled import pooled_states
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.selection.fits import measure
from rewardjax.experiments.selection.pools import Completions, Pool
from rewardjax.experiments.selection.settings import (
    SelectionConfig,
    TaskConfig,
    VariantConfig,
    fit_settings,
    probes,
)
from rewardjax.experiments.settings import slug
from rewardjax.experiments.workspace import Workspace
from rewardjax.lm import open_lm
from rewardjax.probe_fit import FitConfig
from rewardjax.report.write import write_text
from rewardjax.rewards import resolve_layer
from rewardjax.sequence import Completion, encode
from rewardjax.text import encode_prompt

_LEAST = {
    "objective.group_size": 2,
    "optim.epochs": 1,
    "optim.batch_size": 1,
    "optim.learning_rate": 0,
    "optim.weight_decay": 0,
}


@dataclass(frozen=True)
class Fit:
    """A probe, and the pool on which its choices are judged."""

    variant: VariantConfig
    seed: int
    prompts: int
    """training prompts"""
    pool: Pool


class Steps(Completions):
    """All steps: those of the completions, and of what is read from and fitted to them."""

    def __init__(self, config: SelectionConfig, work: Workspace) -> None:
        super().__init__(config, work)
        self._states: dict[str, Array] = {}

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read, each once, in rising order."""
        count = open_lm(self.config.lm).config.num_hidden_layers
        try:
            return tuple(sorted({resolve_layer(layer, count) for layer in self.config.layers}))
        except RewardJaxError as error:
            raise RewardJaxError(str(error).replace("reward_model.layer", "layers:", 1)) from error

    # States

    def reading(self, pool: Pool, pooling: str) -> Path:
        """JSON of what reading a pool's states took."""
        behind = [self.decoding(pool), list(self.layers), pooling]
        return self.work.place("states", f"{pool.name}-{pooling}", behind, ".json")

    def read(self, pool: Pool, pooling: str) -> None:
        """Read the LM's states at each completion, of all layers at once."""
        out = self.reading(pool, pooling)

        def make() -> None:
            tokens, _ = self._encode(pool)
            self.states(pool, pooling)
            found = {"texts": len(tokens), "tokens": int(sum(map(len, tokens)))}
            write_text(out, json.dumps(found) + "\n")

        what = f"states ({pooling}) of {self.texts(pool).relative_to(self.work.folder)}"
        self.work.once(out, what, make)

    def states(self, pool: Pool, pooling: str) -> Float[Array, "N L D"]:
        """Pooled states of a pool's completions, prompt after prompt; kept for one task."""
        key = f"{self.reading(pool, pooling)}"
        if key not in self._states:
            tokens, starts = self._encode(pool)
            root = self.work.folder / "states"
            how: Any = pooling
            found = pooled_states(self.lm, tokens, starts, self.layers, how, root=root)
            self._states[key] = jnp.asarray(found)
        return self._states[key]

    def forget(self) -> None:
        """Let go of the states in memory."""
        self._states.clear()

    def _encode(self, pool: Pool) -> tuple[list[np.ndarray], list[int]]:
        tokens, starts = [], []
        for group in self.rows(pool):
            first = group[0]
            ids = encode_prompt(
                self.lm, first.prompt, first.prompt_index, chat=pool.task.chat
            ).token_ids
            for row in group:
                one = Completion(row.prompt, row.text, ids, row.token_ids or ())
                whole, start = encode(self.lm, one, own_ids=True)
                tokens.append(whole)
                starts.append(start)
        return tokens, starts

    def speed(self, task: TaskConfig, variant: VariantConfig) -> Path:
        """JSON of how fast completions are drawn and chosen among."""
        config = self.config
        behind = [self.decoding(Pool(task)), list(self.layers), config.sweep_k, variant.name]
        return self.work.place("speed", "speed", behind, ".json")

    # Probes

    def fit_config(self, variant: VariantConfig) -> FitConfig:
        """How a probe is trained.

        Raises:
          RewardJaxError: settings that cannot mean anything, named.
        """
        where = f"probe {variant.name!r}"
        found = from_dict(FitConfig, fit_settings(self.config, variant), source=where)
        for name, least in _LEAST.items():
            section, _, key = name.partition(".")
            value = getattr(getattr(found, section), key)
            if not least <= value < math.inf:
                raise RewardJaxError(
                    f"{where}: {name} is {value}; expected at least {least}, and finite"
                )
        return found

    def check_probes(self) -> None:
        """Raises RewardJaxError for layers that the LM has not, or settings of a probe."""
        _ = self.layers
        for variant in probes(self.config):
            self.fit_config(variant)

    def numbers(self, fit: Fit) -> Path:
        """JSON of what a probe's choices earn."""
        config, task = self.config, fit.pool.task
        behind = [
            self.decoding(Pool(task, "train")),
            self.decoding(fit.pool),
            [task.train_reward, *self.judges(task)],
            to_plain(self.fit_config(fit.variant)),
            [fit.seed, fit.prompts, config.held_out, list(self.layers)],
            [list(config.ks), config.sweep_k, list(config.taus)],
        ]
        name = f"{fit.pool.name}-{slug(fit.variant.name)}-s{fit.seed}-n{fit.prompts}"
        return self.work.place("fits", name, behind, ".json")

    def fit(self, fit: Fit) -> None:
        """Train a probe of every layer from the states, and judge its choices."""
        out, task = self.numbers(fit), fit.pool.task
        what = f"probe {fit.variant.name}, seed {fit.seed}, {fit.prompts} prompts: {fit.pool.name}"

        def make() -> None:
            how = self.fit_config(fit.variant)
            train = Pool(task, "train")
            try:
                found = measure(
                    self.config,
                    how,
                    self.states(train, how.probe.pooling),
                    self.values(train, task.train_reward),
                    self.states(fit.pool, how.probe.pooling),
                    [self.values(fit.pool, spec) for spec in self.judges(task)],
                    seed=fit.seed,
                    prompts=fit.prompts,
                )
            except RewardJaxError as error:
                raise RewardJaxError(f"{what}: {error}") from error
            write_text(out, json.dumps(found, allow_nan=False) + "\n")

        self.work.once(out, what, make)

    def fitted(self, fit: Fit) -> dict[str, Any] | None:
        """What `fit` wrote, or None before."""
        return read_if_made(self.numbers(fit))


def read_if_made(path: Path) -> dict[str, Any] | None:
    """A step's JSON, or None as long as it is not made."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
