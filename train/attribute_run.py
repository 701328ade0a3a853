"""What one round of attribute-controlled fine-tuning starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rewardjax.data.examples import Examples
from rewardjax.rewards import RewardParams

from .attribute_data import TextSet
from .attribute_loss import AttributeLoss, Policy
from .attribute_settings import AttributeConfig


@dataclass(frozen=True)
class AttributeRun:
    """One round: everything that stays the same while its LM trains."""

    config: AttributeConfig
    directory: Path
    policy: Policy
    params: RewardParams
    """as the round begins"""
    corpus: TextSet
    samples: TextSet | None
    """over whose prefixes the KL is; None: over the corpus'"""
    origin: str
    """says what the round began with: weights and reward model"""

    @property
    def examples(self) -> Examples:
        return self.corpus.examples

    @property
    def tokens(self) -> list[np.ndarray]:
        return self.corpus.tokens

    @property
    def train_rows(self) -> np.ndarray:
        return self.corpus.train_rows

    @property
    def eval_rows(self) -> np.ndarray:
        return self.corpus.eval_rows

    @property
    def starts(self) -> np.ndarray:
        return self.corpus.starts

    @property
    def loss(self) -> AttributeLoss:
        return AttributeLoss(self.config.objective.kl_weight)

    @property
    def identity(self) -> str:
        """A run continues only on the same."""
        digests = [part.digest for part in (self.corpus, self.samples) if part is not None]
        return " ".join([self.origin, *digests])
