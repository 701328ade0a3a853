"""`rewardjax decode guided` from its arguments to its JSONL, on the tiny LM."""

import errno
import gzip
import io
import json
import os
import sys

import numpy as np
import pytest

import rewardjax as rj
from rewardjax.cli import main as cli
from rewardjax.decode.rows_file import RowsFile
from rewardjax.rewards import RewardModelConfig
from tests.trained import save_random

FIELDS = [
    "prompt", "text", "token_ids", "logprobs", "base_logprobs", "rewards", "kl", "clipped_share",
    "finish_reason", "seed", "prompt_index", "sample_index",
]  # fmt: skip
PROMPTS = ["the film was", "I"]
SETTINGS = {"beta": 5.0, "num_samples": 2, "max_new_tokens": 4, "seed": 3}


@pytest.fixture(scope="module")
def reward_model(tiny_lm, tmp_path_factory):
    directory = tmp_path_factory.mktemp("rm") / "reward_model"
    return save_random(directory, tiny_lm, RewardModelConfig(layer=2))


@pytest.fixture
def run(tiny_lm_dir, reward_model, capsysbinary):
    """Runs the command with `SETTINGS` and further flags; returns (status, stdout, stderr)."""

    def call(*flags, prompts=PROMPTS, **changes):
        argv = ["decode", "guided", "--lm", str(tiny_lm_dir), "--reward-model", str(reward_model)]
        for name, value in {**SETTINGS, **changes}.items():
            argv += [f"--{name.replace('_', '-')}", str(value)]
        argv += ["--prompt", *prompts] if prompts else []
        status = cli([*argv, *map(str, flags)])
        out, err = capsysbinary.readouterr()
        return status, out, err.decode()

    return call


def parse(data):
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


@pytest.fixture
def expected(tiny_lm, reward_model):
    """The rows of `rj.generate` as the file should hold them."""

    def rows(prompts=PROMPTS, **changes):
        out = rj.generate(
            tiny_lm,
            prompts,
            reward_model=rj.load_reward_model(reward_model),
            **{**SETTINGS, **changes},
        )
        return [json.loads(json.dumps(g.to_json())) for samples in out for g in samples]

    return rows


def test_rows_are_those_of_generate(run, expected):
    status, out, err = run()
    assert (status, err) == (0, "")
    rows = parse(out)
    assert [list(row) for row in rows] == [FIELDS] * 4
    assert rows == expected()


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--invert"], {"invert": True}),
        (["--chat"], {"chat": True}),
        (["--stop", "zz", "goo"], {"stop": ["zz", "goo"]}),
        (["--top-k", "7", "--top-p", "0.8", "--temperature", "0.5"],
         {"top_k": 7, "top_p": 0.8, "temperature": 0.5}),
        (["--beta", "0"], {"beta": 0.0}),
    ],
)  # fmt: skip
def test_flags_do_what_the_arguments_of_generate_do(run, expected, flags, settings):
    plain, changed = parse(run()[1]), parse(run(*flags)[1])
    assert changed == expected(**settings)
    assert changed != plain


def test_a_warm_start_changes_no_text(run, expected):
    assert parse(run("--warmup")[1]) == expected()


def test_without_a_reward_model(tiny_lm, tiny_lm_dir, capsysbinary):
    argv = ["decode", "guided", "--lm", str(tiny_lm_dir), "--prompt", "I", "--max-new-tokens", "4"]
    assert cli(argv) == 0
    (row,) = parse(capsysbinary.readouterr().out)
    assert row == rj.generate(tiny_lm, ["I"], max_new_tokens=4)[0][0].to_json()
    assert row["rewards"] == [[]] * len(row["token_ids"])


LINES = "".join(prompt + "\n" for prompt in PROMPTS).encode()
JSONL = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS).encode()
NESTED = "".join(json.dumps({"prompt": {"text": prompt}}) + "\n" for prompt in PROMPTS).encode()


@pytest.mark.parametrize(
    ("name", "content", "flags"),
    [
        ("p.txt", LINES, []),
        ("p.jsonl.gz", gzip.compress(JSONL, mtime=0), []),
        ("p.jsonl", NESTED, ["--prompt-field", "prompt.text"]),
        ("-", LINES, []),
        ("-", JSONL, []),
    ],
)
def test_prompts_from_a_file(run, tmp_path, monkeypatch, name, content, flags):
    reference = run()[1]
    monkeypatch.chdir(tmp_path)
    if name == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    else:
        (tmp_path / name).write_bytes(content)
    assert run("--prompts", name, *flags, prompts=()) == (0, reference, "")


def test_an_index_keeps_its_rows_texts_wherever_it_stands(run, tmp_path):
    lines = [json.dumps({"prompt": prompt, "index": 4 + i}) for i, prompt in enumerate(PROMPTS)]
    lines.append(json.dumps({"prompt": "a good film", "index": 1}))
    path = tmp_path / "p.jsonl"

    def by_index(lines):
        path.write_text("\n".join(lines))
        rows = parse(run("--prompts", path, prompts=())[1])
        return [r["prompt_index"] for r in rows], {
            (r["prompt_index"], r["sample_index"]): (r["prompt"], r["token_ids"]) for r in rows
        }

    order, straight = by_index(lines)
    assert order == [4, 4, 5, 5, 1, 1]
    assert by_index(lines[::-1]) == (order[::-1], straight)
    assert by_index(lines[1:2])[1] == {key: straight[key] for key in [(5, 0), (5, 1)]}


def test_prompts_are_chosen_and_keep_their_texts(run, tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [("a film", 0.9), ("a", 0.1), ("the", None), ("I", 0.7), ("it was", 0.6)]
    path.write_text("".join(json.dumps({"prompt": p, "score": x}) + "\n" for p, x in rows))

    def generated(*flags):
        rows = parse(run(*flags, prompts=())[1])
        return [(row["prompt_index"], row["prompt"], row["token_ids"]) for row in rows]

    everything = generated("--prompts", path)
    chosen = ["--prompts", path, "--where", "score>=0.5", "--where", "score<0.8"]
    kept = generated(*chosen)
    assert kept == [row for row in everything if row[0] in (3, 4)]
    draw = [*chosen, "--shuffle-seed", "0", "--limit", "1"]
    one, other = (generated(*draw, "--offset", n) for n in (0, 1))
    assert sorted(one + other, key=lambda row: row[0]) == kept
    assert "--prompts FILE" in run("--limit", "1")[2]


def test_out_holds_what_standard_output_shows(run, tmp_path):
    shown = run("--out", "-")[1]
    assert run("--out", tmp_path / "a.jsonl") == (0, b"", "")
    assert (tmp_path / "a.jsonl").read_bytes() == shown
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.fixture
def stop_after(monkeypatch):
    """Makes the run fail after n rows, with the given error."""
    write = RowsFile.write

    def install(count, error=KeyboardInterrupt):
        written = []

        def failing(self, row):
            if len(written) == count:
                raise error
            written.append(row)
            write(self, row)

        monkeypatch.setattr(RowsFile, "write", failing)
        return lambda: monkeypatch.setattr(RowsFile, "write", write)

    return install


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_interrupted_run_resumes_to_the_same_bytes(run, tmp_path, stop_after, count):
    whole, out, partial = run()[1], tmp_path / "a.jsonl", tmp_path / "a.jsonl.partial"
    mend = stop_after(count)
    assert run("--out", out) == (130, b"", "rewardjax: interrupted\n")
    assert not out.exists()
    assert partial.read_bytes() == b"".join(whole.splitlines(keepends=True)[:count])
    mend()
    with partial.open("ab") as file:
        file.write(whole.splitlines()[count][:20])  # a kill cuts a row short
    assert run("--out", out, "--resume") == (0, b"", "")
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_resuming_with_another_batch_size(run, tmp_path, stop_after):
    """The texts are the same; numbers may differ in the last bits of a float32."""
    whole, out = parse(run()[1]), tmp_path / "a.jsonl"
    mend = stop_after(1)
    assert run("--out", out, batch_size=3)[0] == 130
    mend()
    assert run("--out", out, "--resume", batch_size=2) == (0, b"", "")
    resumed = parse(out.read_bytes())
    for name in FIELDS:
        got, wanted = [row[name] for row in resumed], [row[name] for row in whole]
        if name in ("logprobs", "base_logprobs", "kl", "rewards"):
            got, wanted = np.concatenate(got), pytest.approx(np.concatenate(wanted), abs=1e-5)
        assert got == wanted, name


def test_resuming_another_job_is_refused(run, tmp_path, stop_after):
    out = tmp_path / "a.jsonl"
    mend = stop_after(1)
    run("--out", out)
    mend()
    before = (tmp_path / "a.jsonl.partial").read_bytes()
    status, _, err = run("--out", out, "--resume", seed=4)
    assert status == 2
    assert "cannot resume: seed was 3 and is 4" in err
    assert run("--out", out, "--resume", prompts=["I"])[0] == 2
    assert "holds an unfinished run" in run("--out", out)[2]
    assert (tmp_path / "a.jsonl.partial").read_bytes() == before


def test_an_existing_file_needs_overwrite(run, tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text("precious\n")
    status, _, err = run("--out", out)
    assert status == 2
    assert "exists; name another file, or pass --overwrite to replace it" in err
    assert out.read_text() == "precious\n"
    assert run("--out", out, "--overwrite")[0] == 0
    assert len(parse(out.read_bytes())) == 4


def test_a_full_disk(run, tmp_path, stop_after):
    mend = stop_after(2, OSError(errno.ENOSPC, "No space left on device", "a.jsonl"))
    status, out, err = run("--out", tmp_path / "a.jsonl")
    assert (status, out) == (2, b"")
    assert err.count("\n") == 1
    assert "no space left on the disk while writing 'a.jsonl'" in err
    assert not (tmp_path / "a.jsonl").exists()
    mend()
    assert run("--out", tmp_path / "a.jsonl", "--resume")[0] == 0


def test_help(capsys):
    assert cli(["decode", "guided", "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for flag in ("--lm", "--reward-model", "--prompts", "--prompt-field", "--beta", "--resume"):
        assert flag in out


if os.path.exists("/dev/full"):

    def test_a_device_that_is_full(run):
        status, out, err = run("--out", "/dev/full")
        assert (status, out) == (2, b"")
        assert err == (
            "rewardjax: error: no space left on the disk while writing '/dev/full'; free some "
            "space and run again\n"
        )
