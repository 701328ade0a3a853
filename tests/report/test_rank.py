"""Figures and tables of rank analyses show the numbers they were given."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from rewardjax.metrics.rank_analysis import analyze_matrix
from rewardjax.metrics.rank_result import RankResult
from rewardjax.report.rank import controls_figure, growth_table, rank_figure, rank_table, ratio
from rewardjax.report.table import to_markdown


def result(rank, rows=40, columns=90):
    rng = np.random.default_rng(rank)
    matrix = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    return RankResult(analyze_matrix(matrix), 128, True, "float64", 0, 0, None)


RESULTS = {"RAD": result(20), "ARM r=4": result(4)}


def words(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter("text")]


def test_overlaid_models():
    parts = {name: found.analysis.raw for name, found in RESULTS.items()}
    svg = rank_figure(parts, bounds={"ARM r=4": 4, "RAD": None}, prefix="x")
    assert {"RAD", "ARM r=4", "singular values", "energy left out", "growth with N"} <= set(
        words(svg)
    )
    assert {"8", "16", "32", "40"} <= set(words(svg))
    assert "http" not in svg
    assert not re.search(r"(?<!, )#[0-9a-f]{6}", svg)  # no stand-in colour is left
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert all(name.startswith("x-") for name in ids)
    assert len(ids) == len(set(ids))


def test_eight_models_and_a_zero_matrix():
    part = RESULTS["RAD"].analysis.raw
    zero = analyze_matrix(np.zeros((9, 30))).raw
    eight = {**{str(i): part for i in range(7)}, "untrained": zero}
    assert "untrained" in words(rank_figure(eight))
    with pytest.raises(ValueError, match="9 spectra"):
        rank_figure({**eight, "one more": part})


def test_tables():
    table = rank_table(RESULTS, title="raw")
    headings = [column.value for column in table.columns]
    first = dict(zip(headings, table.rows[1], strict=True))
    assert first["N × columns"].value == "40 × 90"
    assert first["rank, float32"].value == first["rank, 1e-06"].value == "4"
    energy = RESULTS["ARM r=4"].analysis.raw.energy_rank
    assert [first[f"{share}%"].value for share in ("90", "95", "99", "99.9")] == [
        str(energy[share]) for share in ("0.9", "0.95", "0.99", "0.999")
    ]
    centred = rank_table(RESULTS, part="centered")
    assert centred.rows[1][headings.index("rank, float32")].value == "4"
    assert "NumPy's" in to_markdown(table)


def test_growth_table():
    parts = {"a": RESULTS["RAD"].analysis.raw, "b": result(3, rows=16).analysis.raw}
    table = growth_table(parts)
    assert [row[0].value for row in table.rows] == ["8", "16", "32", "40"]
    assert table.rows[0][1].note == "8 at 1e-3"
    assert table.rows[3][1].note == "20 at 1e-3"
    assert table.rows[1][2].note == "3 at 1e-3"
    assert table.rows[2][2].value == "–"


def test_controls_figure_draws_the_floor_and_every_seed():
    svg = controls_figure(
        5,
        {"identity": [(1, 0.6), (1, 0.61), (4, 0.0)], "triangle": [(1, 0.3), (1, 0.2), (4, 1e-12)]},
        {task: {"RAD": [1e-5, 1e-4]} for task in ("identity", "triangle")},
    )
    assert {"floor (n−r−1)/n", "RAD", "ARM of rank r, each seed"} <= set(words(svg))
    groups = [g for g in ET.fromstring(svg).iter("g") if "line2d" in g.get("id", "")]
    points = [[float(u.get("x")) for u in g.iter("use")] for g in groups]
    assert sum(len(xs) == 3 and len(set(xs)) == 2 for xs in points) == 2


def test_ratio():
    assert [ratio(x) for x in (0.0, 0.9, 0.00123, 4.2e-5)] == ["0", "0.9000", "0.0012", "4e-05"]
