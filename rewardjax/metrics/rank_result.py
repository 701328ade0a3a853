"""What a rank analysis found, and its form in JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

DIGITS = 9
"""Significant digits of a singular value in JSON: float32 rewards have fewer."""
BOUND_CUTOFF = "1e-06"
"""Where a bound on the rank is tested: a little above what rounding of float32 rewards leaves."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One matrix's spectrum and ranks."""

    shape: tuple[int, int]
    singular_values: Float[np.ndarray, "R"]
    """descending, float64"""
    growth: list[dict[str, Any]]
    """of the first 8, 16 … N rows: {"rows", "numerical_rank", "energy_rank"}"""

    @property
    def numerical_rank(self) -> dict[str, int]:
        """Cut-off → rank, all rows."""
        return self.growth[-1]["numerical_rank"]

    @property
    def energy_rank(self) -> dict[str, int]:
        """Share → rank, all rows."""
        return self.growth[-1]["energy_rank"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        s = [float(f"{value:.{DIGITS}g}") for value in self.singular_values]
        return {"shape": list(self.shape), "singular_values": s, "growth": self.growth}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Part:
        """Inverse of `to_dict`."""
        rows, columns = values["shape"]
        return cls((rows, columns), np.array(values["singular_values"], float), values["growth"])


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The raw rewards, and what is left of them without each row's mean."""

    raw: Part
    centered: Part

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"raw": self.raw.to_dict(), "centered": self.centered.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Analysis:
        """Inverse of `to_dict`."""
        return cls(Part.from_dict(values["raw"]), Part.from_dict(values["centered"]))


@dataclasses.dataclass(frozen=True)
class RankResult:
    """What `analyze_rank` found."""

    analysis: Analysis
    vocabulary: int
    sampled: bool
    """whether the columns are a random sample of the vocabulary"""
    dtype: str
    output: int
    seed: int
    bound: int | None
    """rank that the parametrization's raw matrix cannot exceed; None where there is no such"""
    check_full: Analysis | None = None
    """first prefixes × whole vocabulary, where columns are sampled"""
    check_sample: Analysis | None = None
    """the same prefixes × the sample"""
    seconds: float = 0.0

    @property
    def prefixes(self) -> int:
        """N."""
        return self.analysis.raw.shape[0]

    @property
    def columns(self) -> int:
        """Number of tokens per row."""
        return self.analysis.raw.shape[1]

    @property
    def within_bound(self) -> bool | None:
        """Whether the raw rank at `BOUND_CUTOFF` keeps the bound.

        None without one, and where N or the columns are too few to break it.
        """
        if self.bound is None or self.bound >= min(self.analysis.raw.shape):
            return None
        return self.analysis.raw.numerical_rank[BOUND_CUTOFF] <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("vocabulary", "sampled", "dtype", "output", "seed", "bound", "seconds")
        out: dict[str, Any] = {"prefixes": self.prefixes, "columns": self.columns}
        out |= {name: getattr(self, name) for name in names}
        out |= {"within_bound": self.within_bound, "analysis": self.analysis.to_dict()}
        for name in ("check_full", "check_sample"):
            part: Analysis | None = getattr(self, name)
            out[name] = None if part is None else part.to_dict()
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RankResult:
        """Inverse of `to_dict`, so that a page can be made again from its JSON."""
        parts = {
            name: None if values[name] is None else Analysis.from_dict(values[name])
            for name in ("analysis", "check_full", "check_sample")
        }
        names = {field.name for field in dataclasses.fields(cls)} - parts.keys()
        plain: dict[str, Any] = {name: values[name] for name in names}
        return cls(**plain, **parts)  # pyright: ignore[reportArgumentType]
