"""What a rank analysis will cost, said before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rewardjax.data.hidden import estimate, machine_flops
from rewardjax.decoding.runner import bucket
from rewardjax.lm import LMConfig
from rewardjax.metrics.rank_analysis import RankSettings, choose_columns, svd_flops
from rewardjax.rewards import RewardModel


def flops(
    model: RewardModel,
    transformer: LMConfig | None,
    lengths: Sequence[int],
    columns: int,
) -> float:
    """Of the rewards of `columns` tokens after each prefix, padding included."""
    body = transformer or model.lm
    layers = model.layers or (body.num_hidden_layers,)
    read = float(sum(bucket(length) for length in lengths))
    if model.reads_candidates:
        return estimate(body, int(read + len(lengths) * columns), layers)
    head = 2.0 * len(lengths) * columns * body.hidden_size * model.outputs
    return estimate(body, int(read), layers) + head


def describe_cost(
    model: RewardModel,
    transformer: LMConfig | None,
    sets: Mapping[str, Sequence[Sequence[int]]],
    settings: RankSettings,
) -> str:
    """One line: how many rewards, of how many columns, and about how long on this machine."""
    rewards = checks = svd = 0.0
    count, sampled = 0, False
    for number, prefixes in enumerate(sets.values()):
        columns, sampled = choose_columns(model, len(prefixes), settings.columns, settings.seed)
        count = len(columns)
        lengths = [len(prefix) for prefix in prefixes]
        rewards += flops(model, transformer, lengths, count)
        svd += svd_flops(len(prefixes), count)
        if sampled and settings.check_prefixes and not number:  # the first set alone
            few = lengths[: settings.check_prefixes]
            checks += flops(model, transformer, few, model.lm.vocab_size)
            svd += svd_flops(len(few), model.lm.vocab_size)
    speed = machine_flops()
    n = len(next(iter(sets.values())))
    vocabulary = model.lm.vocab_size
    which = (
        f"{count:,} random tokens of {vocabulary:,}" if sampled else f"all {vocabulary:,} tokens"
    )
    parts = [f"{_duration(rewards / speed)} for the rewards"]
    if checks:
        few = min(settings.check_prefixes, n)
        parts.append(f"{_duration(checks / speed)} to check {few} prefixes with every token")
    parts.append(f"{_duration(svd / speed)} for the singular values")
    return f"{len(sets)} × {n} prefixes × {which}; at best about {', '.join(parts)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
