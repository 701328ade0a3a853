"""`rewardjax analyze rank`: how many directions does a trained reward model use?

Prefixes of real texts give rows of its reward matrix; their spectrum, ranks and growth go to
rank.json, a page and a table. Several files are several sets, drawn together.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import Any

from rewardjax.config import parse, to_plain
from rewardjax.data.texts import read_texts
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.rank_cost import describe_cost
from rewardjax.experiments.rank_sets import RankConfig, cut_sets, named_files
from rewardjax.export import (
    TrainedRewardModel,
    architecture,
    load_reward_model,
)
from rewardjax.lm import LM, open_lm
from rewardjax.metrics.rank_analysis import (
    RankSettings,
    analyze_rank,
    check_settings,
    choose_columns,
    num_entries,
)
from rewardjax.metrics.rank_result import RankResult
from rewardjax.progress import bar, note
from rewardjax.provenance import versions
from rewardjax.report.rank import rank_table
from rewardjax.report.table import print_table
from rewardjax.report.write import write_text
from rewardjax.rewards import RewardModel


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the page is made of."""

    config: RankConfig
    results: dict[str, RankResult]
    """name of a set → what was found"""
    texts: dict[str, int]
    """name of a set → texts in its file"""
    reward_model: dict[str, Any]
    """as its config.json describes it"""
    lm: dict[str, str]
    command: str
    seconds: float
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """rank.json"""
        out: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("command", "versions", "lm", "reward_model", "seconds")
        }
        out["settings"] = to_plain(self.config)
        out["sets"] = {
            name: {"texts": self.texts[name], **result.to_dict()}
            for name, result in self.results.items()
        }
        return out


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        RankConfig,
        argv,
        prog="rewardjax analyze rank",
        description="Spectrum, ranks and energy of the rows of a trained reward matrix.",
    )
    outcome = run(config, " ".join(["rewardjax analyze rank", *map(shlex.quote, argv)]))
    from rewardjax.experiments.rank_page import write

    folder = Path(config.out)
    text = json.dumps(outcome.to_dict(), allow_nan=False) + "\n"
    page = write(outcome, folder / "rank.html")
    write_text(folder / "rank.json", text)
    print_table(rank_table(outcome.results, title="raw rewards"))
    print_table(rank_table(outcome.results, part="centered", title="minus each row's mean"))
    for name, result in outcome.results.items():
        if result.within_bound is not None:
            keeps = "keeps" if result.within_bound else "BREAKS"
            print(f"{name}: the raw rank {keeps} the parametrization's bound of {result.bound}")
    print(f"{outcome.seconds:.0f} s; report: {page}")
    return 0


def run(config: RankConfig, command: str = "") -> Outcome:
    """Reads, checks, prints the cost, computes. Rows lie in OUT/rows until the end."""
    began = time.monotonic()
    files = named_files(config.prefixes)
    texts = {
        name: read_texts(path, config.text_field, header=config.header)
        for name, path in files.items()
    }
    trained = load_reward_model(config.reward_model)
    opened = open_lm(config.lm, dtype=config.lm_dtype)
    model = architecture(trained.config, opened)
    settings = RankSettings(
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(RankSettings)}
    )
    check_settings(settings, trained.config.outputs)
    sets = cut_sets(config, opened, trained, texts)
    choose_columns(model, config.num_prefixes, config.columns, config.seed)
    folder = _claim(config)
    note(describe_cost(model, trained.transformer, sets, settings))
    lm = opened.load()
    results = _analyze(lm, trained, model, sets, settings, folder, config.resume)
    if not config.keep_rows:
        _remove(folder)
    return Outcome(
        config,
        results,
        {name: len(found) for name, found in texts.items()},
        {"folder": config.reward_model, **dataclasses.asdict(trained.config)},
        {"source": lm.source, "fingerprint": lm.fingerprint, "dtype": config.lm_dtype},
        command,
        round(time.monotonic() - began, 1),
        versions(),
    )


def _claim(config: RankConfig) -> Path:
    """OUT/rows, if nothing is in the way."""
    out = Path(config.out)
    rows = out / "rows"
    if out.exists() and not out.is_dir():
        raise RewardJaxError(f"--out {config.out!r} is a file; expected a folder")
    for path, what in ((out / "rank.json", "results"), (rows, "an unfinished run")):
        if path.exists() and not config.overwrite and not (config.resume and path == rows):
            raise RewardJaxError(
                f"{str(out)!r} holds {what}; pass"
                f" {'--resume to go on with it or ' * (path == rows)}--overwrite to start over"
            )
    if not config.resume:
        _remove(rows)
    rows.mkdir(parents=True, exist_ok=True)
    return rows


def _analyze(
    lm: LM,
    trained: TrainedRewardModel,
    model: RewardModel,
    sets: dict[str, list[tuple[int, ...]]],
    settings: RankSettings,
    folder: Path,
    resume: bool,
) -> dict[str, RankResult]:
    results = {}
    for i, (name, prefixes) in enumerate(sets.items()):
        if i:  # the sample is checked on the first set
            settings = dataclasses.replace(settings, check_prefixes=0)
        with bar(f"rewards, {name}", num_entries(model, len(prefixes), settings)) as advance:
            results[name] = analyze_rank(
                lm,
                trained,
                prefixes,
                settings,
                folder=folder / str(i),
                resume=resume,
                progress=advance,
            )
    return results


def _remove(folder: Path) -> None:
    """Removes rows and what says how far they got, and nothing else."""
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name.endswith((".f32", ".f32.json")):
            path.unlink()
    for path in (*sorted(folder.iterdir()), folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
