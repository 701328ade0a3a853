"""What a language model's own likelihoods say of labelled texts: detection by log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from rewardjax.errors import RewardJaxError
from rewardjax.lm import LM
from rewardjax.metrics.bootstrap import Interval
from rewardjax.metrics.perplexity import TokenIds, token_nll
from rewardjax.metrics.regression import auc

_BLOCK = 512  # flagged texts that are compared with the others at a time


def mean_nll(lm: LM, token_ids: Sequence[TokenIds]) -> Float[np.ndarray, " N"]:
    """Mean -log p of each text's tokens but the first.

    Raises:
      RewardJaxError: a text of fewer than two tokens, or longer than the context.
    """
    if short := [i for i, ids in enumerate(token_ids) if len(ids) < 2]:
        raise RewardJaxError(f"text {short[0]} has no token that another precedes; expected two")
    return np.array([x.mean() for x in token_nll(lm.config, lm.params, token_ids)], np.float64)


def detection(
    nll: Float[np.ndarray, " N"],
    flagged: Bool[np.ndarray, " N"],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """AUC of telling flagged texts by their mean NLL, with its bootstrap interval over texts.

    The larger, the less likely flagged texts are to the model beside the others; 0.5 says that its
    likelihoods do not tell them apart. `resamples=0` gives the value alone; a resample that draws
    one class only is left out. NaN where all texts are of one class.
    """
    value = auc(nll, flagged.astype(np.float64))
    count, one = len(nll), np.flatnonzero(flagged)
    other = np.flatnonzero(~flagged)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
    # Of a resample's pairs, each as often as both of its texts were drawn, those in order.
    ordered = np.zeros(resamples)
    for part in np.array_split(one, max(1, len(one) // _BLOCK)):
        above = nll[part, None] > nll[None, other]
        above = above + (nll[part, None] == nll[None, other]) / 2
        ordered += np.sum((times[:, part] @ above) * times[:, other], axis=1)
    pairs = times[:, one].sum(axis=1) * times[:, other].sum(axis=1)
    found = ordered[pairs > 0] / pairs[pairs > 0]
    if not len(found):
        return Interval(value, float("nan"), float("nan"), count)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), count)
