"""Everything that is measured, as one JSON-ready dict: the pages are made from it alone."""

from __future__ import annotations

import os
import time
from pathlib import PurePath
from typing import Any

import jax

from rewardjax.config import to_plain
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.bench import BenchConfig
from rewardjax.experiments.bench.cases import CASES, PEERS, System, ours, prompts
from rewardjax.experiments.bench.count import BATCH, of_case
from rewardjax.experiments.bench.limits import Parts, floor, step_parts
from rewardjax.experiments.bench.machine import prepare, summary
from rewardjax.experiments.bench.models import Models, load_models, make_reward_model
from rewardjax.experiments.bench.sweeps import sweeps
from rewardjax.experiments.bench.timing import Timed, interleaved
from rewardjax.lm import LMConfig
from rewardjax.progress import bar, note
from rewardjax.provenance import commit, machine, versions, without_paths

PARITY_STEPS = 4
PARITY_LAYERS = 2
"""of both models where they are not float32: they are compared in float32 all the same"""


def collect(config: BenchConfig, command: str = "") -> dict[str, Any]:
    """Measures everything; `command`: as it was typed.

    Raises:
      RewardJaxError: settings that do not fit the LM; PyTorch is missing, or its guided logits are
        not ours.
    """
    began, load = time.monotonic(), os.getloadavg()[0]
    models = load_models(
        config.lm, config.shape, config.dtype, config.reward_layers, config.scan_layers
    )
    check_room(models, config.prompt_tokens + config.new_tokens)
    peers, parity = _peers(config, models) if config.peers else (None, {})
    note("counting tokens, compilations and transfers")
    counters = _counters(config, models)
    ceilings = prepare(models.dtype)
    rows, rounds = [], {}
    for batch in config.batch_sizes:
        systems = _systems(config, models, peers, batch)
        with bar(f"batch {batch}", len(systems) * (config.repeats + 1)) as done:
            timed = interleaved(systems, ceilings, config.repeats, done)
        rounds[str(batch)] = timed.ceilings
        rows += [_row(config, models, timed, name, batch) for name in systems]
    every = [one for measured in rounds.values() for one in measured]
    found = {
        "name": models.name,
        "command": command,
        "settings": _settings(config),
        "machine": machine() | _threads(peers is not None, load),
        "versions": versions() | _torch_version(peers is not None),
        "commit": commit(),
        "models": {"lm": _size(models.lm), "reward_model": _size(models.own)},
        "ceilings": summary(every),
        "rounds": rounds,
        "parity": parity,
        "rows": rows,
        "counters": counters,
        "sweeps": sweeps(config, models, ceilings) if config.sweeps else {},
        "seconds": round(time.monotonic() - began, 1),
    }
    return without_paths(found, {config.out: "OUT", config.lm: PurePath(config.lm).name})


def check_room(models: Models, length: int) -> None:
    """Refuse texts that a model cannot read.

    Raises:
      RewardJaxError: naming both lengths.
    """
    room = min(models.lm.max_position_embeddings, models.own.max_position_embeddings - 1)
    if length > room:
        raise RewardJaxError(
            f"prompt_tokens and new_tokens make texts of {length} tokens; expected at most {room},"
            " what the models read"
        )


def parts_of(
    models: Models, name: str, itemsize: int, batch: int, candidates: int, length: float
) -> Parts:
    """`limits.step_parts` of a case."""
    case = CASES[name]
    model = None
    if case.parametrization is not None:
        model, _ = make_reward_model(models, case.parametrization, case.backbone)
    k = models.lm.vocab_size if case.whole_vocabulary else candidates
    return step_parts(models.lm, model, itemsize, batch, min(k, models.lm.vocab_size), length)


def _peers(config: BenchConfig, models: Models) -> tuple[Any, dict[str, float]]:
    """PyTorch's models, once their guided logits are found to be ours."""
    from rewardjax.experiments.bench.torch_models import check_torch

    for each in (models.lm, models.own):
        check_torch(each)
    import torch

    from rewardjax.experiments.bench.parity import check
    from rewardjax.experiments.bench.torch_peers import load_torch

    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    note("comparing guided logits with PyTorch's")
    cases = [name for name in dict.fromkeys(PEERS.values()) if name in config.cases]
    guided = [name for name in cases if CASES[name].parametrization]
    dtypes = dict.fromkeys((models.dtype, "bfloat16"))
    peers = load_torch(models, guided, list(dtypes))
    same, compared = models, peers
    if models.dtype != "float32":
        same = models.shortened(PARITY_LAYERS)
        compared = load_torch(same, guided, ["float32"])
    worst = {
        name: check(
            same,
            compared,
            name,
            candidates=config.candidates,
            length=config.prompt_tokens,
            steps=min(PARITY_STEPS, config.new_tokens),
        )
        for name in cases
    }
    return peers, worst


def _systems(config: BenchConfig, models: Models, peers: Any, batch: int) -> dict[str, System]:
    """What is timed at a batch size: our cases, and the peers of those that have one."""
    tokens = prompts(models.lm.vocab_size, batch, config.prompt_tokens)
    systems: dict[str, System] = {
        name: ours(models, CASES[name], tokens, config.candidates, config.new_tokens)
        for name in config.cases
    }
    if peers is None:
        return systems
    from rewardjax.experiments.bench.torch_peers import peer

    k = min(config.candidates, models.lm.vocab_size)
    for name, case in PEERS.items():
        dtype = dtype_of(name, models.dtype)
        if case in config.cases and (name != "torch-unguided-bfloat16" or dtype != models.dtype):
            systems[name] = peer(peers, case, dtype, tokens, k, config.new_tokens)
    return systems


def dtype_of(system: str, dtype: str) -> str:
    """Of a system's weights, the run's being `dtype`."""
    return "bfloat16" if system.endswith("bfloat16") else dtype


def _counters(config: BenchConfig, models: Models) -> dict[str, dict[str, float]]:
    """None depends on depth: all are counted on two layers of the models, which compile soon."""
    tokens = prompts(models.lm.vocab_size, BATCH, config.prompt_tokens)
    shallow = models.shortened(2)
    k = min(config.candidates, models.lm.vocab_size)
    return {name: of_case(shallow, CASES[name], tokens, k) for name in config.cases}


def _row(
    config: BenchConfig, models: Models, timed: Timed, name: str, batch: int
) -> dict[str, Any]:
    """One system at one batch size: raw seconds, and what they are to be compared with."""
    peer = name in PEERS
    dtype = dtype_of(name, models.dtype)
    # A peer's first step cannot be told from reading the prompts: its timed steps begin one later.
    length = config.prompt_tokens + (config.new_tokens - 1 + peer) / 2
    itemsize = 2 if dtype == "bfloat16" else 4
    case = PEERS.get(name, name)
    parts = parts_of(models, case, itemsize, batch, config.candidates, length)
    return {
        "system": name,
        "case": case,
        "framework": "PyTorch" if peer else "ours",
        "dtype": dtype,
        "batch": batch,
        "new_tokens": config.new_tokens,
        "first_call": timed.first[name].total,
        "rounds": [
            {"prompt": s.prompt, "steps": s.steps, "count": s.count} for s in timed.rounds[name]
        ],
        "parts": {key: part._asdict() for key, part in parts.items()},
        # The machine's ceilings are those of the run's own dtype.
        "floors": [floor(parts, bytes_, flops) for flops, bytes_ in timed.ceilings]
        if dtype == models.dtype
        else None,
    }


def _settings(config: BenchConfig) -> dict[str, Any]:
    plain = to_plain(config)
    for name in ("out", "overwrite", "page_only"):
        del plain[name]
    if config.shape is not None:
        del plain["lm"]
    return plain


def _size(config: LMConfig) -> dict[str, int]:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    return {name: getattr(config, name) for name in names}


def _threads(peers: bool, load: float) -> dict[str, Any]:
    """XLA takes a thread for every core that the process may use; PyTorch's are set."""
    found: dict[str, Any] = {"backend": jax.default_backend()}
    found["xla_threads"] = len(os.sched_getaffinity(0))
    found["load"] = round(load, 2)
    if peers:
        import torch

        found["torch_threads"] = torch.get_num_threads()
    return found


def _torch_version(peers: bool) -> dict[str, str]:
    if not peers:
        return {}
    import torch

    return {"torch": torch.__version__}
