"""A job's memory does not grow with its prompts; a batch that cannot fit is refused or halved."""

import itertools
import json
import tracemalloc
from collections import deque

import jax
import numpy as np
import pytest

from rewardjax.cli import main as cli
from rewardjax.decoding.retry import decode_halving
from rewardjax.decoding.runner import Row

FEW, MANY = 200, 1200
BYTES = 100
"""per further prompt at most: some 30 are indices and places; a kept prompt is 280 and more"""


@pytest.fixture
def decode(tmp_path, tiny_lm_dir):
    def call(*flags):
        argv = ["decode", "guided", "--lm", str(tiny_lm_dir), "--max-new-tokens", "2"]
        return cli([*argv, "--out", str(tmp_path / "a.jsonl"), "--overwrite", *map(str, flags)])

    return call


def test_memory_does_not_grow_with_the_prompts(decode, tmp_path, monkeypatch):
    """Everything but the decoding itself, which is checked where requests are queued."""
    path = tmp_path / "p.jsonl"

    def rows(_, requests, batch_size):
        zeros = np.zeros(2, np.float32)
        waiting = deque(itertools.islice(requests, 8 * batch_size))  # reads ahead
        while waiting:
            request = waiting.popleft()
            yield Row(request, [5, 6], zeros, zeros, zeros, np.zeros((2, 0)), 0.0, "length")
            waiting.extend(itertools.islice(requests, 1))

    def peak(count):
        with path.open("w") as file:
            for i in range(count):
                file.write(json.dumps({"prompt": f"film {i}", "index": 7 * i}) + "\n")
        tracemalloc.start()
        assert decode("--prompts", path, "--batch-size", 16) == 0
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    monkeypatch.setattr("rewardjax.data.prompts.IN_MEMORY", 1000)
    monkeypatch.setattr("rewardjax.api.decode_halving", rows)
    assert decode("--prompt", "a") == 0  # imports and fills caches, which takes long under a trace
    few, many = peak(FEW), peak(MANY)
    assert many - few < BYTES * (MANY - FEW)
    written = 0
    with (tmp_path / "a.jsonl").open() as file:
        for i, row in enumerate(map(json.loads, file)):
            assert (row["prompt"], row["prompt_index"]) == (f"film {i}", 7 * i)
            written += 1
    assert written == MANY


def test_a_batch_that_cannot_fit_is_refused_before_weights_are_read(decode, monkeypatch, capsys):
    monkeypatch.setattr("rewardjax.lm.load.load_hf_params", lambda *a: pytest.fail("weights"))
    monkeypatch.setattr("rewardjax.decoding.memory.available_memory", lambda: 10**6)
    assert decode("--prompt", *"abcdefgh", "--num-samples", 99, "--batch-size", 300) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rewardjax: error: batch_size 300 needs about ")
    assert "and 1.0 MB is free; lower --batch-size to " in err
    assert err.count("\n") == 1
    fits = err.split()[-1]
    monkeypatch.undo()
    assert decode("--prompt", "a", "--batch-size", fits) == 0


def test_memory_that_runs_out_while_rows_are_written(decode, tmp_path, monkeypatch, capsys):
    """Batches of 4 fail after five rows, the rest is decoded by 2: the rows of a job with room."""

    def failing(decode_rows, requests, batch_size):
        def limited(requests, batch_size):
            rows = decode_rows(requests, batch_size)
            yield from itertools.islice(rows, 5)
            if batch_size == 4:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
            yield from rows

        return decode_halving(limited, requests, batch_size)

    def written():
        rows = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
        return [(row["prompt_index"], row["sample_index"], row["token_ids"]) for row in rows]

    flags = ["--prompt", "a film", "I", "it was", "--num-samples", 3, "--batch-size", 4]
    assert decode(*flags) == 0
    whole = written()
    monkeypatch.setattr("rewardjax.api.decode_halving", failing)
    assert decode(*flags) == 0
    assert written() == whole
    assert len(whole) == 9
    assert "Out of memory; going on with batch_size 2" in capsys.readouterr().err
