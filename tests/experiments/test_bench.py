"""`rewardjax bench decode` on a tiny LM: the command, its pages, and what it refuses."""

import json
from functools import partial
from html import unescape

import pytest

from rewardjax.cli import main
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.bench import BenchConfig, check, machine, page, results, sweeps, tables
from rewardjax.experiments.bench.machine import prepare
from rewardjax.experiments.bench.targets import (
    CPU_TARGETS,
    bandwidth_share,
    rate_ratio,
    reached,
    share,
    step_ratio,
)
from rewardjax.report.table import to_markdown

CASES = ("unguided", "arm-own", "rad-own")


@pytest.fixture(scope="module")
def outcome(tiny_lm_dir, tmp_path_factory):
    """The command's folder and results."""
    out = tmp_path_factory.mktemp("bench") / "run"
    argv = ["bench", "decode", "--out", str(out), "--lm", str(tiny_lm_dir), "--repeats", "2"]
    argv += ["--batch-sizes", "2", "--candidates", "4", "--new-tokens", "3", "--threads", "1"]
    argv += ["--prompt-tokens", "5", "--cases", *CASES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "prepare", partial(prepare, width=64, megabytes=1))
        patch.setattr(sweeps, "CANDIDATES", (4,))
        patch.setattr(sweeps, "LENGTHS", (5,))
        patch.setattr(sweeps, "BY_CANDIDATES", ("arm-own",))
        patch.setattr(sweeps, "BY_LENGTH", ("arm-own",))
        assert main(argv) == 0
    return out, json.loads((out / "results.json").read_text())


def test_every_system_is_timed(outcome):
    _, found = outcome
    peers = ["torch-unguided", "torch-unguided-bfloat16", "torch-arm-own", "torch-rad-own"]
    assert [row["system"] for row in found["rows"]] == [*CASES, *peers]
    for row in found["rows"]:
        assert len(row["rounds"]) == 2
        assert all(one["steps"] > 0 and one["prompt"] > 0 for one in row["rounds"])
    assert set(found["parity"]) == {"unguided", "arm-own", "rad-own"}
    assert all(worst <= 1e-3 for worst in found["parity"].values())
    assert found["machine"]["torch_threads"] == 1
    assert set(found["sweeps"]) == {"k", "T"}


def test_counters_are_what_the_methods_cost(outcome):
    _, found = outcome
    read = {name: (c["lm_tokens"], c["rm_tokens"]) for name, c in found["counters"].items()}
    assert read == {"unguided": (1, 0), "arm-own": (1, 1), "rad-own": (1, 4)}
    for counted in found["counters"].values():
        assert counted["compilations"] > 0
        assert counted["compilations_other_settings"] == 0
        assert counted["transfers_per_block"] == 1


def test_pages_say_what_the_results_hold_and_no_path(outcome, tiny_lm_dir):
    out, found = outcome
    readme, report = ((out / name).read_text() for name in ("README.md", "report.html"))
    assert readme == page.readme(found)
    for text in (readme, report, (out / "results.json").read_text()):
        assert str(out) not in text
        assert str(tiny_lm_dir) not in text
        assert str(out.parent) not in text
    for table in (*tables.of_results(found), tables.of_limits(found)):
        assert to_markdown(table).strip() in readme
        for row in table.rows:
            assert row[0].value in unescape(report)
    assert "http" not in report.replace("http-equiv", "")
    assert (out / "cost.svg").read_text().startswith("<svg xmlns=")


def test_notes_are_put_in_without_measuring(outcome):
    out, found = outcome
    (out / "notes.md").write_text("## Gaps\n\nThe cache is copied <twice>.\n")
    assert main(["bench", "decode", "--out", str(out), "--page-only"]) == 0
    assert "The cache is copied <twice>." in (out / "README.md").read_text()
    assert "The cache is copied &lt;twice&gt;." in (out / "report.html").read_text()
    assert json.loads((out / "results.json").read_text()) == found
    (out / "notes.md").unlink()
    page.write(found, out)


def test_a_profile_is_put_in_too(outcome, tiny_lm_dir, monkeypatch):
    out, found = outcome
    monkeypatch.setattr(machine, "prepare", partial(prepare, width=64, megabytes=1))
    argv = ["bench", "profile", "--out", str(out), "--lm", str(tiny_lm_dir), "--repeats", "2"]
    assert main([*argv, "--batch-sizes", "1", "2", "--tokens", "9"]) == 0
    made = json.loads((out / "profile.json").read_text())
    for row, batch in zip(made["rows"], (1, 2), strict=True):
        assert row["batch"] == batch
        assert set(row["floors"]) == {"LM layers", "LM logits", "step"}
        assert set(row["seconds"]) == {*row["floors"], "products of the layers"}
        assert all(len(times) == 2 and min(times) > 0 for times in row["seconds"].values())
    table = to_markdown(tables.of_profile(made)).strip()
    assert table in (out / "README.md").read_text()
    assert str(tiny_lm_dir.parent) not in (out / "profile.json").read_text()
    (out / "profile.json").unlink()
    page.write(found, out)


def test_results_are_not_written_over_unasked(outcome, capsys):
    assert main(["bench", "decode", "--out", str(outcome[0])]) == 2
    assert "--overwrite" in capsys.readouterr().err


def results_of(**rounds):
    """Results at batch 2 with given (prompt, steps) seconds of 10 tokens each, by system."""
    rows = []
    for system, pairs in rounds.items():
        made = [{"prompt": prompt, "steps": steps, "count": 10} for prompt, steps in pairs]
        parts = {"LM": {"bytes": 100.0, "flops": 1.0}, "RM": {"bytes": 100.0, "flops": 1.0}}
        row = {"system": system.replace("_", "-"), "batch": 2, "new_tokens": 10, "rounds": made}
        rows.append(row | {"parts": parts, "floors": [0.05, 0.1, 0.2]})
    speeds = [(1.0, 1000.0), (1.0, 2000.0), (1.0, 4000.0)]
    machine = {"backend": "cpu"}
    return {"rows": rows, "rounds": {"2": speeds}, "machine": machine}


def test_ratios_are_medians_of_each_rounds_own():
    made = results_of(unguided=[(1, 1), (1, 2), (1, 4)], torch_unguided=[(1, 3), (2, 7), (1, 4)])
    # tokens/s: 20 / (prompt + steps) in each round; ratios 2, 3, 1
    assert rate_ratio(made, 2, "unguided", "torch-unguided") == pytest.approx(2.0)
    # steps/s: ratios 3, 3.5, 1
    assert step_ratio(made, 2, "unguided", "torch-unguided") == pytest.approx(3.0)
    row = made["rows"][0]
    # floors .05, .1, .2 over steps .1, .2, .4
    assert share(row) == pytest.approx(0.5)
    # 200 bytes over .1, .2, .4 s, over 1000, 2000, 4000 bytes/s: 2, .5, .125
    assert bandwidth_share(made, row) == pytest.approx(0.5)
    assert rate_ratio(made, 1, "unguided", "torch-unguided") is None


def test_a_target_reads_its_own_systems():
    made = results_of(
        unguided=[(1, 2)] * 3,
        torch_unguided=[(1, 5)] * 3,
        arm_base=[(1, 4)] * 3,
        arm_base_all=[(1, 8)] * 3,
        arm_own=[(1, 1)] * 3,
    )
    found = [reached(made, target, 2) for target in CPU_TARGETS]
    expected = [2.0, 0.5, 0.5, 1.0, None, 0.5]
    assert found == [None if x is None else pytest.approx(x) for x in expected]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"candidates": 0}, "candidates is 0; expected at least 1"),
        ({"repeats": 0}, "repeats is 0; expected at least 1"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
        ({"new_tokens": 1}, "new_tokens is 1; expected at least 2"),
        ({"batch_sizes": ()}, "batch_sizes is []; expected different integers"),
        ({"batch_sizes": (1, 1)}, "batch_sizes is [1, 1]; expected different integers"),
        ({"cases": ("rad-owm",)}, "did you mean 'rad-own'?"),
        ({"cases": ()}, "cases is []; expected different names"),
        ({"page_only": True}, "holds no results.json; run without --page-only"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path, setting, words):
    with pytest.raises(RewardJaxError) as error:
        check(BenchConfig(out=str(tmp_path / "out"), **setting))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_texts_longer_than_the_models_read_are_refused(tiny_lm_dir, tmp_path, capsys):
    argv = ["bench", "decode", "--out", str(tmp_path), "--lm", str(tiny_lm_dir), "--no-peers"]
    assert main([*argv, "--new-tokens", "300"]) == 2
    assert "texts of 316 tokens; expected at most 255" in capsys.readouterr().err
