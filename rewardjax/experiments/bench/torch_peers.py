"""The same decoding by Hugging Face's `generate` in PyTorch, timed as ours is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardjax.errors import RewardJaxError
from rewardjax.experiments.bench.cases import CASES, Sample, reward_model_of
from rewardjax.experiments.bench.models import BETA, Models
from rewardjax.experiments.bench.torch_guides import GUIDES, Guide
from rewardjax.experiments.bench.torch_models import device, to_torch, torch_model
from rewardjax.lm import output_embedding, unstack_layers
from rewardjax.rewards.backbone import bos_id


@dataclass(frozen=True)
class TorchModels:
    """Models of a run, made once: LM by dtype, (reward model's body, head, BOS) by case."""

    lms: dict[str, Any]
    guides: dict[str, tuple[Any, dict[str, Any], int]]


def load_torch(models: Models, cases: Sequence[str], dtypes: Sequence[str]) -> TorchModels:
    """Our LM in some dtypes, and the reward models of our cases."""
    params = unstack_layers(models.lm_params)
    lms = {dtype: torch_model(models.lm, params, dtype) for dtype in dtypes}
    guides, bodies = {}, {}
    for name in cases:
        _, reward = reward_model_of(models, CASES[name])
        weights = {**reward.trainable["backbone"], **reward.frozen.get("backbone", {})}
        if "body" not in bodies:
            bodies["body"] = torch_model(models.own, weights, models.dtype, lm=False)
        head = {key: to_torch(value) for key, value in reward.trainable["head"].items()}
        if CASES[name].parametrization == "arm":
            head["embedding"] = to_torch(output_embedding(models.own, weights))
        guides[name] = (bodies["body"], head, bos_id(models.own))
    return TorchModels(lms, guides)


@dataclass(frozen=True)
class Peer:
    """One PyTorch system on one batch of prompts."""

    lm: Any
    guide: tuple[Any, dict[str, Any], int] | None
    parametrization: str | None
    tokens: np.ndarray
    candidates: int
    new_tokens: int

    def measure(self) -> Sample:
        """Seconds until the first token's scores, seconds of the tokens after it, their number."""
        _wait()
        clock = _Clock()
        began = time.perf_counter()
        self.generate([clock])
        _wait()
        ended = time.perf_counter()
        assert clock.first is not None
        return Sample(clock.first - began, ended - clock.first, self.new_tokens - 1)

    def generate(self, more: Sequence[Any] = ()) -> Any:
        """Token ids [B, P + N]; `more` processors come after the guide."""
        import torch
        from transformers import GenerationConfig

        guides = [] if self.guide is None else [self._new_guide()]
        prompts = torch.tensor(self.tokens, dtype=torch.long, device=device())
        settings = GenerationConfig(
            do_sample=True,
            max_new_tokens=self.new_tokens,
            top_k=0 if guides else self.candidates,
            pad_token_id=0,
            eos_token_id=None,
        )
        out = self.lm.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=settings,
            logits_processor=[*guides, *more],
        )
        if out.shape[1] != prompts.shape[1] + self.new_tokens:
            raise RewardJaxError(
                f"generate made {out.shape[1] - prompts.shape[1]} tokens; expected"
                f" {self.new_tokens}, EOS being off"
            )
        return out

    def _new_guide(self) -> Guide:
        assert self.guide is not None
        assert self.parametrization is not None
        body, head, bos = self.guide
        room = self.new_tokens + self.candidates
        return GUIDES[self.parametrization](body, head, bos, self.candidates, BETA, room)


def peer(
    models: TorchModels, case: str, dtype: str, tokens: np.ndarray, candidates: int, new_tokens: int
) -> Peer:
    """The peer of our case."""
    kind = CASES[case].parametrization
    return Peer(models.lms[dtype], models.guides.get(case), kind, tokens, candidates, new_tokens)


class Follow:
    """Records the scores of every step, then makes `generate` take the tokens given."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens, self.scores = tokens, []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        step = len(self.scores)
        self.scores.append(scores.float().cpu().numpy())
        wanted = torch.tensor(self.tokens[:, step : step + 1], device=scores.device).long()
        return torch.full_like(scores, -float("inf")).scatter_(1, wanted, 0.0)


class _Clock:
    """Notes when the first token's scores are there."""

    first: float | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.first is None:
            _wait()
            self.first = time.perf_counter()
        return scores


def _wait() -> None:
    if device() == "cuda":
        import torch

        torch.cuda.synchronize()
