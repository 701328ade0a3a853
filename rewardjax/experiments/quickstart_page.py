"""The quickstart's samples on the terminal and its report page."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import rewardjax as rj
from rewardjax.data.generations import Row
from rewardjax.data.vader import load_vader_ratings
from rewardjax.experiments.quickstart import HEADLINE, PERPLEXITY, Outcome, label
from rewardjax.lm import LM
from rewardjax.metrics.evaluation import Metric, count_text
from rewardjax.report import html
from rewardjax.report.metrics import metrics_table
from rewardjax.report.plots import TradeoffPoint, curves, tradeoff
from rewardjax.text import continuation_text, encode_text

SHOWN = 3
"""Prompts whose samples are shown."""
COLOURS = ("bold red", "red", "default", "green", "bold green")
"""Of a token on the terminal, from the lowest to the highest fifth of the rewards."""


def print_samples(outcome: Outcome) -> None:
    """Three prompts with one sample each, guided up, unguided and guided down, side by side."""
    console = Console(highlight=False)
    low, high = _scale(outcome)
    for prompt, columns in _side_by_side(outcome):
        panels = []
        for beta, row in columns:
            text = Text(prompt, "dim")
            for piece, reward in _tokens(outcome.lm, row):
                place = 2 if reward is None else int(5 * (reward - low) / (high - low))
                text.append(piece, COLOURS[min(4, max(0, place))])
            panels.append(Panel(text, title=label(beta), width=max(24, console.width // 3 - 1)))
        console.print(Columns(panels))


def write(outcome: Outcome) -> Path:
    """Writes report.html beside the results and returns its path."""
    config, metrics = outcome.config, outcome.metrics
    trained = outcome.history[0]["data/train_texts"]
    up, plain, down = (metrics[b] for b in (config.beta, 0.0, -config.beta))
    numbers = [
        _number("positive rate, guided up (VADER)", up[HEADLINE]),
        _number("unguided", plain[HEADLINE]),
        _number("guided down", down[HEADLINE]),
        _number(f"{PERPLEXITY}, guided up", up[PERPLEXITY]),
        _number("unguided", plain[PERPLEXITY]),
    ]
    scorers = [key for key in plain if key.endswith(".positive_rate")]
    points = [
        TradeoffPoint(
            beta,
            {key.split(".")[0]: values[key].interval for key in scorers},
            values[PERPLEXITY].interval,
        )
        for beta, values in metrics.items()
    ]
    counts = {label(beta): count_text(rows) for beta, rows in outcome.rows.items()}
    table = metrics_table({label(beta): metrics[beta] for beta in reversed(metrics)}, counts=counts)
    scale = _scale(outcome)
    sections = [
        (
            "What guidance does",
            html.figure(
                tradeoff(points, perplexity_name=PERPLEXITY),
                f"{len(metrics)} strengths, {config.num_prompts} prompts × {config.num_samples}"
                " samples. Bars are 95% bootstrap intervals over prompts. The perplexity is under"
                " the steered model itself, unguided: a self-perplexity, not an independent one.",
            ),
        ),
        ("All numbers", html.table(table)),
        ("Samples side by side", html.samples(_samples(outcome), scale=scale)),
        ("The reward head at work", _held_out_texts(outcome, scale)),
        ("Training", _training(outcome)),
        ("Settings and versions", _settings(outcome)),
    ]
    page = html.Page(
        f"Steering {config.lm} towards positive text",
        f"A linear reward head was trained on {trained:,} texts with human sentiment ratings,"
        " on top of the frozen model's own hidden states. It then steered the model on"
        f" {config.num_prompts} prompts: up, not at all, and down. Everything here was measured on"
        f" one machine in {sum(outcome.seconds.values()):.0f} s.",
        numbers,
        sections,
        f"Made by rewardjax {outcome.versions['rewardjax']}.",
    )
    return html.write_page(page, outcome.folder / "report.html")


def _number(name: str, metric: Metric) -> html.KeyNumber:
    value = metric.interval
    return html.KeyNumber(name, f"{value.value:.2f}", f"{value.low:.2f} to {value.high:.2f}")


def _side_by_side(outcome: Outcome) -> list[tuple[str, list[tuple[float, Row]]]]:
    """The first prompts, each with its first sample at the three strengths: none is picked."""
    betas = (outcome.config.beta, 0.0, -outcome.config.beta)
    first = {b: [row for row in outcome.rows[b] if row.sample_index == 0] for b in betas}
    prompts = first[0.0][:SHOWN]
    return [
        (row.prompt, [(beta, first[beta][i]) for beta in betas]) for i, row in enumerate(prompts)
    ]


def _samples(outcome: Outcome) -> list[tuple[str, list[html.Sample]]]:
    return [
        (
            prompt,
            [
                html.Sample(
                    label(beta),
                    _tokens(outcome.lm, row),
                    f"mean reward {np.mean(row.rewards):.2f}" if row.rewards else "",
                    "up" if beta > 0 else "down" if beta < 0 else "none",
                )
                for beta, row in columns
            ],
        )
        for prompt, columns in _side_by_side(outcome)
    ]


def _tokens(lm: LM, row: Row) -> list[tuple[str, float | None]]:
    """Pieces of a continuation, cut where its tokens end, with their rewards."""
    ids = row.token_ids or []
    texts = [continuation_text(lm, [], ids[:n]) for n in range(len(ids) + 1)]
    # A character whose bytes end in a later token is shown with that token.
    whole = [texts[-1].startswith(text) for text in texts]
    cuts = [
        max(len(t) for t, ok in zip(texts[: n + 1], whole, strict=False) if ok)
        for n in range(len(texts))
    ]
    pieces = [texts[-1][before:after] for before, after in itertools.pairwise(cuts)]
    rewards = [reward[0] for reward in row.rewards or []]
    return list(zip(pieces, rewards, strict=True))


def _scale(outcome: Outcome) -> tuple[float, float]:
    """The middle 90% of the rewards of all texts: where colours run from one end to the other."""
    rewards = [r[0] for rows in outcome.rows.values() for row in rows for r in row.rewards or []]
    low, high = np.percentile(rewards, [5, 95])
    return float(low), float(max(high, low + 1e-6))


def _held_out_texts(outcome: Outcome, scale: tuple[float, float]) -> str:
    """Rated texts that the training never saw, with the head's reward of every token."""
    config, lm = outcome.config, outcome.lm
    reward_model = rj.load_reward_model(outcome.folder / "train" / "reward_model")
    ratings = load_vader_ratings()
    order = np.random.default_rng(config.seed).permutation(len(ratings.texts))[config.texts :]
    chosen = [i for i in order if 40 <= len(ratings.texts[i]) <= 160][:6]
    chosen.sort(key=lambda i: -ratings.ratings[i])
    texts = [ratings.texts[i] for i in chosen]
    shown = []
    for i, text, rewards in zip(chosen, texts, rj.reward(lm, reward_model, texts), strict=True):
        tokens = [
            (piece, None if np.isnan(reward[0]) else float(reward[0]))
            for piece, reward in zip(text_pieces(lm, text), rewards, strict=True)
        ]
        note = f"human rating {ratings.ratings[i]:.2f}, reward at the end {rewards[-1][0]:.2f}"
        shown.append(html.Highlighted(tokens, note))
    return html.paragraph(
        "Rated texts that the head never saw. A token's colour is the reward of the text up to and"
        " including it; the first token has none, since nothing was read before it."
    ) + html.highlighted_texts(shown, scale=scale)


def text_pieces(lm: LM, text: str) -> list[str]:
    """The text cut where its tokens end; together the pieces are the text."""
    offsets = lm.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ends = [0, *(end for _, end in offsets)]
    assert len(offsets) == len(encode_text(lm, text))
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def _training(outcome: Outcome) -> str:
    series = {}
    for name, shown in (("train/loss", "training loss"), ("eval/squared_error", "held-out")):
        rows = [row for row in outcome.history if row.get(name) is not None]
        series[shown] = ([row["step"] for row in rows], [row[name] for row in rows])
    last = next(row for row in reversed(outcome.history) if "eval/squared_error" in row)
    caption = (
        "Cumulative squared error of each training batch (without the prior regulariser), and the"
        " squared error at the last token of the held-out texts, finally"
        f" {_known(last, 'eval/squared_error')} (Pearson {_known(last, 'eval/pearson')}, Spearman"
        f" {_known(last, 'eval/spearman')})."
    )
    svg = curves(series, title="squared error", prefix="training")
    return html.figure(svg, caption, narrow=True)


def _known(row: dict, name: str) -> str:
    return "unknown" if row.get(name) is None else f"{row[name]:.3f}"


def _settings(outcome: Outcome) -> str:
    config, sizes = outcome.config, outcome.history[0]
    facts = {
        "Run": {
            "language model": config.lm,
            "reward model": f"ARM on layer {config.layer}",
            "texts to train on": f"{sizes['data/train_texts']:,} (Hutto & Gilbert, ICWSM 2014)",
            "texts held out": f"{sizes['data/eval_texts']:,}",
            "samples": f"{config.num_prompts} prompts × {config.num_samples}",
            "seed": str(config.seed),
            **{f"time: {stage}": f"{s:.0f} s" for stage, s in outcome.seconds.items()},
        },
        "Versions": outcome.versions,
    }
    return html.facts(facts) + html.code("\n".join(outcome.commands))
