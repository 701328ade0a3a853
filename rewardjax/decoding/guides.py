"""Which outputs of the reward models steer, and the settings of rows as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from rewardjax.decoding.settings import (
    LINK_NAMES,
    MOST_STOP_IDS,
    SCHEDULES,
    SamplingConfig,
    per_model,
)
from rewardjax.decoding.state import NO_TOKEN, Settings
from rewardjax.errors import RewardJaxError


@dataclass(frozen=True)
class Guides:
    """The steering outputs, in the order in which settings with several values name them."""

    columns: tuple[int, ...] = ()
    """of the rewards' last axis"""
    links: tuple[str, ...] = ()
    """each reward model's own link"""
    outputs: int = 0
    """length of that axis"""


def row_settings(
    samplings: Sequence[SamplingConfig], guides: Guides, eos_ids: Sequence[int] = ()
) -> Settings:
    """Settings of one row each.

    Raises:
        RewardJaxError: a setting for another number of reward models, or too many stop ids.
    """
    # Most rows have one sampling in common: each is looked at once, then copied.
    distinct = {id(sampling): sampling for sampling in samplings}
    places = {key: i for i, key in enumerate(distinct)}
    rows = [places[id(sampling)] for sampling in samplings]
    samplings = list(distinct.values())
    count, width = len(samplings), guides.outputs
    beta, beta_end = np.zeros((2, count, width), np.float32)
    invert, steers = np.zeros((2, count, width), bool)
    link = np.zeros((count, width), np.int32)
    stop_ids = np.full((count, MOST_STOP_IDS), NO_TOKEN, np.int32)
    for row, sampling in enumerate(samplings):
        found = per_model(sampling, len(guides.columns)) if guides.columns else []
        for column, own, one in zip(guides.columns, guides.links, found, strict=True):
            at = (row, column)
            beta[at], beta_end[at], invert[at] = one["beta"], one["beta_end"], one["invert"]
            link[at], steers[at] = LINK_NAMES.index(one["link"] or own), True
        ends = tuple(dict.fromkeys((*eos_ids, *sampling.stop_ids)))
        if len(ends) > MOST_STOP_IDS:
            raise RewardJaxError(
                f"stop_ids are {list(sampling.stop_ids)}; expected at most "
                f"{MOST_STOP_IDS - len(set(eos_ids))} beside the LM's own {len(set(eos_ids))}"
            )
        stop_ids[row, : len(ends)] = ends

    def each(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(sampling, name) for sampling in samplings], dtype)

    floats = (
        "min_entropy", "top_p", "min_p", "temperature", "repetition_penalty", "presence_penalty",
        "frequency_penalty",
    )  # fmt: skip
    settings = {
        **{name: each(name, np.float32) for name in floats},
        **{name: each(name, np.int32) for name in ("top_k", "min_new_tokens")},
        "schedule": np.array([SCHEDULES.index(s.schedule) for s in samplings], np.int32),
        "beta": beta,
        "beta_end": beta_end,
        "invert": invert,
        "link": link,
        "steers": steers,
        "stop_ids": stop_ids,
    }
    return Settings(**{name: jnp.asarray(value[rows]) for name, value in settings.items()})
