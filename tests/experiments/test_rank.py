"""`rewardjax analyze rank` as typed: files of every kind in; JSON, page and table out; resume."""

import json
import re

import numpy as np
import pytest

from rewardjax.cli import main
from rewardjax.experiments import rank
from rewardjax.metrics.rank import ranks
from rewardjax.rewards import RewardModelConfig
from tests.trained import save_random

WORDS = [" the", " a", " good", " bad", " great", " film", " was", " is", " not", " I", " it"]


@pytest.fixture
def folder(tiny_lm, tmp_path, monkeypatch):
    """Two reward models and texts in three formats; the working directory."""
    monkeypatch.chdir(tmp_path)
    save_random(tmp_path / "arm", tiny_lm, RewardModelConfig("arm_rank", layer=2, rank=3))
    save_random(tmp_path / "rad", tiny_lm, RewardModelConfig("rad", "own", num_layers=1))
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(WORDS, int(rng.integers(3, 15)))) for _ in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(texts[:30]) + "\n")
    (tmp_path / "b.tsv").write_text("words\tlabel\n" + "".join(f"{t}\t1\n" for t in texts[30:]))
    lines = [json.dumps({"prompt": {"text": text}}) + "\n" for text in texts]
    (tmp_path / "c.jsonl").write_text("".join(lines))
    return tmp_path


def arguments(lm_dir, model, *rest):
    given = ["--lm", str(lm_dir), "--reward-model", model, "--out", "out"]
    return ["analyze", "rank", *given, *map(str, rest)]


def test_two_sets_of_an_arm(folder, tiny_lm_dir, capsys):
    argv = arguments(
        tiny_lm_dir, "arm", "--prefixes", "training=a.txt", "b.tsv", "--text-field", "words",
        "--num-prefixes", 40, "--batch-size", 16, "--keep-rows",
    )  # fmt: skip
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "2 × 40 prefixes × all 128 tokens; at best about" in printed
    assert "training: the raw rank keeps the parametrization's bound of 4" in printed
    assert "minus each row's mean" in printed

    found = json.loads((folder / "out" / "rank.json").read_text())
    assert found["command"].startswith("rewardjax analyze rank --lm ")
    assert {"jax", "numpy", "scipy", "rewardjax"} <= set(found["versions"])
    assert found["settings"]["seed"] == 0
    assert list(found["sets"]) == ["training", "b"]
    for i, values in enumerate(found["sets"].values()):
        assert (values["prefixes"], values["columns"], values["sampled"]) == (40, 128, False)
        assert values["within_bound"] is True
        assert values["texts"] == 30
        rows = np.fromfile(folder / "out" / "rows" / str(i) / "rows.f32", np.float32)
        s = np.linalg.svd(rows.reshape(40, 128).astype(np.float64), compute_uv=False)
        raw = values["analysis"]["raw"]
        np.testing.assert_allclose(raw["singular_values"], s, rtol=1e-6, atol=1e-8 * s[0])
        expected = ranks(s, (40, 128))
        assert raw["growth"][-1]["energy_rank"] == expected["energy_rank"]
        assert raw["growth"][-1]["numerical_rank"]["float32"] == 4
        assert values["analysis"]["centered"]["growth"][-1]["numerical_rank"]["float32"] == 3
        assert [step["rows"] for step in raw["growth"]] == [8, 16, 32, 40]

    page = (folder / "out" / "rank.html").read_text()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:|//)""", page)
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert "training, raw: 99% of the energy" in page


def test_a_sample_for_rad_with_its_check(folder, tiny_lm_dir, capsys):
    argv = arguments(
        tiny_lm_dir, "rad", "--prefixes", "c.jsonl", "--text-field", "prompt.text",
        "--num-prefixes", 12, "--columns", 96, "--check-prefixes", 5, "--dtype", "float32",
        "--chunk", 32,
    )  # fmt: skip
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "1 × 12 prefixes × 96 random tokens of 128" in printed
    assert "to check 5 prefixes with every token" in printed
    values = json.loads((folder / "out" / "rank.json").read_text())["sets"]["c"]
    assert (values["columns"], values["sampled"], values["bound"]) == (96, True, None)
    assert values["check_full"]["raw"]["shape"] == [5, 128]
    assert values["check_sample"]["raw"]["shape"] == [5, 96]
    page = (folder / "out" / "rank.html").read_text()
    assert page.count("<svg") == 3
    assert "c, raw: whole vocabulary" in page
    assert not (folder / "out" / "rows").exists()


def test_killed_and_resumed(folder, tiny_lm_dir, capsys, monkeypatch):
    argv = arguments(tiny_lm_dir, "arm", "--prefixes", "a.txt", "c.jsonl", "--num-prefixes", 20)
    argv += ["--text-field", "prompt.text"]
    write, done = rank.analyze_rank, []

    def killed(*positional, **named):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return write(*positional, **named)

    monkeypatch.setattr(rank, "analyze_rank", killed)
    assert main(argv) == 130
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(argv) == 2
    assert "holds an unfinished run; pass --resume to go on with it" in capsys.readouterr().err
    assert main([*argv, "--seed", "1", "--resume"]) == 2
    assert "cannot resume" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 0
    first = json.loads((folder / "out" / "rank.json").read_text())["sets"]
    assert main(argv) == 2
    assert "holds results; pass --overwrite" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0
    again = json.loads((folder / "out" / "rank.json").read_text())["sets"]
    for values in (*first.values(), *again.values()):
        del values["seconds"]
    assert first == again


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (["--prefixes", "gone.txt"], "'gone.txt' does not exist"),
        (["--prefixes", "b.tsv"], "column 'text' is missing"),
        (["--prefixes", "a.txt", "x=a.txt", "a.txt"], "the name 'a' is empty or stands twice"),
        (["--prefixes", "a.txt", "--num-prefixes", "4000"], "expected at least 4000: give more"),
        (["--prefixes", "a.txt", "--num-prefixes", "0"], "num_prefixes is 0"),
        (["--prefixes", "a.txt", "--columns", "some"], "expected auto, all, or a number"),
        (["--prefixes", "a.txt", "--output", "1"], "outputs 0 to 0"),
        (["--prefixes", "a.txt", "--max-tokens", "1"], "max_tokens is 1; expected 2 to 256"),
        (["--prefixes", "a.txt", "--seed", "-1"], "seed is -1"),
        (["--prefixes", "a.txt", "--dtype", "float16"], "float16"),
        (["--prefixes", "a.txt", "--reward-model", "."], "not a reward model directory"),
        ([], "--prefixes"),
    ],
)
def test_bad_input_is_one_line_and_loads_nothing(
    folder, tiny_lm_dir, capsys, monkeypatch, rest, expected
):
    monkeypatch.setattr("rewardjax.lm.OpenedLM.load", lambda self: pytest.fail("loaded weights"))
    before = sorted(path.name for path in folder.iterdir())
    assert main(arguments(tiny_lm_dir, "arm", "--num-prefixes", "9", *rest)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(path.name for path in folder.iterdir()) == before
