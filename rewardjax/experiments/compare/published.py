"""What a comparison has published already, so that another workspace goes on from there.

A workspace holds weights and texts and stays where it was made; what is measured lies in the small
`results.json` that is published. A run whose workspace is another one (a new machine, a cleaned
disk) takes over from it every number that was made with the settings it has itself, and makes only
what is missing: a model is trained again where a missing number needs it. Input files are compared
by name and content, judges by name: one that is fitted again differs by rounding. Each number says
in which workspace it was made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardjax.config import from_dict, to_plain
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.compare.programs import shared
from rewardjax.experiments.compare.settings import CompareConfig, ModelConfig, models
from rewardjax.experiments.pieces import RESULTS
from rewardjax.experiments.record import OF_A_RUN, Results, public
from rewardjax.experiments.settings import merge

RECORD = ("workspace", "machine", "versions", "commit", "seconds", "cpu_seconds", "commands")
"""What is kept of how earlier numbers were made."""
_DECODING = ("lm", "dtype", "top_k", "scorers", "oracles", "perplexity_lm")
_ARM = ("prompts", "prompt_field", "where", "invert", "metric")


class Published:
    """Numbers of other workspaces that this comparison would measure alike."""

    def __init__(self, config: CompareConfig, workspace: str, inputs: dict[str, str]) -> None:
        """Reads `results.json` of the folder that `config` publishes in, where there is one.

        Args:
          workspace: this one's id, whose own numbers are not taken over.
          inputs: `Workspace.inputs`. Nothing is taken over where a file has changed.

        Raises:
          RewardJaxError: that file cannot be read.
        """
        found = _read(Path(config.publish) / RESULTS) if config.publish else None
        if found and _changed(found.get("inputs", {}), inputs):
            found = None
        now = _public(config)
        before = from_dict(CompareConfig, found["settings"], source=RESULTS) if found else now
        self._found: Results = found or {"models": [], "cells": [], "samples": [], "areas": []}
        known = {model.name: _identity(before, model) for model in models(before)}
        alike = {m.name for m in models(now) if known.get(m.name) == _identity(now, m)}
        arms = {arm.name: _fields(arm, _ARM) for arm in before.arms}
        self._arms = {arm.name for arm in now.arms if arms.get(arm.name) == _fields(arm, _ARM)}
        decodes_alike = _decoding(before) == _decoding(now)
        self._cells = {
            _key(cell): cell
            for cell in self._found["cells"]
            if decodes_alike
            and cell["workspace"] != workspace
            and cell["arm"] in self._arms
            and (cell["model"] is None or cell["model"] in alike)
        }
        self._seeds = {
            (model["name"], seed["seed"]): seed
            for model in self._found["models"]
            for seed in model["seeds"]
            if model["name"] in alike and seed["finished"] and seed["workspace"] != workspace
        }
        self._alike, self._workspace = alike, workspace
        first = {c.seeds[0] for c in (before, now)}
        if len(first) > 1:  # curves, areas and samples are of the first seed
            self._arms = set()
        reference = models(now)[0].name
        self._same_rank = before.rank == now.rank and reference in alike  # its texts are the rows
        self._same_agreement = before.agreement == now.agreement and reference in alike
        timed = [{m.name for m in c.models if m.decode} for c in (before, now)]
        self._same_speed = decodes_alike and timed[0] == timed[1] <= alike
        self.records = _records(self._found, workspace) if len(self) else []

    def cell(self, *key: Any) -> Results | None:
        """The numbers of a cell, as `Steps.measured` has them.

        Args:
          key: its arm's and model's names, seed, β, and whether it is of the full protocol.
        """
        cell = self._cells.get(key)
        if cell is None:
            return None
        values = cell.get("per_prompt", {})
        metrics = {
            key: self._found["measures"][key] | metric | values.get(key, {})
            for key, metric in cell["metrics"].items()
        }
        return cell | {"metrics": metrics}

    def seed(self, model: str, seed: int) -> Results | None:
        """What is known of a finished training, without what was analysed with other settings."""
        found = self._seeds.get((model, seed))
        if found is None:
            return None
        kept = found["rank"] if self._same_rank else None
        agreement = found["agreement"] if self._same_agreement else None
        return found | {"rank": kept, "agreement": agreement}

    def area(self, arm: str, model: str, reference: str) -> Results | None:
        """The area between two curves of published cells."""
        for area in self._found["areas"]:
            if (area["arm"], area["model"], area["reference"]) == (arm, model, reference):
                known = arm in self._arms and {model, reference} <= self._alike
                return area if known else None
        return None

    def samples(self, arm: str, label: str) -> list[tuple[str, str]]:
        """Prompts and texts that are shown of an arm under a label."""
        return [
            (sample["prompt"], column["text"])
            for sample in self._found["samples"]
            if sample["arm"] == arm and arm in self._arms
            for column in sample["columns"]
            if column["label"] == label
        ]

    @property
    def speed(self) -> Results | None:
        """Speeds of decoding with the same models."""
        return self._of_another("speed") if self._same_speed else None

    @property
    def controls(self) -> Results | None:
        """The synthetic controls, which have no settings."""
        return self._of_another("controls")

    def _of_another(self, name: str) -> Results | None:
        found = self._found.get(name)
        return found if found and found["workspace"] != self._workspace else None

    def __len__(self) -> int:
        """How many cells and trainings are taken over."""
        return len(self._cells) + len(self._seeds)


def _read(path: Path) -> Results | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and "workspace" in found:
            return found
        reason = "it names no workspace"
    except ValueError as error:
        reason = str(error)
    raise RewardJaxError(
        f"{path} holds no results of a comparison that could be taken over ({reason}); move it"
        " away, or give --publish another folder"
    )


def _changed(before: dict[str, str], now: dict[str, str]) -> bool:
    """Whether a file of the same name had another content."""
    return any(before.get(name, digest) != digest for name, digest in now.items())


def _public(config: CompareConfig) -> CompareConfig:
    """The settings as they are published: without paths."""
    plain = {k: v for k, v in to_plain(config).items() if k not in OF_A_RUN}
    return from_dict(CompareConfig, public(config, plain), source="settings")


def _records(found: Results, workspace: str) -> list[Results]:
    """How numbers of other workspaces were made, oldest first."""
    every = [*found.get("earlier", ()), {name: found[name] for name in RECORD}]
    return [record for record in every if record["workspace"] != workspace]


def _key(cell: Results) -> tuple[Any, ...]:
    return cell["arm"], cell["model"], cell["seed"], cell["beta"], cell["full"]


def _fields(value: Any, names: tuple[str, ...]) -> list[Any]:
    plain = to_plain(value)
    return [plain[name] for name in names]


def _decoding(config: CompareConfig) -> list[Any]:
    """All that decides the texts and numbers of a cell, beside its arm and its model."""
    protocol = to_plain(config.protocol)
    del protocol["batch_size"]
    return [*_fields(config, _DECODING), protocol]


def _identity(config: CompareConfig, model: ModelConfig) -> list[Any]:
    """All that decides what a model is and how it decodes."""
    teacher = next((m for m in models(config) if m.name == model.teacher), None)
    return [
        config.lm,
        config.dtype,
        model.program,
        merge(shared(config, model), model.settings),
        model.link,
        model.invert,
        teacher and [config.seeds[0], _identity(config, teacher)],
    ]
