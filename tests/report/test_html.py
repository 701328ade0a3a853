"""The page: one file, no request, text escaped, rewards where they belong."""

import re
from html.parser import HTMLParser

import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.report import html as page
from rewardjax.report.html import Highlighted, KeyNumber, Page, Sample
from rewardjax.report.plots import curves
from rewardjax.report.table import Cell, Table

NASTY = "<script>alert('x')</script> & \"quotes\""


class Reader(HTMLParser):
    """Collects the text, the tags and the attributes, and checks that tags nest."""

    VOID = ("meta", "br", "path", "use")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def document():
    tokens = [("a ", None), ("good\n", 0.9), (NASTY, 0.2), ("\x00\ud800", 0.5)]
    table = Table((Cell(NASTY), Cell("b")), ((Cell("c"), Cell("1", "0 to 2")),), caption=NASTY)
    wide = Table(tuple(Cell(f"m{i}") for i in range(9)), ((*[Cell("v")] * 9,),))
    return page.render(
        Page(
            title=NASTY,
            summary="What was run.",
            numbers=[KeyNumber("positive rate", "0.88", "0.80 to 0.95")],
            sections=[
                ("Plot", page.figure(curves({"l": ([0.0, 1.0], [1.0, 0.0])}, title="loss"), NASTY)),
                ("Table", page.table(table) + page.table(wide)),
                ("Samples", page.samples([(NASTY, [Sample("up", tokens, "β = 4", "up")])])),
                ("Rewards", page.highlighted_texts([Highlighted(tokens, NASTY)])),
                ("Settings", page.facts({"Run": {"lm": NASTY}}) + page.code("a < b")),
            ],
            footer=NASTY,
        )
    )


def test_well_formed_and_escaped(document):
    reader = Reader(document)
    assert "script" not in reader.tags
    assert reader.text.count(NASTY) == 11
    assert "\x00" not in document
    assert reader.text.count("\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}") == 2
    document.encode("utf-8")


def test_no_request(document):
    assert "http" not in document
    assert "//" not in re.sub(r"/\*.*?\*/", "", document)
    assert "@import" not in document
    assert not re.search(r"url\((?!#)", document)
    names = {name for name, _ in Reader(document).attributes}
    assert not names & {"src", "srcset", "data", "action", "onclick", "onload"}
    assert not {"link", "iframe", "img", "object", "form"} & set(Reader(document).tags)


def test_follows_light_and_dark(document):
    assert "color-scheme: light dark" in document
    assert "prefers-color-scheme: dark" in document


def test_text_of_the_page(document):
    text = Reader(document).text
    for expected in ("What was run.", "0.88", "0.80 to 0.95", "β = 4", "a < b", "loss"):
        assert expected in text


def spans(fragment):
    return re.findall(r'class="t (.)" style="--a:([\d.]+)" title="([-\d.]+)">([^<]*)', fragment)


def test_highlight():
    tokens = [("a", 1.0), ("b", 0.5), ("c", 0.25), ("d", 7.0), ("e", -7.0)]
    assert spans(page.highlight(tokens)) == [
        ("p", "1.00", "1.000", "a"),
        ("p", "0.00", "0.500", "b"),
        ("n", "0.50", "0.250", "c"),
        ("p", "1.00", "7.000", "d"),
        ("n", "1.00", "-7.000", "e"),
    ]
    assert Reader(page.highlight(tokens)).text == "abcde"


def test_highlight_with_another_scale():
    got = spans(page.highlight([("a", 0.6), ("b", 0.45)], scale=(0.4, 0.6)))
    assert [span[:2] for span in got] == [("p", "1.00"), ("n", "0.50")]
    with pytest.raises(ValueError, match="low < high"):
        page.highlight([], scale=(1.0, 0.0))


def test_unscored_tokens_have_no_colour():
    fragment = page.highlight([("prompt", None), (" x", float("nan"))])
    assert spans(fragment) == []
    assert fragment.count('class="given"') == 2


def test_wide_tables_are_turned(document):
    assert re.search(r'<tr><th scope="row">m8</th><td>v</td></tr>', document)


def test_written_whole_or_not_at_all(tmp_path):
    value = Page("t", "s")
    path = page.write_page(value, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == page.render(value)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RewardJaxError, match="does not exist"):
        page.write_page(value, tmp_path / "nowhere" / "report.html")
    with pytest.raises(RewardJaxError, match="it is a folder"):
        page.write_page(value, tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    from rewardjax.report import write

    path = write.write_text(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write.write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
