"""Plots: the SVG is well formed, holds the numbers it was given, and points nowhere outside."""

import re
import xml.etree.ElementTree as ET

import pytest

from rewardjax.metrics.bootstrap import Interval
from rewardjax.report.plots import TradeoffPoint, curves, tradeoff


def point(beta, rate, perplexity=None):
    around = None if perplexity is None else Interval(perplexity, perplexity - 1, perplexity + 2, 9)
    rates = {"vader": Interval(rate, rate - 0.1, rate + 0.1, 9), "<b>": Interval(0.5, 0.4, 0.6, 9)}
    return TradeoffPoint(beta, rates, around)


POINTS = [point(40.0, 0.9, 30.0), point(-40.0, 0.1, 35.0), point(0.0, 0.5, 12.0)]


def words(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter("text")]


def line_heights(svg):
    """Marker positions of every drawn series, as lists of (x, y)."""
    groups = [g for g in ET.fromstring(svg).iter("g") if "line2d" in g.get("id", "")]
    found = [[(float(u.get("x")), float(u.get("y"))) for u in g.iter("use")] for g in groups]
    return [points for points in found if len(points) == len(POINTS)]


def test_tradeoff_shows_what_it_was_given():
    svg = tradeoff(POINTS, perplexity_name="self-perplexity")
    text = words(svg)
    assert {"vader", "<b>", "positive rate", "−40", "0", "40", "β=40", "β=−40"} <= set(text)
    assert text.count("self-perplexity") == 2
    # Sorted by β, the positive rate rises from left to right (SVG's y grows downwards).
    rate = next(p for p in line_heights(svg) if len({y for _, y in p}) == 3)
    assert [x for x, _ in rate] == sorted(x for x, _ in rate)
    assert [y for _, y in rate] == sorted((y for _, y in rate), reverse=True)


def test_tradeoff_without_perplexity():
    text = words(tradeoff([point(0.0, 0.5), point(10.0, 0.8)]))
    assert "positive rate" in text
    assert "perplexity" not in text


def test_one_point_is_enough():
    assert "0" in words(tradeoff([point(0.0, 0.5, 3.0)]))


@pytest.mark.parametrize(
    "svg", [tradeoff(POINTS), curves({"a": ([0.0, 1.0], [2.0, 3.0])}, title="t")]
)
def test_self_contained_and_themed(svg):
    assert "http" not in svg
    assert "<style" not in svg
    assert not re.findall(r'(?:href|src)="(?!#)', svg)
    assert "var(--series-1" in svg
    # No stand-in colour is left: what is written must be a variable with its fallback.
    assert not re.search(r"(?<!, )#[0-9a-f]{6}", svg)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg):
        assert (target[0] or target[1]) in ids


def test_plots_of_one_page_share_no_id():
    first = curves({"a": ([0.0, 1.0], [2.0, 3.0])}, title="t", prefix="one")
    second = curves({"a": ([0.0, 1.0], [2.0, 3.0])}, title="t", prefix="two")
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]


def test_same_input_same_bytes():
    assert tradeoff(POINTS) == tradeoff(POINTS)


def test_curves():
    noisy = [((-1) ** i) * 0.5 + 1 for i in range(101)]
    svg = curves(
        {
            "training": ([float(i) for i in range(101)], noisy),
            "held-out": ([0.0, 100.0], [1.0, 0.9]),
        },
        title="loss <per text>",
        x_label="step",
        y_label="squared error",
    )
    assert {"training", "held-out", "step", "squared error", "loss <per text>"} <= set(words(svg))
    assert "opacity: 0.28" in svg  # the raw noisy line, faint
    eight = curves({str(i): ([0.0, 1.0], [0.0, i]) for i in range(8)}, title="eight")
    assert all(eight.count(f"var(--series-{i + 1},") >= 2 for i in range(8))  # line and marker
    with pytest.raises(ValueError, match="at most 8"):
        curves({str(i): ([0.0], [0.0]) for i in range(9)}, title="too many")
