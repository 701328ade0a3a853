"""Warming up compiles what a job will run, and changes nothing that it draws."""

import numpy as np
import pytest

from rewardjax.decoding import loop, slots
from rewardjax.decoding.guides import Guides
from rewardjax.decoding.queue import Request, bucket
from rewardjax.decoding.runner import decode_rows
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.decoding.warmup import buckets, number_as_prompt, warm_up
from tests.decoding import markov

PROGRAMS = (loop.prefill, loop.run, slots._spread, slots._refill, slots._one_row)
MODELS = (markov.program(), markov.lm_params(), markov.reward_params())
GUIDES = Guides((0,), ("clip",), 1)


def compiled():
    return [program._cache_size() for program in PROGRAMS]


def requests(count, samples, longest):
    """Different prompts of 9 to `longest` tokens; rows of 1 to 24, so slots free unevenly."""
    rng = np.random.default_rng(3)
    found = []
    for i in range(count):
        prompt = rng.integers(0, 3, rng.integers(9, longest + 1)).tolist()
        for sample in range(samples):
            own = SamplingConfig(beta=1.0, top_k=4, max_new_tokens=int(rng.integers(1, 25)))
            found.append(Request(prompt, i, sample, own))
    return found


@pytest.mark.parametrize(("batch_size", "longest", "lengths"), [(1, 16, [16]), (6, 32, [16, 32])])
def test_a_job_compiles_nothing_after_it(batch_size, longest, lengths):
    sampling = SamplingConfig(beta=1.0, top_k=4, max_new_tokens=24)
    assert list(warm_up(*MODELS, sampling, batch_size, GUIDES, longest=longest)) == lengths
    before = compiled()
    job = requests(150, 1, longest)
    assert len(list(decode_rows(*MODELS, job, sampling, batch_size=batch_size))) == 150
    assert compiled() == before


def test_without_it_a_job_compiles():
    sampling = SamplingConfig(beta=1.0, top_k=4, max_new_tokens=24)
    before = compiled()
    list(decode_rows(*MODELS, requests(150, 1, 16), sampling, batch_size=11))
    assert all(now > then for now, then in zip(compiled(), before, strict=True))


def test_several_samples_of_a_prompt():
    """Reading and stepping are compiled; which samples start together is not known before."""
    sampling = SamplingConfig(beta=1.0, top_k=4, max_new_tokens=24)
    list(warm_up(*MODELS, sampling, 10, GUIDES, longest=16, samples=4))
    before = compiled()
    list(decode_rows(*MODELS, requests(60, 4, 16), sampling, batch_size=10))
    assert compiled()[:2] == before[:2]


@pytest.mark.parametrize("longest", [1, 16, 17, 100])
def test_buckets_are_those_of_the_queue(longest):
    assert buckets(longest) == sorted({bucket(n) for n in range(1, longest + 1)})


def test_made_up_prompts_differ():
    assert len({tuple(number_as_prompt(n, 16)) for n in range(5000)}) == 5000
