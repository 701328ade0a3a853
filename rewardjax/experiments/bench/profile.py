"""`rewardjax bench profile`: where an unguided step's time goes, part by part.

Each part is compiled and timed by itself beside the whole step, and beside its bare matrix
products: what they take is XLA's, what a part takes more is attention, norms and caches.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal

from rewardjax.config import parse
from rewardjax.errors import RewardJaxError

PROFILE = "profile.json"
CALLS = 6
"""of a part in a round, one after the other, as steps follow each other"""


@dataclass(frozen=True)
class ProfileConfig:
    """What is timed, and where the numbers go."""

    out: str
    """folder for profile.json; the pages of `bench decode` in it show it from then on"""
    lm: str = "smollm2-135m"
    """language model"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of its weights"""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    tokens: int = 48
    """of each row's text"""
    candidates: int = 20
    """k"""
    repeats: int = 7
    """rounds, in each of which every part runs a few times"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        ProfileConfig,
        argv,
        prog="rewardjax bench profile",
        description="Where a step's time goes, part by part.",
    )
    for name in ("tokens", "candidates", "repeats"):
        if getattr(config, name) < 1:
            raise RewardJaxError(f"{name} is {getattr(config, name)}; expected at least 1")
    from rewardjax.experiments.bench import page, tables
    from rewardjax.report.table import print_table
    from rewardjax.report.write import write_text

    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    found = collect(config)
    write_text(folder / PROFILE, json.dumps(found, indent=1) + "\n")
    print_table(tables.of_profile(found))
    if (folder / "results.json").is_file():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        page.write(results, folder)
    print(f"wrote {folder / PROFILE}")
    return 0


def collect(config: ProfileConfig) -> dict[str, Any]:
    """Seconds of each part at each batch size, in every round."""
    from rewardjax.experiments.bench.limits import floor, step_parts
    from rewardjax.experiments.bench.machine import prepare
    from rewardjax.lm import load_lm

    lm = load_lm(config.lm, dtype=config.dtype)
    ceilings = prepare(config.dtype)
    itemsize = 4 if config.dtype == "float32" else 2
    rows = []
    for batch in config.batch_sizes:
        parts = programs(lm, batch, config.tokens, config.candidates)
        seconds: dict[str, list[float]] = {name: [] for name in parts}
        limits = []
        for call in parts.values():
            call()  # compiles
        for _ in range(config.repeats):
            limits.append(ceilings.measure())
            for name, call in parts.items():
                call()  # what ran before has taken the caches
                began = time.perf_counter()
                for _ in range(CALLS):
                    call()
                seconds[name].append((time.perf_counter() - began) / CALLS)
        peak, bandwidth = (statistics.median(each) for each in zip(*limits, strict=True))
        work = step_parts(lm.config, None, itemsize, batch, config.candidates, config.tokens)
        floors = {name: part.seconds(bandwidth, peak) for name, part in work.items()}
        floors["step"] = floor(work, bandwidth, peak)
        rows.append({"batch": batch, "seconds": seconds, "floors": floors})
    name = PurePath(config.lm).name
    return {"lm": name, "dtype": config.dtype, "tokens": config.tokens, "rows": rows}


def programs(lm: Any, batch: int, length: int, k: int) -> dict[str, Callable[[], Any]]:
    """The step and its parts, each ready to run once."""
    import jax
    import jax.numpy as jnp

    from rewardjax.decoding.loop import decode_step
    from rewardjax.decoding.runner import Request, SamplingConfig, start_batch
    from rewardjax.engine import make_engine
    from rewardjax.lm import KVCache, forward, unembed

    config, params, top = lm.config, lm.params, lm.config.num_hidden_layers
    dtype = params["embed_tokens"]["embedding"].dtype
    hidden = jnp.ones((batch, config.hidden_size), dtype)
    position = jnp.full((batch, 1), length - 1)
    mask = jnp.ones((batch, 1, length), bool)

    @jax.jit
    def products(layers: Any, x: Any) -> Any:
        kept = []
        for layer in layers.values():
            attention, mlp = layer["self_attn"], layer["mlp"]
            q, k, v = (x @ attention[f"{name}_proj"]["kernel"] for name in "qkv")
            x = x + q @ attention["o_proj"]["kernel"]
            kept += [k, v]
            up = x @ mlp["up_proj"]["kernel"]
            if "gate_proj" in mlp:
                up = up * (x @ mlp["gate_proj"]["kernel"])
            x = x + up @ mlp["down_proj"]["kernel"]
        return x, kept

    @partial(jax.jit, donate_argnums=1)
    def layers(params: Any, cache: Any) -> Any:
        tokens = jnp.ones((batch, 1), jnp.int32)
        return forward(config, params, tokens, position, mask, cache=cache, capture=(top,))

    @jax.jit
    def logits(params: Any, x: Any) -> Any:
        return unembed(config, params, x)

    sampling = SamplingConfig(top_k=k, max_new_tokens=8)
    engine = make_engine(lm, None, sampling)
    requests = [Request([5] * (length - 4), i, 0) for i in range(batch)]
    state = start_batch(
        engine.program, engine.lm_params, engine.reward_params, requests, sampling, batch
    )
    one_step = jax.jit(decode_step, static_argnums=0, donate_argnums=3)
    held = {"cache": KVCache.empty(config, batch, length, dtype), "state": state}

    def run_layers() -> None:
        found, held["cache"] = layers(params, held["cache"])
        jax.block_until_ready(found)

    def run_step() -> None:
        held["state"] = one_step(engine.program, params, engine.reward_params, held["state"])
        jax.block_until_ready(held["state"])

    return {
        "products of the layers": lambda: jax.block_until_ready(products(params["layers"], hidden)),
        "LM layers": run_layers,
        "LM logits": lambda: logits(params, hidden).block_until_ready(),
        "step": run_step,
    }
