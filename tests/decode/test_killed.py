"""`rewardjax decode guided` killed with SIGKILL at any moment: no row lost, repeated or moved."""

import json
import random
import signal

import numpy as np
import pytest

from tests.soak import proved, times

PROMPTS = ["the film", "I", "a bad film, it is", "café", "great", "it was not a good film, it was"]
NUMBERS = ("logprobs", "base_logprobs", "kl", "rewards")
KILLS = {1: times(7, 30), 3: times(3, 30)}
"""of a job of each batch size"""


def moments(size, draw, kills, edges):
    """In the order of the job: opening, any time and bytes of rows, finishing.

    Files are opened and finished in one way whatever the batch: `edges` says whether those count.
    """
    if edges:
        kills -= 4
        yield {"before": "a.jsonl.partial.json"}
        yield {"after": "a.jsonl.partial.json"}
    first, *others = sorted(draw.sample(range(size), kills - 1))
    yield {"byte": first, "seconds": draw.uniform(0, 2)}
    for byte in [first, *others]:
        yield {"byte": byte}
    if edges:
        yield {"before": "a.jsonl"}
        yield {"after": "a.jsonl"}


@pytest.mark.parametrize("batch_size", KILLS)
def test_killed_at_any_moment(forked, tmp_path, tiny_lm_dir, batch_size, record_property):
    prompts, whole, out = (tmp_path / name for name in ("p.jsonl", "whole.jsonl", "a.jsonl"))
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS * 2))
    job = ["decode", "guided", "--lm", str(tiny_lm_dir), "--prompts", str(prompts)]
    job += ["--max-new-tokens", "6", "--num-samples", "3", "--stop", "t"]
    job += ["--batch-size", str(batch_size), "--resume", "--out"]
    assert forked([*job, str(whole)]) == 0
    killed = 0
    draw, kills = random.Random(batch_size), KILLS[batch_size]
    for moment in moments(whole.stat().st_size, draw, kills, edges=batch_size == 1):
        assert forked([*job, str(out)], **moment) == -signal.SIGKILL, moment
        killed += 1
    assert killed == kills
    assert forked([*job, str(out)]) == 0
    promise = "decoding killed with SIGKILL and resumed: no row lost, repeated, moved or changed"
    proved(record_property, promise, killed)
    assert {"a.jsonl", "p.jsonl", "whole.jsonl"} == {
        path.name for path in tmp_path.iterdir() if not path.name.startswith(".")
    }
    if batch_size == 1:
        assert out.read_bytes() == whole.read_bytes()
        return
    # Numbers may differ in the last bits where other rows were in the batch: nothing else does.
    got, wanted = (path.read_text("utf-8").splitlines() for path in (out, whole))
    assert len(got) == len(wanted) == len(PROMPTS) * 2 * 3
    for row, expected in zip(map(json.loads, got), map(json.loads, wanted), strict=True):
        for name in NUMBERS:
            np.testing.assert_allclose(row.pop(name), expected.pop(name), atol=1e-5, err_msg=name)
        assert row == expected
