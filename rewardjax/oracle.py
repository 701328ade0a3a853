"""Oracles: how far a whole completion satisfies a constraint C, in [0, 1] (methods.md §7).

| field | C of a completion |
|---|---|
| `scorer` | a score as for `rewardjax evaluate`, or 1 where it reaches `threshold` |
| `words` | 1 where one of them stands in it, as a whole word in any case |
| `pattern` | 1 where a regular expression is found in it |
| `min_words` … `max_tokens` | 1 where its length lies between them |

A scorer of sentiment sees prompt and completion; everything else the completion alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.scorers import Scorer, load_scorer
from rewardjax.sequence import Completion, TextReward


@dataclass(frozen=True)
class OracleConfig:
    """What a completion must satisfy: exactly one of scorer, words, pattern and lengths."""

    scorer: str = ""
    """vader, textblob, alt-profanity-check, the folder of a judge, or KIND=module:function."""
    threshold: float | None = None
    """Of scorer: satisfied from this score on (of sentiment: above it). Unset: the score is C."""
    words: tuple[str, ...] = ()
    """Satisfied by any of these words or phrases."""
    pattern: str = ""
    """Satisfied where this regular expression (Python's) is found."""
    min_words: int | None = None
    """Satisfied by at least so many words, split at spaces."""
    max_words: int | None = None
    """And at most so many."""
    min_tokens: int | None = None
    """And at least so many tokens of the LM, the end of the text included."""
    max_tokens: int | None = None
    """And at most so many."""
    invert: bool = False
    """Satisfied by what would not be: 1 - C."""


_LENGTHS = ("min_words", "max_words", "min_tokens", "max_tokens")


@dataclass(frozen=True)
class Oracle:
    """A named, versioned function from completions to [0, 1]."""

    version: str
    """what decides: another one's values are not gone on with"""
    function: Callable[[Sequence[Completion]], Float[np.ndarray, " N"]]
    invert: bool = False
    reads_prompt: bool = False
    """whether the prompt counts too, not the completion alone"""

    def __call__(self, completions: Sequence[Completion]) -> Float[np.ndarray, " N"]:
        """C of N completions, float64.

        Raises:
          RewardJaxError: a value outside [0, 1], or as the scorer.
        """
        values = self.function(completions)
        outside = values[(values < 0) | (values > 1)]
        if len(outside):
            raise RewardJaxError(
                f"oracle {self.version} gives {outside[0]:g}; expected 0 to 1: set"
                " oracle.threshold, or choose another oracle.scorer"
            )
        return 1.0 - values if self.invert else values


def check(config: OracleConfig) -> None:
    """Refuse a constraint that is none, before anything is loaded.

    Raises:
      RewardJaxError: naming the field.
    """
    lengths = {name: getattr(config, name) for name in _LENGTHS}
    length = any(value is not None for value in lengths.values())
    given = {"scorer": config.scorer, "words": config.words, "pattern": config.pattern,
             "lengths": length}  # fmt: skip
    named = [name for name, value in given.items() if value]
    if len(named) != 1:
        got = " and ".join(named) or "none"
        raise RewardJaxError(
            "oracle: expected exactly one of scorer, words, pattern and lengths (min_words"
            f" … max_tokens), got {got}"
        )
    if config.threshold is not None and not config.scorer:
        raise RewardJaxError(
            f"oracle.threshold is {config.threshold}, but there is no oracle.scorer whose score it"
            " could be compared with; remove it"
        )
    if config.threshold is not None and not abs(config.threshold) < float("inf"):
        raise RewardJaxError(f"oracle.threshold is {config.threshold}; expected a finite number")
    if bad := [word for word in config.words if not word.strip()]:
        raise RewardJaxError(f"oracle.words holds {bad[0]!r}; expected words")
    try:
        re.compile(config.pattern)
    except re.error as error:
        raise RewardJaxError(
            f"oracle.pattern {config.pattern!r} is no regular expression: {error}"
        ) from error
    for name, value in lengths.items():
        if value is not None and value < 0:
            raise RewardJaxError(f"oracle.{name} is {value}; expected at least 0")
    for unit in ("words", "tokens"):
        least, most = lengths[f"min_{unit}"], lengths[f"max_{unit}"]
        if least is not None and most is not None and least > most:
            raise RewardJaxError(
                f"oracle.min_{unit} is {least}; expected at most oracle.max_{unit}, {most}"
            )


def open_oracle(config: OracleConfig) -> Oracle:
    """The oracle that a config describes.

    Raises:
      RewardJaxError: as `check`, and as `load_scorer`.
    """
    check(config)
    asked = {
        item.name: value
        for item in fields(config)
        if (value := getattr(config, item.name)) != item.default
    }
    version = json.dumps(asked)
    if config.scorer:
        try:
            scorer = load_scorer(config.scorer)
        except RewardJaxError as error:
            raise RewardJaxError(f"oracle.scorer: {error}") from error
        version = f"{version} ({scorer.kind}, {scorer.version})"
        scored = _scored(scorer, config.threshold)
        return Oracle(version, scored, config.invert, scorer.reads_prompt)
    if config.words:
        words = "|".join(re.escape(word.strip().casefold()) for word in config.words)
        found = re.compile(rf"(?<!\w)(?:{words})(?!\w)")
        holds = lambda one: found.search(one.text.casefold()) is not None  # noqa: E731
    elif config.pattern:
        sought = re.compile(config.pattern)
        holds = lambda one: sought.search(one.text) is not None  # noqa: E731
    else:
        holds = lambda one: _fits(config, one)  # noqa: E731

    def function(completions: Sequence[Completion]) -> Float[np.ndarray, " N"]:
        return np.array([holds(one) for one in completions], np.float64)

    return Oracle(version, function, config.invert)


def _scored(
    scorer: Scorer, threshold: float | None
) -> Callable[[Sequence[Completion]], Float[np.ndarray, " N"]]:
    score = TextReward(scorer)
    if threshold is None:
        return score
    # As evaluation counts: a text on which a lexicon of sentiment is silent is not positive.
    reached = np.greater if scorer.kind == "sentiment" else np.greater_equal
    return lambda completions: reached(score(completions), threshold).astype(np.float64)


def _fits(config: OracleConfig, one: Completion) -> bool:
    counts = {"words": len(one.text.split()), "tokens": len(one.token_ids)}
    return all(
        (getattr(config, f"min_{unit}") or 0) <= count and (most is None or count <= most)
        for unit, count in counts.items()
        for most in [getattr(config, f"max_{unit}")]
    )


def as_scorer(name: str, config: OracleConfig) -> Scorer:
    """An oracle as one of `metrics.scorers`, that sees continuations alone: its kind is
    `constraint`, its mean the share that satisfies it.

    Raises:
      RewardJaxError: as `open_oracle`; an oracle that reads more than the continuation's text.
    """
    oracle = open_oracle(config)
    tokens = config.min_tokens is not None or config.max_tokens is not None
    if tokens or oracle.reads_prompt:
        raise RewardJaxError(
            f"oracle {name!r} reads prompts or tokens; expected one of words, pattern, min_words,"
            " max_words, or of a scorer that is not of sentiment"
        )

    def function(texts: list[str]) -> Float[np.ndarray, " N"]:
        return oracle([Completion("", text, (), ()) for text in texts])

    return Scorer(name, oracle.version, "constraint", function)
