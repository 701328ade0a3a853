"""The first steps of a comparison: models are trained and analysed. Each is made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rewardjax.config import to_plain
from rewardjax.experiments.compare.prefix_sets import prefix_texts
from rewardjax.experiments.compare.programs import program_of, shared
from rewardjax.experiments.compare.settings import CompareConfig, ModelConfig, models
from rewardjax.experiments.settings import merge
from rewardjax.experiments.workspace import Workspace
from rewardjax.report.write import write_text
from rewardjax.rewards import PARAMETRIZATIONS


class Trainings:
    """Trained models in one workspace, their ranks and their agreement with the first one."""

    def __init__(self, config: CompareConfig, work: Workspace) -> None:
        self.config, self.work = config, work

    # Training

    def run_dir(self, model: ModelConfig, seed: int) -> Path:
        """Folder of a training run."""
        settings = self.training(model, seed)
        return self.work.place("models", f"{_kind(model, settings)}-s{seed}", settings)

    def training(self, model: ModelConfig, seed: int) -> dict[str, Any]:
        """All settings of a training run, as its command's YAML has them (without run_dir)."""
        program = program_of(model)
        own: dict[str, Any] = {"lm": self.config.lm, "seed": seed}
        if not program.makes_lm:  # that one is trained in float32
            own["dtype"] = self.config.dtype
        settings = merge(merge(shared(self.config, model), model.settings), own)
        if model.teacher is not None:
            teacher = self.trained(self._teacher(model), self.config.seeds[0])
            settings[program.teacher] = str(teacher)
        return settings

    def trained(self, model: ModelConfig, seed: int) -> Path:
        """Folder of a trained reward model, or of a fine-tuned LM."""
        folder = self.run_dir(model, seed)
        return program_of(model).output(folder, self.training(model, seed))

    def train(self, model: ModelConfig, seed: int) -> None:
        """Train one model, and its teacher before it where that is not there any more."""
        if model.teacher is not None:
            self.train(self._teacher(model), self.config.seeds[0])
        folder = self.run_dir(model, seed)
        path, settings = folder.with_suffix(folder.suffix + ".yaml"), self.training(model, seed)
        write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        resume = ["--resume"] if (folder / "config.yaml").is_file() else []
        argv = [str(path), "--run-dir", str(folder), *resume]
        self.work.command(self.trained(model, seed), ("train", program_of(model).name), argv)

    def _teacher(self, model: ModelConfig) -> ModelConfig:
        return next(m for m in models(self.config) if m.name == model.teacher)

    # Rank

    def reads_candidates(self, model: ModelConfig) -> bool:
        """Whether a model runs on every candidate (RAD): its rows cost |V| forwards each."""
        settings = self.training(model, self.config.seeds[0]).get("reward_model", {})
        return PARAMETRIZATIONS[settings.get("parametrization", "arm")].reads_candidates

    def rank(self, model: ModelConfig, seed: int) -> Path:
        """Folder of a rank analysis."""
        settings = self.training(model, seed)
        behind = [settings, *self._prefixes_behind()]
        return self.work.place("rank", f"{_kind(model, settings)}-s{seed}", behind)

    def analyse_rank(self, model: ModelConfig, seed: int) -> None:
        """Rank of a model's raw reward matrix."""
        rank, out = self.config.rank, self.rank(model, seed)
        if not (out / "rank.json").exists():
            self.train(model, seed)
        argv = ["--lm", self.config.lm, "--lm-dtype", self.config.dtype]
        argv += ["--reward-model", str(self.trained(model, seed))]
        argv += ["--prefixes", *self._prefix_sets(seed)]
        argv += ["--num-prefixes", str(rank.num_prefixes), "--columns", rank.columns]
        argv += ["--check-prefixes", str(rank.check_prefixes), "--out", str(out), "--resume"]
        self.work.command(out / "rank.json", ("analyze", "rank"), argv)

    def _prefixes_behind(self) -> list[Any]:
        """What the rows of a rank analysis depend on: the first model's texts, beside others."""
        first = self.config.seeds[0]
        data = self.training(models(self.config)[0], first).get("data")
        return [data, first, to_plain(self.config.rank)]

    def _prefix_sets(self, seed: int) -> list[str]:
        """NAME=FILE: texts that models have not seen, and with the first seed those they have."""
        first, behind = self.config.seeds[0], self._prefixes_behind()
        names = ("held-out", "training")
        paths = {name: self.work.place("prefixes", name, behind, ".jsonl") for name in names}
        if not all(path.is_file() for path in paths.values()):
            for name, texts in prefix_texts(self.config).items():
                rows = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
                write_text(paths[name], "".join(row + "\n" for row in rows))
        shown = names if seed == first else names[:1]
        return [f"{name}={paths[name]}" for name in shown]

    # Agreement

    def agreement(self, model: ModelConfig, seed: int) -> Path:
        """JSON of a model's agreement with the first model's first seed."""
        behind = [
            self.training(model, seed),
            str(self._reference()),
            to_plain(self.config.agreement),
        ]
        return self.work.place("agreement", f"{_kind(model, behind[0])}-s{seed}", behind, ".json")

    def measure_agreement(self, model: ModelConfig, seed: int) -> None:
        """Rewards of a model beside those of the first one, on the same tokens."""
        config, out = self.config.agreement, self.agreement(model, seed)
        if not out.exists():
            self.train(models(self.config)[0], self.config.seeds[0])
            self.train(model, seed)
        argv = ["--lm", self.config.lm, "--lm-dtype", self.config.dtype]
        argv += ["--reward-model", str(self.trained(model, seed))]
        argv += ["--teacher", str(self._reference())]
        argv += ["--texts", str(config.texts), "--text-field", config.text_field]
        argv += ["--num-texts", str(config.num_texts)]
        argv += ["--num-candidates", str(config.num_candidates), "--out", str(out)]
        self.work.command(out, ("analyze", "agreement"), argv)

    def _reference(self) -> Path:
        return self.trained(models(self.config)[0], self.config.seeds[0])


def _kind(model: ModelConfig, settings: dict[str, Any]) -> str:
    """What a model is, whatever it is called: comparisons may call the same one differently."""
    program = program_of(model)
    if program.name in ("nado", "attribute"):
        return program.name
    kind = settings.get("reward_model", {}).get("parametrization", "arm")
    return f"{kind}-distilled" if model.teacher else kind
