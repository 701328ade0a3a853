"""Which rows of a file to take: simple comparisons, and a draw by seed."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rewardjax.data.lines import listed
from rewardjax.errors import RewardJaxError, nearest, short

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class Condition(NamedTuple):
    """`field operator number`, such as `prompt.toxicity>=0.5`."""

    field: str
    operator: str
    number: float

    def holds(self, row: dict[str, Any], where: str) -> bool:
        """Whether a row meets it. A value that is null never does, whatever the comparison.

        Raises:
          RewardJaxError: beginning with `where`; no such field, or one that holds no number.
        """
        value = lookup(row, self.field, where, "--where")
        if value is None:
            return False
        if not isinstance(value, int | float):
            raise RewardJaxError(
                f"{where}: {self.field} is {short(value)}; expected a number to compare (--where)"
            )
        if isinstance(value, float) and math.isnan(value):
            return False
        return _OPERATORS[self.operator](value, self.number)


def parse_condition(text: str) -> Condition:
    """`FIELD OP NUMBER` with OP one of >=, <=, ==, !=, >, <; spaces do not matter.

    Raises:
      RewardJaxError: anything else.
    """
    match = re.fullmatch(r"\s*([^<>=!\s]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", text)
    try:
        number = float(match[3]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or math.isnan(number):
        raise RewardJaxError(
            f"--where {short(text)} is no comparison; expected FIELD OP NUMBER, such as "
            "'prompt.toxicity>=0.5', with >=, <=, ==, !=, > or <"
        )
    return Condition(match[1], match[2], number)


def lookup(row: dict[str, Any], field: str, where: str, flag: str) -> Any:
    """The value of a field; dots descend into nested objects.

    Raises:
      RewardJaxError: beginning with `where`; no such field. It names the flag that asked for it.
    """
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            keys = list(value) if isinstance(value, dict) else []
            raise RewardJaxError(
                f"{where}: no field {field!r}; the row has {listed(keys).replace(chr(39), '')}"
                f"{nearest(part, keys)}; name the row's field with {flag}"
            )
        value = value[part]
    return value


class Draw(NamedTuple):
    """Rows to take of those that there are."""

    limit: int | None = None
    """this many; None: all"""
    offset: int = 0
    """leave out so many first"""
    seed: int | None = None
    """draw at random by it; None: in the order of the file"""

    def check(self) -> None:
        """Raises RewardJaxError for settings that cannot mean anything, naming the flag."""
        if self.limit is not None and self.limit < 1:
            raise RewardJaxError(f"--limit is {self.limit}; expected at least 1")
        if self.offset < 0:
            raise RewardJaxError(f"--offset is {self.offset}; expected at least 0")
        if self.seed is not None and self.seed < 0:
            raise RewardJaxError(f"--shuffle-seed is {self.seed}; expected at least 0")

    def positions(self, count: int) -> Int[np.ndarray, "N"]:
        """Which of `count` rows are drawn, in their own order.

        Draws of one seed with offset 0, limit n and offset n share no row, whatever n.
        """
        order = np.arange(count)
        if self.seed is not None:
            order = np.random.default_rng(self.seed).permutation(count)
        end = count if self.limit is None else self.offset + self.limit
        return np.sort(order[self.offset : end])
