"""`rewardjax evaluate`: numbers against hand counts, the JSON and table, and every bad input."""

import gzip
import io
import json
import os
import sys

import numpy as np
import pytest

import rewardjax as rj
from rewardjax.cli import main as cli
from rewardjax.data.generations import Row, group_by_prompt, read_rows
from rewardjax.errors import RewardJaxError
from rewardjax.metrics.evaluation import evaluate
from rewardjax.metrics.scorers import Scorer

GOOD, BAD = " was wonderful and great", " was awful, terrible trash"


def row(prompt=0, sample=0, text=GOOD, **more):
    return {
        "prompt": ["The film", "It"][prompt % 2],
        "text": text,
        "prompt_index": prompt,
        "sample_index": sample,
        "rewards": [[0.25], [0.75]],
        "kl": [0.5, 1.5],
        **more,
    }


ROWS = [row(0, 0), row(0, 1, BAD), row(1, 0), row(1, 1, kl=[1.0], rewards=[[1.0]])]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(value) + "\n" for value in rows), encoding="utf-8")
    return str(path)


def run(capsys, *argv):
    code = cli(["evaluate", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def count_bad(texts):
    return [1.0 if "trash" in text else 0.0 for text in texts]


def length(texts):
    return [float(len(text)) for text in texts]


def test_values_by_hand():
    rows = [Row(r["prompt"], r["text"], r["prompt_index"], r["sample_index"]) for r in ROWS]
    scorers = [
        Scorer("tox", "tox 1", "toxicity", count_bad),
        Scorer("mood", "mood 2", "sentiment", lambda texts: [0.5 - x for x in count_bad(texts)]),
        Scorer("len", "len 3", "score", length),
    ]
    got = evaluate(rows, scorers)
    expected = {
        "tox.average_max_toxicity": 0.5,
        "tox.toxic_rate": 0.5,
        "tox.mean_score": 0.25,
        "mood.positive_rate": 0.75,
        "mood.neutral_rate": 0.0,
        "mood.mean_score": 0.25,
        "len.mean_score": np.mean([len(r["text"]) for r in ROWS]),
    }
    for key, value in expected.items():
        assert got[key].interval.value == pytest.approx(value), key
        assert got[key].interval.n == 2
    assert got["tox.toxic_rate"].version == "tox 1"
    assert "reward" not in got
    assert "kl" not in got


def test_what_each_kind_of_scorer_reads():
    seen = {}

    def spy(kind):
        def score(texts):
            seen[kind] = texts
            return length(texts)

        return Scorer(kind, "1", kind, score)

    evaluate([Row("The", " end", 0, 0)], [spy("sentiment"), spy("toxicity"), spy("score")])
    assert seen == {"sentiment": ["The end"], "toxicity": [" end"], "score": [" end"]}


def test_rewards_and_kl_are_means_over_tokens(tmp_path):
    got = evaluate(read_rows(write(tmp_path / "a.jsonl")), [])
    assert got["reward"].interval.value == pytest.approx((3 * 1.0 + 1.0) / 7)
    assert got["last_reward"].interval.value == pytest.approx((0.75 * 3 + 1.0) / 4)
    assert got["kl"].interval.value == pytest.approx((3 * 2.0 + 1.0) / 7)
    # Prompts hold 4 and 3 tokens: resampling them may give either prompt alone, nothing beyond.
    assert got["kl"].interval.low == pytest.approx(1.0)
    assert got["kl"].interval.high == pytest.approx(1.0)


def test_every_output_of_a_reward_model_is_reported(tmp_path):
    rows = [row(rewards=[[0.0, 1.0], [0.5, 0.0]])]
    got = evaluate(read_rows(write(tmp_path / "a.jsonl", rows)), [])
    assert got["reward[0]"].interval.value == 0.25
    assert got["reward[1]"].interval.value == 0.5
    assert got["last_reward[1]"].interval.value == 0.0


def test_perplexity_is_that_of_the_continuation(tiny_lm):
    prompt, texts = "a good film", [" was great", " is not it", ""]
    rows = [Row(prompt, text, 0, i) for i, text in enumerate(texts)]
    got = evaluate(rows, [], lm=tiny_lm, perplexity_name="self-perplexity")["self-perplexity"]
    expected = []
    for text in texts[:2]:
        ids = [tiny_lm.tokenizer(prompt + text)["input_ids"]]
        start = len(tiny_lm.tokenizer(prompt)["input_ids"])
        logits = np.asarray(tiny_lm.logits(ids, [len(ids[0])])[0], np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nll = [-logp[t - 1, ids[0][t]] for t in range(start, len(ids[0]))]
        expected.append(np.exp(np.mean(nll)))
    kept = [value for value in expected if value < 1e5]
    assert got.interval.value == pytest.approx(np.mean(kept), rel=1e-3)
    assert got.left_out == {"dropped": 2 - len(kept), "undefined": 1}
    assert got.scorer == tiny_lm.source
    assert tiny_lm.fingerprint[:12] in got.version


def test_command_writes_json_and_prints_a_table(tmp_path, capsys):
    first, second = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", ROWS[:1])
    out = tmp_path / "results.json"
    code, printed, err = run(capsys, first, second, "--out", out)
    assert (code, err) == (0, "")
    record = json.loads(out.read_text())
    assert [file["file"] for file in record["files"]] == [first, second]
    assert [file["continuations"] for file in record["files"]] == [4, 1]
    metrics = record["files"][0]["metrics"]
    assert metrics["vader.positive_rate"]["value"] == 0.75
    assert metrics["vader.positive_rate"]["version"] == "vaderSentiment 3.3.2"
    for name, metric in metrics.items():
        assert metric["low"] <= metric["value"] <= metric["high"], name
        assert metric["scorer"], name
        assert metric["version"], name
    for expected in (
        "positive rate",
        "vader",
        "textblob",
        "alt-profanity-check",
        "2 × 2",
        "dist-1",
    ):
        assert expected in printed
    assert "vaderSentiment 3.3.2" in printed


def test_perplexity_from_the_command_line(tmp_path, capsys, tiny_lm_dir):
    rows = write(tmp_path / "a.jsonl", [row(), row(0, 1, "")])
    out = ["--scorers", "vader", "--perplexity-lm", tiny_lm_dir, "--out", "-"]
    code, printed, err = run(capsys, rows, *out)
    assert (code, err) == (0, "")
    metric = json.loads(printed)["files"][0]["metrics"]["perplexity"]
    assert metric["scorer"] == str(tiny_lm_dir)
    assert metric["undefined"] == 1
    assert metric["dropped"] in (0, 1)


def test_the_same_numbers_every_time_and_another_seed_others(tmp_path, capsys):
    many = [row(i, 0, [GOOD, BAD][i % 3 == 0], kl=[i / 7]) for i in range(20)]
    rows = write(tmp_path / "a.jsonl", many)

    def intervals(*more):
        printed = run(capsys, rows, "--scorers", "vader", "--out", "-", *more)[1]
        return json.loads(printed)["files"][0]["metrics"]

    assert intervals() == intervals()
    assert intervals()["kl"]["low"] != intervals("--seed", "1")["kl"]["low"]
    wide, narrow = intervals("--level", "0.99")["kl"], intervals("--level", "0.5")["kl"]
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_order_of_the_rows_does_not_matter(tmp_path):
    straight = read_rows(write(tmp_path / "a.jsonl"))
    turned = read_rows(write(tmp_path / "b.jsonl", ROWS[::-1]))
    assert group_by_prompt(straight) == group_by_prompt(turned)


def test_reads_gzip_and_standard_input(tmp_path, monkeypatch):
    plain = write(tmp_path / "a.jsonl")
    data = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + data + b"\n")))
    assert read_rows(plain) == read_rows(tmp_path / "a.jsonl.gz") == read_rows("-")


def test_rows_without_rewards_or_kl(tmp_path):
    rows = [row(rewards=[[], []], kl=None), row(0, 1, rewards=None)]
    got = evaluate(read_rows(write(tmp_path / "a.jsonl", rows)), [])
    assert "reward" not in got
    assert "kl" not in got
    assert "dist-1" in got


BAD_LINES = {
    "{": "not JSON",
    "[1]": "a JSON list; expected an object",
    json.dumps({"prompt": "a", "text": "b", "prompt_index": 0}): "no field 'sample_index'",
    json.dumps(row(5, 0, text=7)): "text is 7; expected a string",
    json.dumps(row(5, 0) | {"prompt": None}): "prompt is None; expected a string",
    json.dumps(row(5, 0) | {"prompt_index": True}): "prompt_index is True; expected an integer",
    json.dumps(row(5, 0) | {"sample_index": -1}): "sample_index is -1; expected an integer ≥ 0",
    json.dumps(row(5, 0, token_ids=[1.5])): "token_ids is [1.5]; expected a list of integers",
    json.dumps(row(5, 0, kl=["x"])): "expected a list of finite numbers",
    json.dumps(row(5, 0, kl=[float("nan")])): "expected a list of finite numbers",
    json.dumps(row(5, 0, kl=[10**400])): "expected a list of finite numbers",
    json.dumps(row(5, 0)).replace("0.5", "9" * 5000): "endless number",
    json.dumps(row(5, 0, text="\ud83d")): "text holds half a surrogate pair",
    json.dumps(row(5, 0, rewards=[0.5])): "equally long lists",
    json.dumps(row(5, 0, rewards=[[0.5], [0.5, 0.5]])): "equally long lists",
    json.dumps(row(0, 0)): "is on line 1 already",
    json.dumps(row(0, 7) | {"prompt": "Another"}): "another prompt than line 1",
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items())
def test_bad_line_is_named(tmp_path, capsys, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n\n" + line + "\n")
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"rewardjax: error: {path}:3: ")
    assert message in err
    assert err.count("\n") == 1


def bad_file(folder, kind):
    path = folder / "rows.jsonl"
    content = {
        "empty": b"",
        "blank": b"\n\n",
        "binary": b"\x7fELF\x00\x01",
        "latin-1": '{"prompt": "caf\xe9"}'.encode("latin-1"),
        "damaged gzip": gzip.compress(json.dumps(row()).encode() * 50, mtime=0)[:-12],
    }
    if kind == "damaged gzip":
        path = folder / "rows.jsonl.gz"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("blank", "holds no row"),
        ("binary", "binary data"),
        ("latin-1", "not UTF-8"),
        ("damaged gzip", "damaged gzip"),
    ],
)
def test_bad_file_is_named(tmp_path, capsys, kind, message):
    path = bad_file(tmp_path, kind)
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "")
    assert str(path) in err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scorers", "vadr"], "did you mean 'vader'"),
        (["--out", "nowhere/results.json"], "folder 'nowhere' does not exist"),
        (["--level", "95"], "level between 0 and 1"),
        (["--resamples", "0"], "1 to 1000000 resamples"),
        (["--resamples", "many"], "--resamples: got 'many', expected an integer"),
        (["--seed", "-1"], "a seed of at least 0"),
        (["--scorers", ":f"], "'' is no module's name"),
        (["--scorers", ".a:f"], "'.a' is no module's name"),
        (["--scorers", "json:nothing"], "module 'json' has no function 'nothing'"),
        (["--scorers", "no_such_module:f"], "cannot import module 'no_such_module'"),
        (["--scorers", "broken:f"], "module 'broken' fails on import (SyntaxError"),
        (["--batch-tokens", "0"], "--batch-tokens is 0; expected at least 1"),
        (["--dtype", "float8"], "float8"),
        (["--perplexity-lm", "./no/such/model"], "no/such/model"),
        (["--scorer", "vader"], "--scorers"),
    ],
)
def test_bad_settings(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def f(:")
    code, out, err = run(capsys, write(tmp_path / "a.jsonl"), *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_pipe_is_written_to_and_not_replaced(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    flags = ["--scorers", "vader", "--out", tmp_path / "pipe"]
    assert run(capsys, write(tmp_path / "a.jsonl"), *flags)[0] == 0
    assert json.loads(os.read(reader, 1 << 20))["files"]
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_text_longer_than_the_context_is_named_before_weights_load(
    tmp_path, tiny_lm_dir, capsys, monkeypatch
):
    monkeypatch.setattr("rewardjax.lm.load.load_hf_params", lambda *a: pytest.fail("weights"))
    rows = write(tmp_path / "a.jsonl", [row(), row(1, 2, "x" * 300)])
    code, out, err = run(capsys, rows, "--scorers", "vader", "--perplexity-lm", tiny_lm_dir)
    assert (code, out) == (2, "")
    assert f"{rows}: the text with prompt_index 1 and sample_index 2 has" in err
    assert "expected at most 256" in err


def test_no_file_and_the_same_file_twice(tmp_path, capsys):
    assert "no file to evaluate" in run(capsys)[2]
    path = write(tmp_path / "a.jsonl")
    assert "named twice" in run(capsys, path, path)[2]


def test_rows_of_two_reward_models():
    rows = [Row("a", "b", 0, 0, rewards=[[0.5]]), Row("a", "c", 0, 1, rewards=[[0.5, 0.5]])]
    with pytest.raises(RewardJaxError, match="rows of one reward model"):
        evaluate(rows, [])
    with pytest.raises(RewardJaxError, match="no rows"):
        evaluate([], [])


def test_perplexity_of_some_samples_is_a_mean_over_those(tiny_lm):
    """Two of three samples per prompt, the same two whatever else is asked."""
    texts = [["a", "b", "c d e"], ["the film", "not", "I"]]
    rows = [
        Row("good film", text, i, j, clipped_share=0.25 * j)
        for i, group in enumerate(texts)
        for j, text in enumerate(group)
    ]
    some = evaluate(rows, [], lm=tiny_lm, perplexity_samples=2)["perplexity"]
    values, weights = some.per_prompt
    assert weights.tolist() == [2, 2]
    for i, group in enumerate(texts):
        each = rj.perplexity(tiny_lm, group, ["good film"] * 3)
        pairs = [(each[a] + each[b]) / 2 for a, b in ((0, 1), (0, 2), (1, 2))]
        assert min(abs(values[i] - pair) for pair in pairs) < 1e-3 * values[i]
    every = evaluate(rows, [], lm=tiny_lm)["perplexity"]
    assert every.per_prompt[1].tolist() == [3, 3]
    assert every.interval.value != some.interval.value


def test_clipped_share_is_averaged():
    rows = [
        Row("x", "y", 0, j, rewards=[[1.0]], clipped_share=share)
        for j, share in enumerate((0.25, 0.75))
    ]
    assert evaluate(rows, [])["clipped"].interval.value == 0.5
