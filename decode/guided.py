"""`rewardjax decode guided`: prompts in, steered continuations out, as JSONL."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rewardjax import hosts
from rewardjax.config import parse, to_plain
from rewardjax.data.prompts import PromptFile, PromptRow, digest, open_prompts
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.errors import RewardJaxError, short
from rewardjax.hosts import HostsConfig
from rewardjax.mesh import MeshConfig
from rewardjax.progress import bar

if TYPE_CHECKING:
    from rewardjax.export import TrainedRewardModel

    from .rows_file import RowsFile


@dataclasses.dataclass(frozen=True)
class GuidedConfig(SamplingConfig):
    """Settings of `rewardjax decode guided`: those of sampling, and the job's own."""

    # Narrower than in SamplingConfig, for the command line: several strengths, one of the others.
    beta: tuple[float, ...] = (0.0,)
    """guidance strength, >= 0; of several reward models one each, or one for all"""
    beta_end: float = 0.0
    """the strength at the last of max_new_tokens steps; the schedule leads there"""
    invert: bool = False
    """lower the attribute instead of raising it"""
    link: Literal["clip", "raw", "sigmoid", "log_sigmoid", "min_max"] | None = None
    """what beta multiplies, of the raw reward; unset: each reward model's own"""

    lm: str = "smollm2-135m"
    """the frozen LM: an alias, a folder, a .gguf file or a hub id"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the LM"""
    reward_model: tuple[str, ...] = ()
    """folders of trained reward models that steer at once; none: no guidance"""
    output: tuple[int, ...] = (0,)
    """which output of each reward model steers, or of all"""
    prompt: tuple[str, ...] = ()
    """prompts on the command line"""
    prompts: str | None = None
    """file of prompts: .txt (a line each) or .jsonl, plain or .gz; - is standard input"""
    prompt_field: str = "prompt"
    """of a .jsonl: the prompt's field, dots for nesting (prompt.text)"""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """of a .jsonl: only rows that compare so, such as 'prompt.toxicity>=0.5'; may be repeated"""
    limit: int | None = None
    """take so many of the prompts; unset: all"""
    offset: int = 0
    """leave out so many of them first"""
    shuffle_seed: int | None = None
    """draw them at random by this seed; unset: in the order of the file"""
    chat: bool = False
    """wrap each prompt in the tokenizer's chat template"""
    num_samples: int = 1
    """continuations per prompt"""
    stop: tuple[str, ...] = ()
    """strings that end a continuation (left out of its text)"""
    batch_size: int = 32
    """rows decoded at once: memory and speed only"""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    warmup: bool = False
    """compile for every length of prompt before the first row; unset: when one comes up"""
    out: str = "-"
    """JSONL file to write; - is standard output"""
    resume: bool = False
    """go on with an unfinished --out"""
    overwrite: bool = False
    """replace an existing --out"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        GuidedConfig,
        argv,
        prog="rewardjax decode guided",
        description="Steer a frozen LM with a reward model while it decodes; write JSONL rows.",
    )
    if config.mesh == MeshConfig() and config.hosts == HostsConfig():
        return _decode(config)  # prompts are looked at before JAX is imported
    from rewardjax.sharding import use_mesh

    hosts.join(config.hosts)
    # Each process decodes prompts of its own: they share no batch.
    with use_mesh(config.mesh, local=True):
        return _decode(config)


def _decode(config: GuidedConfig) -> int:
    rows = _prompts(config)
    # Everything that can be wrong is looked at before weights are read.
    from rewardjax.export import load_reward_model
    from rewardjax.text import check_sampling

    from .shards import Share

    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    sampling = SamplingConfig(**{name: getattr(config, name) for name in names})
    check_sampling(config.num_samples, config.batch_size, config.stop)
    # A folder that is named twice, for two outputs, is one model.
    loaded = {folder: load_reward_model(folder) for folder in config.reward_model}
    if not loaded and any(beta > 0 for beta in config.beta):
        raise RewardJaxError(f"beta is {max(config.beta)} but no --reward-model is given; name one")
    # What changes no text may differ between an interrupted run and the one that resumes it.
    settings = to_plain(config)
    for name in ("batch_size", "warmup", "mesh", "hosts", "resume", "overwrite", "out"):
        del settings[name]
    # A file that was edited in between is another job, whatever its name.
    settings["prompts_sha256"] = digest(rows)
    settings["reward_model_sha256"] = [
        hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()
        for folder in loaded
        for name in ("config.json", "model.safetensors")
    ]
    share = Share(config.out, settings, resume=config.resume, overwrite=config.overwrite)
    rows = share.of(rows)
    if not share.finished:
        _write(config, sampling, rows, loaded, share.rows)
    share.merge(config.num_samples)
    return 0


def _write(
    config: GuidedConfig,
    sampling: SamplingConfig,
    rows: list[PromptRow] | PromptFile,
    loaded: dict[str, TrainedRewardModel],
    out: RowsFile,
) -> None:
    """Decode what is left of the prompts into a file."""
    from rewardjax.api import iterate_generations, stream_encoded
    from rewardjax.decoding.memory import available_memory, check_memory, decoding_need
    from rewardjax.decoding.sampling import capacity_for
    from rewardjax.decoding.warmup import buckets
    from rewardjax.engine import make_engine, room
    from rewardjax.lm import open_lm
    from rewardjax.text import EncodedPrompt, check_fit, encode_prompt

    reward_models = [loaded[folder] for folder in config.reward_model]
    # Prompts are read and encoded twice, so that none is kept: to look at every one before the
    # weights are read, and to decode them.
    first, skip = divmod(out.done, config.num_samples)
    opened = open_lm(config.lm, dtype=config.dtype)

    def encoded() -> Iterator[EncodedPrompt]:
        for row in itertools.islice(rows, first, None):
            yield encode_prompt(opened, row.text, row.index, chat=config.chat, where=row.where)

    longest = check_fit(opened, encoded(), sampling, room(opened, reward_models))
    total = len(rows) * config.num_samples
    batch_size = min(config.batch_size, total)
    models = [model.shapes(opened.config, config.dtype) for model in loaded.values()]
    need = decoding_need(
        opened.config,
        config.dtype,
        models,
        longest=longest,
        max_new_tokens=config.max_new_tokens,
        num_candidates=capacity_for(config.top_k, opened.config.vocab_size),
        samples=config.num_samples,
    )
    check_memory(need, batch_size, available_memory())
    lm = opened.load()
    if config.out == "-" and total == 1 and sys.stdout.isatty():  # someone is watching
        for piece in stream_encoded(
            lm, next(encoded()), sampling, reward_models, config.output, config.stop
        ):
            print(piece, end="", flush=True)
        print()
        return
    if config.warmup:
        # Not kept: the job makes an engine of its own, and two would hold the models twice.
        compiled = make_engine(lm, reward_models, sampling, outputs=config.output).warm_up(
            sampling, batch_size=batch_size, longest=longest, samples=config.num_samples
        )
        with bar("compiling", len(buckets(longest))) as advance:
            for _ in compiled:
                advance(1)
    generations = iterate_generations(
        lm,
        encoded(),
        sampling,
        reward_model=reward_models,
        output=config.output,
        num_samples=config.num_samples,
        stop=config.stop,
        batch_size=batch_size,
        skip=skip,
    )
    tokens, began = 0, time.monotonic()
    with out, bar("decoding", total, done=out.done) as advance:
        for generation in generations:
            out.write(generation.to_json())
            tokens += len(generation.token_ids)
            advance(1, **{"tokens/s": tokens / (time.monotonic() - began)})


def _prompts(config: GuidedConfig) -> list[PromptRow] | PromptFile:
    if bool(config.prompt) == (config.prompts is not None):
        got = "both" if config.prompt else "neither"
        raise RewardJaxError(f"expected either --prompt TEXT … or --prompts FILE, got {got}")
    if config.prompts is not None:
        return open_prompts(
            config.prompts,
            config.prompt_field,
            where=config.where,
            limit=config.limit,
            offset=config.offset,
            shuffle_seed=config.shuffle_seed,
        )
    if config.where or (config.limit, config.offset, config.shuffle_seed) != (None, 0, None):
        raise RewardJaxError(
            "--where, --limit, --offset and --shuffle-seed choose among the rows of a file; "
            "expected --prompts FILE with them"
        )
    for text in config.prompt:
        if not text.strip():
            raise RewardJaxError(f"--prompt {short(text)} is empty; expected some text")
    return [PromptRow(text, i, f"--prompt {short(text)}") for i, text in enumerate(config.prompt)]
