"""The selection experiment's figures, from its results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewardjax.experiments.selection.tables import losses
from rewardjax.experiments.settings import slug
from rewardjax.metrics.bootstrap import Interval
from rewardjax.report.comparison import sweep
from rewardjax.report.selection import Point, reward_curves

Results = dict[str, Any]
Task = dict[str, Any]
Figure = tuple[str, str, bool]
"""(SVG, caption, whether it is narrow)"""


def of_task(results: Results, task: Task) -> Iterator[Figure]:
    """Every figure of one task."""
    if not losses(results, task):
        return
    yield _by_k(results, task)
    yield _by_kl(results, task)
    if len(results["layers"]) > 1:
        yield _by_layer(results, task)
    if any(one["rewards"] for one in task["sizes"]):
        yield _by_size(results, task)
    if task["guided"]:
        yield _by_tokens(results, task)


def _by_k(results: Results, task: Task) -> Figure:
    lines = {rule["name"]: _points(rule["judges"][0]) for rule in losses(results, task)}
    for skyline in task["skylines"]:
        lines[f"best by {skyline['name']}"] = _points(skyline["judges"][0])
    svg = reward_curves(
        lines,
        x_label="k, completions to choose from",
        y_label=_reward(task),
        title=f"{task['name']}: reward against k",
        prefix=f"{slug(task['name'])}-k",
        ticks=results["settings"]["ks"],
        level=("random", _interval(task["base"][0])),
    )
    return svg, f"τ as chosen on held-out training prompts. {_bars(results, task)}", False


def _by_kl(results: Results, task: Task) -> Figure:
    """Along the grid of τ at the largest k; the choice of the best at every k stands beside."""
    lines = {}
    k = results["settings"]["ks"][-1]
    for rule in losses(results, task):
        points = [Point(one["kl"], _interval(one["reward"])) for one in rule["by_tau"]]
        lines[rule["name"]] = sorted(points, key=lambda point: point.x)
    for skyline in task["skylines"][:1]:
        lines[f"best by {skyline['name']}, k rising"] = [
            Point(results["bounds"][str(one["k"])], _interval(one["reward"]))
            for one in skyline["judges"][0]
        ]
    svg = reward_curves(
        lines,
        x_label="nats: log k − H(choice), which KL cannot exceed",
        y_label=_reward(task),
        title=f"{task['name']}: reward against KL from the LM, k = {k}",
        prefix=f"{slug(task['name'])}-kl",
        level=("random", _interval(task["base"][0])),
        mark=(f"bound log k − (k−1)/k, k = {k}", results["bounds"][str(k)]),
    )
    grid = ", ".join(f"{tau:g}" for tau in results["settings"]["taus"])
    caption = (
        f"Along a probe's line τ = {grid} deviations of Q within a prompt, the largest leftmost. KL"
        " is also at most the dotted bound, whatever the choice; the best of k stands at its"
        " bound for each k."
    )
    return svg, f"{caption} {_bars(results, task)}", False


def _by_layer(results: Results, task: Task) -> Figure:
    lines = {rule["name"]: rule["by_layer"] for rule in losses(results, task)}
    svg = sweep(
        results["layers"],
        {_at(results, task): lines},
        x_label="layer (0: embeddings)",
        title=f"{task['name']}: reward by layer",
        prefix=f"{slug(task['name'])}-layer",
        log=False,
    )
    return svg, f"Each layer with τ of its own. {_dots(results)}", True


def _by_size(results: Results, task: Task) -> Figure:
    sizes = sorted({one["prompts"] for one in task["sizes"]})
    found = {(one["name"], one["prompts"]): one["rewards"] for one in task["sizes"]}
    names = dict.fromkeys(one["name"] for one in task["sizes"])
    lines = {name: [found[name, size] for size in sizes] for name in names}
    svg = sweep(
        sizes,
        {_at(results, task): lines},
        x_label="training prompts",
        title=f"{task['name']}: reward by training prompts",
        prefix=f"{slug(task['name'])}-size",
    )
    return svg, f"{task['train']['samples']} completions of each prompt. {_dots(results)}", True


def _by_tokens(results: Results, task: Task) -> Figure:
    """What an LM token buys: choosing costs k of them, guidance one, both together k."""
    lines = {
        f"{rule['name']} among k": _points(rule["judges"][0]) for rule in losses(results, task)
    }
    for one in task["guided"]:
        points = [Point(1, _interval(one["judges"][0]))]
        points += _points(one["chosen"][0])[1:] if one["chosen"] else []
        lines[f"{one['name']}, β = {one['beta']:g}, then {one['chooser']}"] = points
    svg = reward_curves(
        lines,
        x_label="LM tokens per token of output",
        y_label=_reward(task),
        title=f"{task['name']}: reward per LM token",
        prefix=f"{slug(task['name'])}-tokens",
        ticks=results["settings"]["ks"],
        level=("the LM alone", _interval(task["base"][0])),
    )
    caption = "At 1: guidance alone; further right, choosing among k guided completions."
    return svg, f"{caption} {_bars(results, task)}", False


def _points(by_k: list[dict[str, Any]]) -> list[Point]:
    return [Point(one["k"], _interval(one["reward"])) for one in by_k]


def _interval(found: dict[str, Any]) -> Interval:
    return Interval(found["value"], found["low"], found["high"], found["n"])


def _reward(task: Task) -> str:
    return f"expected reward ({task['judges'][0]['name']})"


def _at(results: Results, task: Task) -> str:
    return f"{_reward(task)}, k = {results['settings']['sweep_k']}"


def _bars(results: Results, task: Task) -> str:
    seeds = len(results["settings"]["seeds"])
    return (
        f"Bars: 95% bootstrap intervals over {task['test']['prompts']} test prompts; probes of"
        f" {seeds} seeds, averaged for each prompt."
    )


def _dots(results: Results) -> str:
    return f"Dots: each of {len(results['settings']['seeds'])} seeds; lines: their means."
