"""Damaged files: seeded mutators of bytes and of values, and pickles that tell when loaded."""

import copy
import io
import json
import pickle
import struct
import zipfile

import numpy as np

BOUNDARIES = [0, 1, -1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
WORDS = (
    *(b"NaN", b"-1", b"1e999", b"9" * 400, b"null", b"true", b'"', b"{", b"[", b"]", b"}", b","),
    *(
        b"\\ud800",
        b"\xff",
        b"\0",
        b"\n",
        b"\r",
        b"\xef\xbb\xbf",
        b"[" * 3000,
        b"../",
        b"*a",
        b"&a ",
    ),
)
WRONG = [
    *(0, 1, -1, 2**31, 2**40, 2**63, 10**400, 0.5, 2.0, float("nan"), float("inf"), -1e300),
    *(True, False, None, "", "x", "3", "\ud800", "x" * 5000),
    *([], [1], ["x"] * 3, [[[]]], list(range(999)), {}, {"a": 1}, {"rope_type": ["x"]}),
]
DEEP = "[" * 400 + "]" * 400


def _span(rng, data, longest=64):
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + int(rng.integers(1, longest + 1)))


def flip(rng, data):
    for at in rng.integers(len(data), size=rng.integers(1, 5)):
        data[at] ^= 1 << int(rng.integers(8))


def truncate(rng, data):
    del data[int(rng.integers(len(data))) :]


def insert(rng, data):
    at = int(rng.integers(len(data) + 1))
    data[at:at] = rng.bytes(int(rng.integers(1, 20)))


def delete(rng, data):
    start, stop = _span(rng, data)
    del data[start:stop]


def duplicate(rng, data):
    start, stop = _span(rng, data)
    data[stop:stop] = data[start:stop]


def swap(rng, data):
    a, b, c, d = sorted(int(x) for x in rng.integers(len(data) + 1, size=4))
    data[a:d] = data[c:d] + data[b:c] + data[a:b]


def integer(rng, data):
    """A boundary value of some width over whatever stands there, a count or an offset perhaps."""
    value = BOUNDARIES[rng.integers(len(BOUNDARIES))] % 2**64
    width = int(rng.choice([1, 4, 8]))
    at = int(rng.integers(len(data)))
    data[at : at + width] = struct.pack("<Q", value)[:width]


def word(rng, data):
    """What means something to a parser of text, in place of a few bytes."""
    start, stop = _span(rng, data, 4)
    data[start:stop] = WORDS[rng.integers(len(WORDS))]


def digits(rng, data):
    """A boundary value in place of a number that is written out."""
    found = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if found:
        start = stop = found[rng.integers(len(found))]
        while stop < len(data) and 48 <= data[stop] <= 57:
            stop += 1
        data[start:stop] = str(BOUNDARIES[rng.integers(len(BOUNDARIES))]).encode()


MUTATORS = (flip, truncate, insert, delete, duplicate, swap, integer, word, digits)


def mutations(data, count, seed=0, until=None):
    """(name, bytes) of `count` files like `data`, each changed by one to three mutators.

    until: change the first so many bytes only (a header), whatever comes after them.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        head, tail = bytearray(data[:until]), b"" if until is None else data[until:]
        further = rng.integers(len(MUTATORS), size=rng.choice([0, 0, 1, 2]))
        chosen = [MUTATORS[i] for i in (number % len(MUTATORS), *further)]
        for mutator in chosen:
            if head:
                mutator(rng, head)
        yield f"{number} {'+'.join(m.__name__ for m in chosen)}", bytes(head) + tail


def alterations(document, count, seed=0, depth=99):
    """(name, bytes) of JSON documents with one value replaced by a wrong one, or left out."""
    places = list(_places(document, depth))
    rng = np.random.default_rng(seed)
    for _ in range(count):
        *path, last = places[rng.integers(len(places))]
        changed = copy.deepcopy(document)
        inner = changed
        for key in path:
            inner = inner[key]
        which = int(rng.integers(len(WRONG) + 2))
        if which == len(WRONG):
            del inner[last]
        else:
            inner[last] = "@deep" if which > len(WRONG) else WRONG[which]
        what = ".".join(map(str, [*path, last]))
        shown = repr(inner[last])[:20] if which != len(WRONG) else "left out"
        yield f"{what} = {shown}", json.dumps(changed).replace('"@deep"', DEEP).encode()


def _places(value, depth, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items)[:40]:
        yield (*path, key)
        if isinstance(inner, dict | list) and depth > 1:
            yield from _places(inner, depth - 1, (*path, key))


class _Plant:
    def __init__(self, folder):
        self.marker = str(folder / "marker")

    def __reduce__(self):
        return open, (self.marker, "w")


def plants(folder):
    """name → bytes of files that, unpickled, make the file `marker` in `folder`."""
    plant = _Plant(folder)
    npy, npz, torch = io.BytesIO(), io.BytesIO(), io.BytesIO()
    objects = np.array([plant], object)
    np.save(npy, objects, allow_pickle=True)
    np.savez(npz, weights=objects)
    with zipfile.ZipFile(torch, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(plant, 2))
        file.writestr("archive/version", "3\n")
    return {
        "pickle": pickle.dumps(plant, 4),
        "pickle in text": pickle.dumps(plant, 0),
        "npy of objects": npy.getvalue(),
        "npz of objects": npz.getvalue(),
        "torch .bin": torch.getvalue(),
    }
