"""One self-contained page: no script, no request, readable in light, dark and print.

A page is a list of sections; each section is made by one function here and is a fragment of
HTML in which all text is escaped. `render` puts them together.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from rewardjax.report.table import Table, to_html
from rewardjax.report.write import write_text

Tokens = Sequence[tuple[str, float | None]]
"""(text of a token, its reward), in order; None: not scored (a prompt, say)."""
Direction = Literal["up", "none", "down"]


@dataclasses.dataclass(frozen=True)
class KeyNumber:
    """A number to see first, what it is, and its interval or comparison."""

    label: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation of a prompt under one setting."""

    label: str
    tokens: Tokens
    note: str = ""
    direction: Direction = "none"


@dataclasses.dataclass(frozen=True)
class Highlighted:
    """A text to be shown with its tokens' rewards."""

    tokens: Tokens
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """What `render` needs; `sections` are (heading, fragment of HTML)."""

    title: str
    summary: str
    numbers: Sequence[KeyNumber] = ()
    sections: Sequence[tuple[str, str]] = ()
    footer: str = ""


def render(page: Page) -> str:
    """The whole document."""
    css = resources.files("rewardjax.report").joinpath("page.css").read_text(encoding="utf-8")
    numbers = "".join(
        f"<div><dt>{_escape(n.label)}</dt><dd>{_escape(n.value)}"
        + (f"<small>{_escape(n.note)}</small>" if n.note else "")
        + "</dd></div>\n"
        for n in page.numbers
    )
    numbers = f'<dl class="numbers">\n{numbers}</dl>\n' if numbers else ""
    sections = "".join(
        f"<section>\n<h2>{_escape(heading)}</h2>\n{fragment}\n</section>\n"
        for heading, fragment in page.sections
    )
    footer = f"<footer>{_escape(page.footer)}</footer>\n" if page.footer else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(page.title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{_escape(page.title)}</h1>\n<p class="lead">{_escape(page.summary)}</p>\n'
        f"</header>\n<main>\n{numbers}{sections}</main>\n{footer}</body>\n</html>\n"
    )


def write_page(page: Page, path: str | Path) -> Path:
    """Render to a file, which appears whole or not at all.

    Raises:
      RewardJaxError: the folder does not exist.
    """
    return write_text(path, render(page))


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{_escape(text)}</p>"


def code(text: str) -> str:
    """Commands or a listing, kept as typed."""
    return f"<pre><code>{_escape(text)}</code></pre>"


def details(summary: str, fragment: str) -> str:
    """A fragment that is folded away until asked for."""
    return f"<details><summary>{_escape(summary)}</summary>{fragment}</details>"


def figure(svg: str, caption: str = "", *, narrow: bool = False) -> str:
    """A plot of `report.plots` with a caption. `svg` is trusted: it is put in as it is."""
    words = f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    kind = ' class="narrow"' if narrow else ""
    return f"<figure{kind}>{svg}{words}</figure>"


def table(value: Table) -> str:
    """A table; one with more columns than the page has room for is turned on its side."""
    wide = len(value.columns) > 7 and len(value.columns) > len(value.rows) + 1
    return to_html(value.transposed() if wide else value)


def samples(
    groups: Iterable[tuple[str, Sequence[Sample]]],
    *,
    scale: tuple[float, float] | None = (0.0, 1.0),
) -> str:
    """Prompts, each with its continuations side by side, tokens coloured by reward.

    `scale` None: the tokens have no rewards, and no key to the colours is shown.
    """
    out = [legend(scale)] if scale else []
    scale = scale or (0.0, 1.0)
    for prompt, column in groups:
        cards = "".join(
            f'<div class="card {sample.direction}"><h3>{_escape(sample.label)}'
            f"<span>{_escape(sample.note)}</span></h3>"
            f'<p class="text">{highlight(sample.tokens, scale=scale)}</p></div>\n'
            for sample in column
        )
        out.append(
            f'<div class="sample"><p class="prompt">{_escape(prompt)}</p>\n'
            f'<div class="columns">\n{cards}</div></div>\n'
        )
    return "".join(out)


def highlighted_texts(
    texts: Sequence[Highlighted], *, scale: tuple[float, float] = (0.0, 1.0)
) -> str:
    """Texts one under the other, tokens coloured by reward, with the colours' key."""
    body = "".join(
        f'<p class="text">{highlight(text.tokens, scale=scale)}'
        + (f" <small>{_escape(text.note)}</small>" if text.note else "")
        + "</p>\n"
        for text in texts
    )
    return legend(scale) + body


def highlight(tokens: Tokens, *, scale: tuple[float, float] = (0.0, 1.0)) -> str:
    """Spans of text, blue above the middle of `scale` and orange (and dotted) below it.

    The reward itself is the span's tooltip. Values outside the scale take its end's colour.
    """
    low, high = scale
    if not low < high:
        raise ValueError(f"a colour scale from {low} to {high}; expected low < high")
    out = []
    for text, reward in tokens:
        shown = _escape(text)
        if reward is None or not math.isfinite(reward):
            out.append(f'<span class="given">{shown}</span>')
            continue
        place = min(1.0, max(-1.0, 2.0 * (reward - low) / (high - low) - 1.0))
        side = "p" if place >= 0 else "n"
        out.append(
            f'<span class="t {side}" style="--a:{abs(place):.2f}" title="{reward:.3f}">'
            f"{shown}</span>"
        )
    return "".join(out)


def legend(scale: tuple[float, float] = (0.0, 1.0)) -> str:
    """The key to the colours of `highlight`."""
    low, high = scale
    return (
        f'<p class="scale"><span>reward {low:.2g}</span><i></i><span>{high:.2g}</span>'
        "<span>hover over a token for its value</span></p>\n"
    )


def facts(groups: Mapping[str, Mapping[str, object]]) -> str:
    """Settings, versions and the like: heading → name → value."""
    columns = []
    for heading, pairs in groups.items():
        rows = "".join(
            f"<dt>{_escape(name)}</dt><dd>{_escape(value)}</dd>" for name, value in pairs.items()
        )
        columns.append(f"<section><h3>{_escape(heading)}</h3><dl>{rows}</dl></section>")
    return f'<div class="facts">{"".join(columns)}</div>'


# Control characters may not stand in HTML; a model can write any of them.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


def _escape(value: object) -> str:
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value).replace("\r\n", "\n"))
    return html.escape(text.replace("\r", "\n"))
