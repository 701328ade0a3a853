"""Out of memory: half the batch, from the first row that was not yielded; the same rows."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.decoding.retry import decode_halving
from rewardjax.decoding.runner import Request
from rewardjax.errors import RewardJaxError

REQUESTS = [Request([i], i, 0) for i in range(23)]


def exhausted(size):
    return jax.errors.JaxRuntimeError(
        f"RESOURCE_EXHAUSTED: Out of memory allocating {size} bytes.\nAllocator dump:\n…"
    )


class Device:
    """Decodes with `fits` rows at most; with more it fails after `rows_before` further rows."""

    def __init__(self, fits, rows_before=0, ahead=0):
        self.fits, self.rows_before, self.ahead = fits, rows_before, ahead
        self.tried = []

    def decode(self, requests, batch_size):
        self.tried.append(batch_size)
        waiting, requests = [], iter(requests)
        for number in range(10**6):
            while len(waiting) < batch_size + self.ahead:
                request = next(requests, None)
                if request is None:
                    break
                waiting.append(request)
            if not waiting:
                return
            if batch_size > self.fits and number == self.rows_before:
                raise exhausted(batch_size)
            yield ("row of", waiting.pop(0))


@pytest.mark.parametrize("rows_before", [0, 1, 9])
@pytest.mark.parametrize("ahead", [0, 5])
@pytest.mark.parametrize("fits", [1, 3, 100])
def test_every_row_once_and_in_order(fits, ahead, rows_before, capsys):
    device = Device(fits, rows_before, ahead)
    rows = list(decode_halving(device.decode, iter(REQUESTS), 8))
    assert rows == [("row of", request) for request in REQUESTS]
    expected = {1: [8, 4, 2, 1], 3: [8, 4, 2], 100: [8]}[fits]
    # Where 23 rows are out before the batch is small enough, nothing is left to halve.
    assert device.tried == expected[: len(device.tried)]
    if rows_before < 9:
        assert device.tried == expected
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"rewardjax: Out of memory allocating {n} bytes; going on with batch_size {n // 2}"
        for n in device.tried[:-1]
    ]


def test_one_row_that_does_not_fit():
    rows = decode_halving(Device(0, rows_before=2).decode, REQUESTS, 2)
    assert [next(rows)[1] for _ in range(4)] == REQUESTS[:4]
    with pytest.raises(
        RewardJaxError, match=r"out of memory with one row at a time .*lower max_ne"
    ):
        next(rows)


def test_other_errors_are_not_hidden():
    def broken(requests, batch_size):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
        yield

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        list(decode_halving(broken, REQUESTS, 8))


def test_requests_are_read_as_they_are_needed():
    read = []
    requests = (read.append(request) or request for request in REQUESTS)
    rows = decode_halving(Device(100, ahead=3).decode, requests, 4)
    next(rows)
    assert len(read) == 7


def test_the_failed_batch_is_freed_before_the_next_begins():
    """Its arrays are held by the frames of the error's traceback."""
    held = []

    class Array:
        pass

    def decode(requests, batch_size):
        gc.collect()
        assert all(reference() is None for reference in held)
        array = Array()
        held.append(weakref.ref(array))
        if batch_size > 1:
            raise exhausted(1)
        yield from requests

    assert list(decode_halving(decode, REQUESTS, 8)) == REQUESTS
    assert len(held) == 4


def test_memory_that_really_runs_out(capsys):
    """XLA's own error, of 2^46 bytes in a batch of 4."""

    def decode(requests, batch_size):
        zeros = jnp.zeros(2 ** (46 if batch_size == 4 else 4), np.uint8)
        zeros.block_until_ready()
        yield from requests

    assert list(decode_halving(decode, REQUESTS, 4)) == REQUESTS
    assert capsys.readouterr().err == (
        f"rewardjax: Out of memory allocating {2**46} bytes; going on with batch_size 2\n"
    )
