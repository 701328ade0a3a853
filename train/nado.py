"""Train a NADO from an LM's own samples and an oracle: `rewardjax train nado`, or `train_nado`.

Prompts are continued by the LM, an oracle says of each text whether it satisfies a constraint, and
a reward model learns from all prefixes how likely each next token is to end well (methods.md §7).
Decoded with β = 1 it gives the LM conditioned on the constraint.

p is the distribution that the decoding to come samples from: the LM at temperature 1 among its
`sampling.top_k` most probable tokens. Samples, forward consistency and importance weights all speak
of it, so what is learned is exact for it: R and q* = p R / R(prefix) are those of p, whatever p is.

A run directory holds what `train/trainer.py` writes, prompts.jsonl, completions.jsonl and
scored.jsonl (`train/samples.py`). Rounds before the last have a folder each, round-1, round-2 …
"""

from __future__ import annotations

from pathlib import Path

from rewardjax.config import parse
from rewardjax.data.examples import split
from rewardjax.export import load_reward_model
from rewardjax.lm import OpenedLM, open_lm
from rewardjax.lock import hold
from rewardjax.oracle import Oracle, open_oracle
from rewardjax.sharding import use_mesh
from rewardjax.text import EncodedPrompt

from . import compute, memory, nado_settings, samples
from .nado_run import longest_text, prepare
from .nado_settings import MAY_CHANGE, NadoConfig
from .result import Result, report
from .run import check_directory, write_config
from .trainer import Trainer

__all__ = ["Result", "main", "train_nado"]


def train_nado(config: NadoConfig) -> Result:
    """Sample, label and train, `config.rounds` times; save the reward model of the last round.

    Raises:
      RewardJaxError: bad settings, prompts or oracle, cheapest checks first; labels that teach
        nothing; a non-finite loss.
      KeyboardInterrupt, SystemExit(143): Ctrl-C or SIGTERM; what was sampled, scored and trained
        is gone on with by `resume`.
    """
    nado_settings.check(config)
    with use_mesh(config.mesh):
        compute.check(config)
    check_directory(config, MAY_CHANGE)
    oracle = open_oracle(config.oracle)
    rows, _ = samples.read_tasks(config.prompts)
    split([row.text for row in rows], config.held_out, config.seed)
    opened = open_lm(config.lm, dtype=config.dtype)
    room = longest_text(config.reward_model, opened)
    prompts = samples.encode_prompts(opened, rows, config.sampling, room, chat=config.chat)
    directory, result = Path(config.run_dir), None
    with hold(directory, "run_dir"):
        check_directory(config, MAY_CHANGE)  # again: another run may have come first
        write_config(directory, config, {})
        path = samples.keep_prompts(directory, rows)
        for number in range(1, config.rounds + 1):
            last = number == config.rounds
            folder = directory if last else directory / f"round-{number}"
            guide = directory / f"round-{number - 1}" / "reward_model" if number > 1 else None
            if last or not (folder / "reward_model" / "config.json").is_file():
                result = _round(config, number, folder, path, prompts, oracle, guide, opened)
    assert result is not None
    return result


def _round(
    config: NadoConfig,
    number: int,
    folder: Path,
    path: Path,
    prompts: dict[int, EncodedPrompt],
    oracle: Oracle,
    guide: Path | None,
    lm: OpenedLM,
) -> Result:
    """Sample, label and train once. Each round draws by a seed of its own."""
    folder.mkdir(exist_ok=True)
    sampling = samples.of_round(config.sampling, number, lm.config.vocab_size)
    rows = samples.sample(
        folder / "completions.jsonl",
        path,
        sampling,
        lm=config.lm,
        fingerprint=lm.load().fingerprint,
        dtype=config.dtype,
        chat=config.chat,
        guide=guide,
    )
    labels = samples.score(folder / "scored.jsonl", rows, samples.oracle_reward(oracle))
    with use_mesh(config.mesh):
        start = None if guide is None else load_reward_model(guide)
        weighted = guide is not None or sampling.temperature != 1
        run = prepare(config, lm, folder, rows, labels, prompts, sampling, weighted, start)
        memory.announce(run)
        return Trainer(run).train()


def main(argv: list[str]) -> int:
    """`rewardjax train nado CONFIG [--a.b.c value …]`."""
    config = parse(
        NadoConfig,
        argv,
        prog="rewardjax train nado",
        description="Train a reward model to satisfy an oracle, from the LM's own samples.",
        yaml_positional=True,
    )
    result = train_nado(config)
    sampled = result.history[0] if result.history else {}
    report(result, ("satisfied", "auc", "last_bce", "calibration_error", "consistency"))
    if "data/satisfied" in sampled:
        print(
            f"{sampled['data/satisfied']:.1%} of the samples satisfy the oracle,"
            f" {sampled['data/satisfied_by_lm']:.1%} of the LM's own by their weights"
            f" ({sampled['data/effective_samples']:,.0f} effective samples)"
        )
    print(
        f"decode with --beta 1 and --top-k {config.sampling.top_k or '|V|'}: p · R, the LM"
        " conditioned on the oracle; a larger beta goes beyond it"
    )
    return 0
