"""`rj.select`: k completions of each prompt from the LM, of which a sequence-level reward chooses
one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardjax.api import iterate_rows, sampling_of, stops_of
from rewardjax.decoding.runner import Row
from rewardjax.decoding.selection import Policy, check_tau, choice_probabilities, choose
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.engine import RewardModels, room
from rewardjax.errors import RewardJaxError, short
from rewardjax.lm import LM
from rewardjax.sequence import Completion, SequenceReward, open_sequence_reward
from rewardjax.text import (
    EncodedPrompt,
    Generation,
    Prompt,
    check_fit,
    encode_prompt,
    to_generation,
)

Scoring = SequenceReward | Callable[[Sequence[Completion]], Any]
"""A sequence-level reward, or any function of completions."""


@dataclass(frozen=True)
class Selection:
    """k completions of a prompt, their scores, and which was chosen."""

    prompt: str
    prompt_index: int
    candidates: list[Generation]
    scores: list[float]
    """of each candidate"""
    probabilities: list[float]
    """with which each would be chosen"""
    chosen: int

    @property
    def generation(self) -> Generation:
        """The completion that was chosen."""
        return self.candidates[self.chosen]

    def to_json(self) -> dict[str, Any]:
        """The row of `rewardjax decode select`: the chosen completion's fields, as in a row of
        `decode guided`, and the candidates."""
        candidates = [
            {**one.to_json(), "score": score, "probability": probability}
            for one, score, probability in zip(
                self.candidates, self.scores, self.probabilities, strict=True
            )
        ]
        for one in candidates:
            del one["prompt"], one["prompt_index"], one["seed"]
        return {
            **self.generation.to_json(),
            "score": self.scores[self.chosen],
            "probability": self.probabilities[self.chosen],
            "chosen": self.chosen,
            "candidates": candidates,
        }


def select(
    lm: LM,
    prompts: Sequence[Prompt],
    scorer: str | Scoring,
    *,
    num_samples: int = 16,
    policy: Policy = "softmax",
    tau: float = 0.1,
    reward_model: RewardModels = None,
    output: int | Sequence[int] = 0,
    stop: str | Sequence[str] | None = None,
    batch_size: int = 32,
    chat: bool = False,
    **settings: Any,
) -> list[Selection]:
    """Draws completions of each prompt and chooses one by its score (Q-Probe, arXiv 2402.14688).

    Args:
      scorer: the folder of a probe or of a reward model, a scorer's name (`open_sequence_reward`),
        or a function from a list of `sequence.Completion` to as many numbers.
      num_samples: k.
      policy: softmax: with probability softmax(score / tau). best: the largest. random: any.
      tau: in units of the score.
      reward_model, output, settings: how the completions are sampled, as in `rj.generate`:
        guidance and selection compose.

    Raises:
      RewardJaxError: as `rj.generate`; a scorer that is none, or of another LM; a bad tau.
    """
    sampling = sampling_of(settings)
    if isinstance(scorer, str):
        scorer = open_sequence_reward(scorer, lm)
    encoded = [encode_prompt(lm, prompt, i, chat=chat) for i, prompt in enumerate(prompts)]
    check_fit(lm, encoded, sampling, room(lm, reward_model))
    return list(
        iterate_selections(
            lm,
            encoded,
            sampling,
            scorer,
            policy=policy,
            tau=tau,
            reward_model=reward_model,
            output=output,
            num_samples=num_samples,
            stop=stops_of(stop),
            batch_size=min(batch_size, max(1, len(encoded) * num_samples)),
        )
    )


def iterate_selections(
    lm: LM,
    prompts: Iterable[EncodedPrompt],
    sampling: SamplingConfig,
    scorer: Scoring,
    *,
    policy: Policy,
    tau: float,
    num_samples: int,
    stop: Sequence[str] = (),
    **how: Any,
) -> Iterator[Selection]:
    """Selections in the order of the prompts; of these only those in hand are kept.

    Args:
      how: as `iterate_rows` takes it.
    """
    check_tau(tau)
    rows = iterate_rows(
        lm,
        prompts,
        sampling,
        num_samples=num_samples,
        stop=stop,
        recorded=getattr(scorer, "layers", ()),
        **how,
    )

    def selection(group: list[tuple[EncodedPrompt, Row]]) -> Selection:
        prompt = group[0][0]
        candidates = [to_generation(lm, prompt, row, stop, sampling) for _, row in group]
        completions = [
            Completion(prompt.text, one.text, prompt.token_ids, one.token_ids, row.states)
            for one, (_, row) in zip(candidates, group, strict=True)
        ]
        scores = np.asarray(scorer(completions), np.float64)
        if scores.shape != (num_samples,) or not np.isfinite(scores).all():
            raise RewardJaxError(
                f"the scorer returned {short(scores.tolist())} for {num_samples} completions of"
                f" {prompt.where}; expected as many finite numbers"
            )
        probabilities = choice_probabilities(scores, policy, tau)
        chosen = choose(probabilities, sampling.seed, prompt.index)
        return Selection(
            prompt.text, prompt.index, candidates, scores.tolist(), probabilities.tolist(), chosen
        )

    # Groups of num_samples rows, until an empty one.
    groups = iter(lambda: list(itertools.islice(rows, num_samples)), [])
    return map(selection, groups)
