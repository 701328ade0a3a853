"""The rank of what a reward model learned: rows of its reward matrix, their spectra and ranks.

The raw (unclamped) rewards are analysed, and the same rows minus each row's mean: a baseline of the
prefix alone is a matrix of rank 1 that tells no token from another and cancels in the softmax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from rewardjax.errors import RewardJaxError, short
from rewardjax.export import TrainedRewardModel
from rewardjax.lm import LM, LMConfig
from rewardjax.metrics.rank import SVDType, growth, sizes
from rewardjax.metrics.rank_result import Analysis, Part, RankResult
from rewardjax.metrics.reward_rows import Source, write_rows
from rewardjax.rewards import RewardModel, RewardModelConfig

MOST_SAMPLED = 512
"""Prefixes for which columns are sampled by themselves."""
LEAST_COLUMNS = 4096


@dataclasses.dataclass(frozen=True)
class RankSettings:
    """How a reward model's rank is measured."""

    columns: str = "auto"
    """auto: the whole vocabulary, or max(8 N, 4096) random tokens for models that run on each
    candidate (RAD); all; or a number of random tokens"""
    check_prefixes: int = 64
    """where columns are sampled: the first so many prefixes with the whole vocabulary too; 0: no"""
    output: int = 0
    """which attribute"""
    dtype: SVDType = "float64"
    """in which the SVD runs; rewards are float32"""
    batch_size: int = 8
    """prefixes at once: memory and speed only"""
    chunk: int = 256
    """candidates at once: memory and speed only"""
    seed: int = 0
    """draws the columns"""


def rank_bound(config: RewardModelConfig, transformer: LMConfig) -> int | None:
    """The rank that the raw reward matrix of this parametrization cannot exceed, or None.

    All of ARM's family is linear in h, D wide: at most D; with r explicit, min(r + baseline, D).
    NADO's has a bias for each token besides: D + 1.
    """
    width = transformer.hidden_size
    if config.parametrization == "arm":
        return width
    if config.parametrization == "nado":
        return width + 1
    if config.parametrization in ("arm_rank", "arm_factors") and config.rank is not None:
        return min(config.rank + config.baseline, width)
    return None


def choose_columns(
    model: RewardModel, prefixes: int, columns: str, seed: int
) -> tuple[Int[np.ndarray, "C"], bool]:
    """Token ids of the columns, sorted, and whether they are a sample.

    Raises:
        RewardJaxError: neither auto, all nor a number in 1 .. |V|; or auto with more than 512
            prefixes of a model that runs on each candidate.
    """
    vocabulary = model.lm.vocab_size
    if columns == "auto" and model.reads_candidates and prefixes > MOST_SAMPLED:
        raise RewardJaxError(
            f"{prefixes} prefixes for {model.config.parametrization!r}, which runs on each"
            f" candidate; expected at most {MOST_SAMPLED}: lower --num-prefixes, or name the"
            " number of --columns"
        )
    if columns == "auto":
        sampled = max(8 * prefixes, LEAST_COLUMNS)
        count = min(sampled, vocabulary) if model.reads_candidates else vocabulary
    elif columns == "all":
        count = vocabulary
    elif columns.isascii() and columns.isdecimal() and 1 <= int(columns) <= vocabulary:
        count = int(columns)
    else:
        raise RewardJaxError(
            f"columns is {short(columns)}; expected auto, all, or a number from 1 to {vocabulary}"
        )
    drawn = np.random.default_rng(seed).permutation(vocabulary)[:count]
    return np.sort(drawn).astype(np.int32), count < vocabulary


def check_settings(settings: RankSettings, outputs: int) -> None:
    """Refuses numbers that mean nothing. Raises RewardJaxError, naming the setting."""
    if not 0 <= settings.output < outputs:
        raise RewardJaxError(
            f"output is {settings.output}; the reward model has outputs 0 to {outputs - 1}"
        )
    for name, least in (("batch_size", 1), ("chunk", 1), ("check_prefixes", 0), ("seed", 0)):
        if getattr(settings, name) < least:
            value = getattr(settings, name)
            raise RewardJaxError(f"{name} is {value}; expected at least {least}")


def num_entries(model: RewardModel, prefixes: int, settings: RankSettings) -> int:
    """Rewards that `analyze_rank` computes: the total for its progress."""
    columns, sampled = choose_columns(model, prefixes, settings.columns, settings.seed)
    check = min(settings.check_prefixes, prefixes) if sampled else 0
    return prefixes * len(columns) + check * model.lm.vocab_size


def analyze_rank(
    lm: LM,
    reward_model: TrainedRewardModel,
    prefixes: Sequence[Sequence[int]],
    settings: RankSettings | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[..., None] = lambda n=1: None,
) -> RankResult:
    """Spectra and ranks of a reward model's rows after `prefixes`.

    Rows are streamed to a file (N x C float32) in `folder`, so memory is bounded; without a folder
    it is a temporary one. Rows stay there: remove them when done.

    Args:
        prefixes: N lists of token ids, each of at least one token.
        resume: take over what an interrupted run with the same arguments left in `folder`.
        progress: called with numbers of entries, `num_entries` in all.

    Raises:
        RewardJaxError: bad settings, no prefix, or a reward model of another LM.
    """
    settings = settings or RankSettings()
    check_settings(settings, reward_model.config.outputs)
    if not prefixes or not all(len(prefix) for prefix in prefixes):
        raise RewardJaxError("analyze_rank got no prefix, or an empty one; expected token ids")
    began = time.monotonic()
    model, params = reward_model.bind(lm)
    source = Source(model, params, lm.params)
    columns, sampled = choose_columns(model, len(prefixes), settings.columns, settings.seed)
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rewardjax-")))
        folder.mkdir(parents=True, exist_ok=True)

        def rows(name: str, some: Sequence[Sequence[int]], ids: np.ndarray) -> np.ndarray:
            return write_rows(
                folder / name,
                source,
                some,
                ids,
                output=settings.output,
                batch_size=settings.batch_size,
                chunk=settings.chunk,
                identity=_identity(lm, reward_model, some, ids),
                resume=resume,
                progress=progress,
            )

        matrix = rows("rows.f32", prefixes, columns)
        analysis = analyze_matrix(matrix, settings.dtype, model.lm.vocab_size)
        check = prefixes[: settings.check_prefixes]
        full = sample = None
        if sampled and check:
            whole = rows("check.f32", check, np.arange(model.lm.vocab_size, dtype=np.int32))
            full = analyze_matrix(whole, settings.dtype)
            few = matrix[: len(check)]
            sample = analyze_matrix(few, settings.dtype, model.lm.vocab_size)
    return RankResult(
        analysis,
        model.lm.vocab_size,
        sampled,
        settings.dtype,
        settings.output,
        settings.seed,
        rank_bound(model.config, model.transformer or model.lm),
        full,
        sample,
        round(time.monotonic() - began, 1),
    )


def analyze_matrix(
    matrix: Float[np.ndarray, "N C"], dtype: SVDType = "float64", width: int | None = None
) -> Analysis:
    """Spectrum, ranks and growth of a matrix as it is and without its rows' means.

    Args:
        width: as of `metrics.rank.growth`.
    """
    shape = (matrix.shape[0], matrix.shape[1])
    return Analysis(
        Part(shape, *growth(matrix, dtype, width=width)),
        Part(shape, *growth(matrix, dtype, center_rows=True, width=width)),
    )


def svd_flops(rows: int, columns: int) -> float:
    """About what the QR and SVD of both matrices and their leading parts take."""
    return 2 * sum(3.0 * size**2 * columns + 4.0 * size**3 for size in sizes(rows))


def _identity(
    lm: LM, reward_model: TrainedRewardModel, prefixes: Sequence[Sequence[int]], ids: np.ndarray
) -> str:
    """Of LM, its dtype, reward model, prefixes and columns: others' rows are never taken over."""
    digest = hashlib.sha256(lm.fingerprint.encode())
    digest.update(str(jax.tree.leaves(lm.params)[0].dtype).encode())
    digest.update(repr(reward_model.config).encode())
    for leaf in jax.tree.leaves(reward_model.trainable):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(repr([tuple(map(int, prefix)) for prefix in prefixes]).encode())
    digest.update(ids.tobytes())
    return digest.hexdigest()
