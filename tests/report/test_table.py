"""The same table in the terminal, in Markdown and in HTML."""

import io

import pytest
from rich.console import Console

from rewardjax.report.table import (
    Cell,
    Table,
    interval,
    number,
    print_table,
    to_html,
    to_markdown,
)

TABLE = Table(
    columns=(Cell("setting", "n"), Cell("rate", "vader"), Cell("perplexity")),
    rows=(
        (Cell("up"), interval(0.5, 0.25, 0.75), Cell("1|2")),
        (Cell("<down>"), interval(float("nan"), 0.0, 1.0), Cell("12.0")),
    ),
    title="Results",
    caption="vaderSentiment 3.3.2",
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345, "0.123"),
        (0.0, "0.000"),
        (-0.00001, "0.000"),
        (-0.25, "-0.250"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (None, "–"),
    ],
)
def test_number(value, expected):
    assert number(value) == expected


def test_interval():
    assert interval(0.5, 0.25, 0.75) == Cell("0.500", "0.250 to 0.750")
    assert interval(None, None, None) == Cell("–")


def test_markdown():
    assert to_markdown(TABLE).splitlines() == [
        "**Results**",
        "",
        "| setting (n) | rate (vader) | perplexity |",
        "| --- | ---: | ---: |",
        r"| up | 0.500 (0.250 to 0.750) | 1\|2 |",
        "| <down> | – | 12.0 |",
        "",
        "vaderSentiment 3.3.2",
    ]


def test_html_is_escaped():
    text = to_html(TABLE)
    assert "&lt;down&gt;" in text
    assert "<down>" not in text
    assert "<td>0.500<small>0.250 to 0.750</small></td>" in text
    assert text.count("<tr>") == 3


def printed(width, terminal):
    out = io.StringIO()
    print_table(TABLE, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


def test_terminal():
    lines = printed(80, True).splitlines()
    assert any("setting" in line and "rate" in line for line in lines)
    assert any("vader" in line and "perplexity" in line for line in lines)
    assert any("0.250 to 0.750" in line for line in lines)
    assert lines[-1].rstrip() == "vaderSentiment 3.3.2"


def test_turned_on_its_side_when_too_wide():
    lines = printed(40, True).splitlines()
    assert any("rate" in line and "0.500" in line for line in lines)
    assert any("perplexity" in line and "12.0" in line for line in lines)
    assert all(len(line) <= 40 for line in lines)


def test_nothing_is_cut_in_a_pipe():
    assert any("vader" in line and "perplexity" in line for line in printed(20, False).splitlines())


def test_transposed_twice_is_itself():
    assert TABLE.transposed().transposed() == TABLE
    assert TABLE.transposed().rows[0][1].value == "0.500"


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        Table((Cell("a"),), ((Cell("b"), Cell("c")),))
