"""How an experiment was made: kept in its results, told on its page and in its README."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from rewardjax.config import to_plain
from rewardjax.experiments.settings import Experiment
from rewardjax.experiments.workspace import Workspace
from rewardjax.provenance import commit, machine, versions, without_paths
from rewardjax.report import html

Results = dict[str, Any]
OF_A_RUN = ("out", "publish", "hours", "estimate")
"""Settings that change no result."""


def record(work: Workspace, command: str) -> Results:
    """The part of `results.json` that every experiment has. `command`: as it was typed."""
    config, costs = work.config, work.record()
    settings = to_plain(config)
    for name in OF_A_RUN:
        del settings[name]
    return {
        "name": config.name,
        "question": config.question,
        "workspace": work.id,
        "command": public(config, command),
        "settings": public(config, settings),
        "inputs": work.inputs,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "seconds": round(sum(cost.get("seconds", 0.0) for cost in costs), 1),
        "cpu_seconds": round(sum(cost.get("cpu_seconds", 0.0) for cost in costs), 1),
        "commands": [public(config, cost["command"]) for cost in costs],
    }


def public(config: Experiment, value: Any) -> Any:
    """`value` with OUT for the workspace and file names for the paths of other files."""
    shown = {path: PurePath(path).name for path in config.inputs}
    return without_paths(value, shown | {config.out: "OUT", str(Path(config.out)): "OUT"})


def footer(results: Results) -> str:
    """By what, on what and in how long, in a sentence, and what it went on from."""
    every = [results, *reversed(results.get("earlier", ()))]
    return "Made by " + "; goes on from ".join(map(_made, every)) + "."


def _made(record: Results) -> str:
    return (
        f"rewardjax {record['versions']['rewardjax']}, commit {record['commit']}, on"
        f" {record['machine']['cpu']} ({record['machine']['cores']} cores) in"
        f" {record['seconds'] / 3600:.1f} h, CPU time {record['cpu_seconds'] / 3600:.1f} h"
    )


def sections(results: Results, protocol: str, facts: dict[str, str]) -> list[tuple[str, str]]:
    """The last two of a page: its command and every step's, and what it ran on.

    Args:
      protocol: n and seeds in words.
      facts: what else there is to say of the run, by name.
    """
    made = html.paragraph(protocol) + html.code(results["command"])
    every = [words for each in (*results.get("earlier", ()), results) for words in each["commands"]]
    made += html.details(f"The {len(every)} steps it ran", html.code("\n".join(every)))
    machine = results["machine"]
    run = facts | {
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "time": f"{results['seconds'] / 3600:.1f} h ({results['cpu_seconds'] / 3600:.1f} h of CPU)",
        "commit": results["commit"] or "unknown",
    }
    settings = html.facts({"Run": run, "Versions": results["versions"]})
    return [("How it was made", made), ("Settings and versions", settings)]


def readme(results: Results, unfinished: str, parts: list[str], protocol: str) -> str:
    """A whole README around its tables.

    Args:
      unfinished: what is missing, in words; shown unless the experiment is finished.
      parts: headings and tables in Markdown.
      protocol: n and seeds in words.
    """
    before = [f"# {results['name']}", results["question"], footer(results)]
    if not results["finished"]:
        before.append(f"**{unfinished}**")
    after = ["## How it was made", f"    {results['command']}", protocol]
    after += ["`report.html` has the figures and every command; `results.json` every number,"
              " with its n, seed and interval."]  # fmt: skip
    every = (*before, *parts, *after)
    return "\n\n".join(part.strip() for part in every if part) + "\n"
