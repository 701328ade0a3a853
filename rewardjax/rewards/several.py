"""Several reward models that steer at once, as one: their outputs side by side.

Models on the base LM's hidden states share its pass; a model that stands for several outputs runs
once. Each output's strength and link are the decoding settings'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.lm import LMConfig
from rewardjax.rewards.contract import Hidden, RewardModel, RewardParams

PyTree = Any


@dataclass(frozen=True)
class Several:
    """What the decoding loop asks of a reward model, of many; parameters and caches are tuples."""

    models: tuple[RewardModel, ...]

    @property
    def outputs(self) -> int:
        """All models' attributes together, in their order."""
        return sum(model.outputs for model in self.models)

    @property
    def lm(self) -> LMConfig:
        """The base LM that all of them steer."""
        return self.models[0].lm

    @property
    def layers(self) -> tuple[int, ...]:
        """The base LM's layers that any of them wants."""
        return tuple(sorted({layer for model in self.models for layer in model.layers}))

    def column(self, model: int, output: int) -> int:
        """Where an output of the model of that number stands among all."""
        return sum(each.outputs for each in self.models[:model]) + output

    def prefill(
        self,
        params: Sequence[RewardParams],
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        *,
        max_new_tokens: int,
        num_candidates: int,
    ) -> PyTree:
        return tuple(
            model.prefill(
                one,
                tokens,
                lengths,
                _own(model, hidden),
                max_new_tokens=max_new_tokens,
                num_candidates=num_candidates,
            )
            for model, one in zip(self.models, params, strict=True)
        )

    def candidate_rewards(
        self,
        params: Sequence[RewardParams],
        cache: PyTree,
        hidden: Hidden,
        candidates: Int[Array, "B C"],
    ) -> tuple[Float[Array, "B C A"], PyTree]:
        return self._joined(
            model.candidate_rewards(one, kept, _own(model, hidden), candidates)
            for model, one, kept in zip(self.models, params, cache, strict=True)
        )

    def vocabulary_rewards(
        self, params: Sequence[RewardParams], cache: PyTree, hidden: Hidden, batch: int
    ) -> tuple[Float[Array, "B V A"], PyTree]:
        return self._joined(
            model.vocabulary_rewards(one, kept, _own(model, hidden), batch)
            for model, one, kept in zip(self.models, params, cache, strict=True)
        )

    @property
    def reads_embedding(self) -> bool:
        return all(model.reads_embedding for model in self.models)

    def embedding_queries(
        self, params: Sequence[RewardParams], hidden: Hidden
    ) -> tuple[Float[Array, "B A D"], Float[Array, "B A"]]:
        found = [
            model.embedding_queries(one, _own(model, hidden))
            for model, one in zip(self.models, params, strict=True)
        ]
        queries, baselines = zip(*found, strict=True)
        return jnp.concatenate(queries, axis=1), jnp.concatenate(baselines, axis=1)

    def advance(
        self,
        params: Sequence[RewardParams],
        cache: PyTree,
        pending: PyTree,
        chosen: Int[Array, "B"],
    ) -> PyTree:
        return tuple(
            model.advance(one, kept, waiting, chosen)
            for model, one, kept, waiting in zip(self.models, params, cache, pending, strict=True)
        )

    def _joined(self, found) -> tuple[Float[Array, "B C A"], PyTree]:
        rewards, pending = zip(*found, strict=True)
        return jnp.concatenate(rewards, axis=-1), pending


def _own(model: RewardModel, hidden: Hidden) -> Hidden:
    """A model reads the layers it asked for and no others."""
    return {layer: hidden[layer] for layer in model.layers}
