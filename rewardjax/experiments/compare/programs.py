"""The programs that train what a comparison compares."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardjax.config import from_dict
from rewardjax.experiments.compare.settings import CompareConfig, ModelConfig


@dataclass(frozen=True)
class Program:
    """One of `rewardjax train …`. Named by strings, as in the command table: nothing imports it."""

    name: str
    """as typed"""
    module: str
    settings: str
    """the class of its settings in that module"""
    shared: str = "training"
    """field of the comparison that holds what its models share"""
    teacher: str = "teacher"
    """its setting for the folder of another reward model"""
    makes_lm: bool = False
    """whether it makes an LM and no reward model"""

    def check(self, settings: dict[str, Any], where: str) -> Any:
        """The settings as the program has them. Raises RewardJaxError naming `where`."""
        module = importlib.import_module(f"rewardjax.train.{self.module}")
        return from_dict(getattr(module, self.settings), settings, source=where)

    def output(self, run_dir: Path, settings: dict[str, Any]) -> Path:
        """Folder of what a finished run made."""
        if self.makes_lm:
            return run_dir / f"round-{settings.get('rounds', 1)}" / "lm"
        return run_dir / "reward_model"


PROGRAMS = {
    program.name: program
    for program in (
        Program("reward-model", "settings", "TrainConfig"),
        Program("distill", "settings", "DistillConfig"),
        Program("nado", "nado_settings", "NadoConfig", "nado"),
        Program(
            "attribute",
            "attribute_settings",
            "AttributeConfig",
            "attribute",
            "reward_model",
            makes_lm=True,
        ),
    )
}


def program_of(model: ModelConfig) -> Program:
    """The program that trains a model; one with a teacher is a student of it."""
    student = model.program == "reward-model" and model.teacher is not None
    return PROGRAMS["distill" if student else model.program]


def shared(config: CompareConfig, model: ModelConfig) -> dict[str, Any]:
    """The settings that a model shares with others of its program."""
    return getattr(config, program_of(model).shared)
