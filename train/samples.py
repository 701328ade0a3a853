"""Completions that a run samples and scores itself, in its directory; whatever a kill leaves there
is gone on with. What an LM samples by itself is also kept in the cache: other runs that ask for the
same, with another head or seed, copy it.

prompts.jsonl        what is completed, each with the index that seeds its samples
completions.jsonl    rows of `rewardjax decode guided`
completions.lm       the fingerprint of the LM that wrote them
scored.jsonl         the same completions with their rewards: `data.path` of other runs
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from rewardjax.cache import cache_dir
from rewardjax.cli import program
from rewardjax.data.arithmetic import arithmetic
from rewardjax.data.generations import Row, read_rows
from rewardjax.data.lines import json_object
from rewardjax.data.prompts import PromptRow, read_prompts
from rewardjax.data.select import Draw
from rewardjax.data.tasks import Task, read_gsm8k, read_mbpp
from rewardjax.errors import RewardJaxError, short
from rewardjax.lm import OpenedLM
from rewardjax.oracle import Oracle
from rewardjax.progress import bar, note
from rewardjax.provenance import versions
from rewardjax.report.write import write_text
from rewardjax.sequence import Completion
from rewardjax.text import EncodedPrompt, check_fit, encode_prompt

from .sample_settings import PromptsConfig, SampleConfig, resolved, sampling_config

BLOCK = 64
"""Completions that are scored, and written, at once."""
_HUGE = 3e38
"""Of float32; integers of any length compare with it."""


@dataclass(frozen=True)
class Reward:
    """A reward of sampled completions: a scorer, a checker, an oracle."""

    version: str
    """what computes it: rewards of another are not gone on with"""
    score: Callable[[Sequence[Row]], np.ndarray]


def oracle_reward(oracle: Oracle) -> Reward:
    """An oracle's word as a reward."""

    def score(rows: Sequence[Row]) -> np.ndarray:
        return oracle([Completion(row.prompt, row.text, (), row.token_ids or ()) for row in rows])

    return Reward(f"oracle {oracle.version}", score)


def read_tasks(config: PromptsConfig) -> tuple[list[PromptRow], dict[int, Task]]:
    """The prompts, and the task of each prompt's index (none for a file of prompts).

    Raises:
      RewardJaxError: as the readers of prompts and tasks.
    """
    draw = Draw(config.limit, 0, config.seed)
    if config.task is None:
        assert config.path is not None
        limits = {"limit": config.limit, "offset": config.offset, "shuffle_seed": config.seed}
        rows = read_prompts(config.path, config.prompt_field, where=config.where, **limits)
        return rows, {}
    if config.task == "arithmetic":
        tasks = arithmetic(config.limit or 200, config.seed or 0, split=config.split)
    else:
        read = {"gsm8k": read_gsm8k, "mbpp": read_mbpp}[config.task]
        tasks = read(config.path, split=config.split)
        tasks = [tasks[i] for i in draw.positions(len(tasks))]
    rows = [PromptRow(task.prompt, task.index, task.where) for task in tasks]
    return rows, {task.index: task for task in tasks}


def encode_prompts(
    lm: OpenedLM,
    rows: Sequence[PromptRow],
    sampling: SampleConfig,
    room: int,
    *,
    chat: bool = False,
) -> dict[int, EncodedPrompt]:
    """Every prompt by its index, once it is sure that their samples fit.

    Args:
      room: tokens of the longest text.

    Raises:
      RewardJaxError: `file:line`: a prompt that does not fit.
    """
    prompts = {
        row.index: encode_prompt(lm, row.text, row.index, chat=chat, where=row.where)
        for row in rows
    }
    check_fit(lm, prompts.values(), sampling_config(resolved(sampling, lm.config.vocab_size)), room)
    return prompts


def of_round(sampling: SampleConfig, number: int, vocab_size: int) -> SampleConfig:
    """`resolved`, with a seed of its own for each round (from 1)."""
    seed = (sampling.seed + number - 1) % 2**32
    return dataclasses.replace(resolved(sampling, vocab_size), seed=seed)


def keep_prompts(folder: Path, prompts: Sequence[PromptRow]) -> Path:
    """The prompts as FOLDER/prompts.jsonl, each with its index.

    Raises:
      RewardJaxError: the file is there and holds others.
    """
    lines = "".join(json.dumps({"prompt": row.text, "index": row.index}) + "\n" for row in prompts)
    path = folder / "prompts.jsonl"
    if path.exists() and path.read_text("utf-8") != lines:
        raise RewardJaxError(
            f"{str(path)!r} holds other prompts than the config names now; restore their file, or"
            " choose another --run-dir"
        )
    write_text(path, lines)
    return path


def sample(
    out: Path,
    prompts: Path,
    sampling: SampleConfig,
    *,
    lm: str,
    fingerprint: str,
    dtype: str,
    chat: bool,
    guide: Path | None = None,
) -> list[Row]:
    """Sample what is not there yet, as `rewardjax decode guided` does, or copy it; all rows.

    Args:
      out: the rows' file.
      sampling: `resolved`.
      fingerprint: of the LM's weights.
      guide: the folder of a reward model that steers, with β = 1.

    Raises:
      RewardJaxError: as `rewardjax decode guided`; another LM sampled what is there.
    """
    done = out.exists() and not out.with_name(out.name + ".partial.json").exists()
    author, kept = out.with_suffix(".lm"), None
    if done and author.is_file() and author.read_text("utf-8").strip() != fingerprint:
        raise RewardJaxError(
            f"{str(out)!r} was sampled by another LM than {lm!r}; name that LM, or choose"
            " another --run-dir"
        )
    if not done and guide is None:
        asked = dataclasses.asdict(sampling) | {"batch_size": None}  # decides no text
        kept = _kept([fingerprint, dtype, prompts.read_text("utf-8"), asked, chat])
    if kept is not None and kept.is_file() and not out.exists():
        note(f"{out.name}: sampled before by the same LM and settings, copied from {kept}")
        write_text(out, kept.read_text("utf-8"))
    elif not done:
        flags = {
            "lm": lm,
            "dtype": dtype,
            "prompts": prompts,
            "num-samples": sampling.num_samples,
            "max-new-tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top-k": sampling.top_k,
            "seed": sampling.seed,
            "batch-size": sampling.batch_size,
            "out": out,
        }
        if guide is not None:
            flags |= {"reward-model": guide, "beta": 1}
        argv = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        argv += ["--stop", *sampling.stop] if sampling.stop else []
        program("decode", "guided")([*argv, *(["--chat"] if chat else []), "--resume"])
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, out.read_text("utf-8"))
    if not done:
        write_text(author, fingerprint + "\n")
    return read_rows(out)


def _kept(behind: Sequence[object]) -> Path:
    """Where samples lie in the cache: under a hash of all that decides them."""
    text = json.dumps([versions()["rewardjax"], *behind], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_dir() / "samples" / f"{name}.jsonl"


def names_of(rows: Sequence[Row]) -> list[str]:
    """What messages call samples: their lines."""
    return [f"completions.jsonl:{i + 1}" for i in range(len(rows))]


def token_ids(prompt: EncodedPrompt, row: Row) -> np.ndarray:
    """A sample's tokens behind its prompt's.

    Raises:
      RewardJaxError: its row has none.
    """
    if not row.token_ids:
        raise RewardJaxError(
            f"completions.jsonl: prompt {row.prompt_index}, sample {row.sample_index} has no"
            " token_ids; delete the file to sample again"
        )
    return np.array([*prompt.token_ids, *row.token_ids], np.int32)


def score(path: Path, rows: Sequence[Row], reward: Reward) -> Float32[np.ndarray, "N"]:
    """Write each row with its reward; those that the file has already are left. All rewards.

    Raises:
      RewardJaxError: the file holds other texts, or rewards of something else.
    """
    rewards = _recover(path, rows, reward.version)
    done = len(rewards)
    with path.open("ab") as file, bar("scoring", len(rows), done=done) as advance:
        for start in range(done, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            values = reward.score(part).tolist()
            lines = [
                json.dumps(_scored(row, value, reward.version), ensure_ascii=False) + "\n"
                for row, value in zip(part, values, strict=True)
            ]
            file.write("".join(lines).encode("utf-8"))
            file.flush()
            rewards += values
            advance(len(part))
    return np.array(rewards, np.float32)


def _scored(row: Row, reward: float, version: str) -> dict[str, object]:
    return {
        "prompt": row.prompt,
        "completion": row.text,
        "reward": reward,
        "token_ids": row.token_ids,
        "prompt_index": row.prompt_index,
        "sample_index": row.sample_index,
        "scorer": version,
    }


def _recover(path: Path, rows: Sequence[Row], version: str) -> list[float]:
    """Cuts off what a kill left of a block; the rewards before it."""
    if not path.exists():
        return []
    sizes, rewards = [0], []
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                found = json_object(line.decode("utf-8"))
                wanted = _scored(rows[number - 1], found.get("reward"), version)  # pyright: ignore
            except (ValueError, IndexError):
                found, wanted = {}, {"scorer": None}
            value = found.get("reward")
            if found != wanted or not (isinstance(value, int | float) and abs(value) < _HUGE):
                was = found.get("scorer")
                raise RewardJaxError(
                    f"{path}:{number}: not the text that is to be scored there, or scored by"
                    f" {short(was)} and not by {short(version)}; delete {str(path)!r} to score"
                    " again"
                )
            sizes.append(sizes[-1] + len(line))
            rewards.append(float(value))
        whole = len(sizes) - 1
        # Whole blocks: a scorer may see what else is in its list.
        done = whole if whole == len(rows) else whole - whole % BLOCK
        file.truncate(sizes[done])
    return rewards[:done]
