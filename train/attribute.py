"""Attribute-controlled fine-tuning of the LM itself: `rewardjax train attribute`, or `attribute`.

What a round is stands in `attribute_round`. RUN_DIR/prompts.jsonl are the prompts of every round,
RUN_DIR/texts.jsonl the texts as the oracle judged them (`samples`). RUN_DIR/schedule.json says at
the end what each part of each round took, and the critical path: what had to wait for each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardjax import config as settings_file
from rewardjax.data.prompts import PromptRow
from rewardjax.export import load_reward_model
from rewardjax.lm import OpenedLM, open_lm
from rewardjax.lm.hf_config import config_to_hf
from rewardjax.lock import hold
from rewardjax.oracle import open_oracle
from rewardjax.report.write import write_text
from rewardjax.sharding import use_mesh
from rewardjax.text import EncodedPrompt

from . import samples
from .attribute_data import judge_texts, read_texts
from .attribute_guide import Reward, check_reward
from .attribute_round import Phases, begin, run_round
from .attribute_settings import MAY_CHANGE, AttributeConfig, check
from .nado_run import longest_text
from .run import check_directory, write_config

__all__ = ["AttributeResult", "attribute", "main"]


@dataclass(frozen=True)
class AttributeResult:
    """What a finished run leaves behind."""

    lm: Path
    """the fine-tuned LM as a Hugging Face directory"""
    adapter: Path | None
    """its LoRA, for PEFT; None where all weights trained"""
    metrics: dict[str, Any]
    """of the last round's held-out texts"""
    schedule: dict[str, Any]
    """what schedule.json holds"""


def attribute(config: AttributeConfig) -> AttributeResult:
    """Fine-tune an LM towards an attribute, and save it.

    Raises:
      RewardJaxError: bad settings, data or reward model, cheapest checks first; a loss that is not
        finite.
      KeyboardInterrupt, SystemExit(143): Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    check(config)
    check_directory(config, MAY_CHANGE)
    given = None if config.reward_model is None else load_reward_model(config.reward_model)
    oracle = open_oracle(config.oracle) if config.judged else None
    folder = Path(config.run_dir)
    with use_mesh(config.mesh):
        opened = open_lm(config.lm)
        config_to_hf(opened.config)  # refuses an LM that could not be saved at the end
        if given is not None:
            check_reward(config, given, opened)
        rows, prompts = _look(config, opened)
        texts = read_texts(config, opened)
        with hold(folder, "run_dir"):
            check_directory(config, MAY_CHANGE)  # again: another run may have come first
            write_config(folder, config, {})
            corpus = judge_texts(config, opened, texts, oracle)
            if rows:
                samples.keep_prompts(folder, rows)
            lm = opened.load()
            reward = None if given is None else Reward(given, lm, config.output, config.invert)
            if reward is not None:
                reward.bind()  # refuses one of another LM
            stage = begin(config, lm, reward)
            for number in range(1, config.rounds + 1):
                stage = run_round(config, number, lm, stage, corpus, prompts, oracle)
            schedule = _schedule(config)
            write_text(folder / "schedule.json", json.dumps(schedule, indent=1) + "\n")
    last = folder / f"round-{config.rounds}"
    adapter = last / "adapter" if config.lora.rank else None
    return AttributeResult(last / "lm", adapter, stage.metrics, schedule)


def _look(
    config: AttributeConfig, lm: OpenedLM
) -> tuple[list[PromptRow], dict[int, EncodedPrompt]]:
    """The prompts of samples, and their tokens by index; none where nothing is sampled."""
    if not config.samples:
        return [], {}
    rows, _ = samples.read_tasks(config.prompts)
    room = lm.config.max_position_embeddings
    if config.refit:
        room = min(room, longest_text(config.nado.reward_model, lm))
    return rows, samples.encode_prompts(lm, rows, config.sampling, room)


def _schedule(config: AttributeConfig) -> dict[str, Any]:
    """What the rounds took.

    Within a round each part waits for the one before it; of a joint part the two updates of a step
    do not wait for each other. So the critical path has a round's updates of both models in the
    sequential scheme, and those of one in the parallel scheme.
    """
    folder = Path(config.run_dir)
    rounds = [Phases(folder / f"round-{n}").found for n in range(1, config.rounds + 1)]
    parts = [part for found in rounds for part in found.values()]
    updates = sum(part.get("updates", 0) for part in parts)
    joint = sum(found["joint"]["updates"] for found in rounds if "joint" in found)
    return {
        "scheme": config.scheme,
        "rounds": rounds,
        "seconds": sum(part.get("seconds", 0.0) for part in parts),
        "updates": updates + joint,
        "critical_path": {
            "updates": updates,
            "sampled_tokens": sum(part.get("tokens", 0) for part in parts),
        },
    }


def main(argv: list[str]) -> int:
    """`rewardjax train attribute CONFIG [--a.b.c value …]`."""
    config = settings_file.parse(
        AttributeConfig,
        argv,
        prog="rewardjax train attribute",
        description="Fine-tune an LM towards an attribute: L_LM + λ KL(q ‖ p).",
        yaml_positional=True,
    )
    result = attribute(config)
    names = ("perplexity", "perplexity_accepted", "kl", "closed_form", "detection_auc")
    found = [(name, result.metrics.get(f"eval/{name}")) for name in names]
    shown = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in found if value is not None]
    print(f"held-out texts: {', '.join(shown) or 'none'}")
    path, total = result.schedule["critical_path"], result.schedule["updates"]
    print(
        f"{config.scheme}: {result.schedule['seconds']:.0f} s, {total} updates, of which"
        f" {path['updates']} wait for each other"
    )
    print(f"wrote {result.lm}" + (f" and {result.adapter}" if result.adapter else ""))
    return 0
