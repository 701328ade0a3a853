"""Rows of generated text, as `rewardjax decode guided` writes them: read, checked, grouped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rewardjax.data.lines import (
    check_file,
    display_name,
    half_surrogate,
    parse_object,
    read_lines,
)
from rewardjax.errors import RewardJaxError, short

_HUGE = 1e300  # sums of what lies below stay finite; integers of any length compare with it


@dataclasses.dataclass(frozen=True)
class Row:
    """What evaluation needs of one continuation.

    `token_ids`, `kl`, `logprobs` and `base_logprobs` are [T], `rewards` is [T][A] (empty without a
    reward model); each is None where the file has no such field.
    """

    prompt: str
    text: str
    prompt_index: int
    sample_index: int
    token_ids: list[int] | None = None
    rewards: list[list[float]] | None = None
    kl: list[float] | None = None
    clipped_share: float | None = None
    logprobs: list[float] | None = None
    base_logprobs: list[float] | None = None


def read_rows(path: str | Path) -> list[Row]:
    """Read and check a JSONL file (plain or .gz; `-` is standard input).

    Raises:
      RewardJaxError: no such file, no row, or a bad row: the message begins with `file:line`.
    """
    check_file(path, "JSONL of generated rows")
    name = display_name(path)
    rows: list[Row] = []
    seen: dict[tuple[int, int], int] = {}
    prompts: dict[int, tuple[str, int]] = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        row = _check(parse_object(line, where), where)
        key = (row.prompt_index, row.sample_index)
        if key in seen:
            raise RewardJaxError(
                f"{where}: prompt_index {key[0]}, sample_index {key[1]} is on line {seen[key]} "
                "already; expected each sample once"
            )
        prompt, first = prompts.setdefault(row.prompt_index, (row.prompt, number))
        if prompt != row.prompt:
            raise RewardJaxError(
                f"{where}: another prompt than line {first} under the same prompt_index "
                f"{row.prompt_index}; expected one index per prompt"
            )
        seen[key] = number
        rows.append(row)
    if not rows:
        raise RewardJaxError(f"{name} holds no row; expected JSONL from `rewardjax decode guided`")
    return rows


def group_by_prompt(rows: list[Row]) -> list[list[Row]]:
    """One list of samples per prompt, both in the order of their indices."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.prompt_index, row.sample_index)):
        groups.setdefault(row.prompt_index, []).append(row)
    return list(groups.values())


def _check(value: dict[str, Any], where: str) -> Row:
    for field in ("prompt", "text", "prompt_index", "sample_index"):
        if field not in value:
            raise RewardJaxError(
                f"{where}: no field {field!r}; expected a row of `rewardjax decode guided`"
            )
    for field in ("prompt", "text"):
        if not isinstance(value[field], str):
            raise RewardJaxError(f"{where}: {field} is {short(value[field])}; expected a string")
        if half_surrogate(value[field]):
            raise RewardJaxError(f"{where}: {field} holds half a surrogate pair: not valid Unicode")
    for field in ("prompt_index", "sample_index"):
        index = value[field]
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise RewardJaxError(f"{where}: {field} is {short(index)}; expected an integer ≥ 0")
    token_ids, rewards = value.get("token_ids"), value.get("rewards")
    if token_ids is not None and not (
        isinstance(token_ids, list) and all(type(token) is int for token in token_ids)
    ):
        raise RewardJaxError(
            f"{where}: token_ids is {short(token_ids)}; expected a list of integers"
        )
    if rewards is not None:
        rows: list[Any] = rewards if isinstance(rewards, list) else [None]
        widths = {len(row) if _numbers(row) else -1 for row in rows}
        if -1 in widths or len(widths) > 1:
            raise RewardJaxError(
                f"{where}: rewards is {short(rewards)}; expected a list of equally long lists of "
                "finite numbers, one per token"
            )
    numbers = {name: value.get(name) for name in ("kl", "logprobs", "base_logprobs")}
    for name, found in numbers.items():
        if found is not None and not _numbers(found):
            raise RewardJaxError(
                f"{where}: {name} is {short(found)}; expected a list of finite numbers, one per"
                " token"
            )
    clipped = value.get("clipped_share")
    if clipped is not None and not (_numbers([clipped]) and 0 <= clipped <= 1):
        raise RewardJaxError(
            f"{where}: clipped_share is {short(clipped)}; expected a number from 0 to 1"
        )
    return Row(
        prompt=value["prompt"],
        text=value["text"],
        prompt_index=value["prompt_index"],
        sample_index=value["sample_index"],
        token_ids=token_ids,
        rewards=None if rewards is None else [[float(x) for x in token] for token in rewards],
        clipped_share=None if clipped is None else float(clipped),
        **{k: None if found is None else [float(x) for x in found] for k, found in numbers.items()},
    )


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and -_HUGE < x < _HUGE
        for x in value
    )
