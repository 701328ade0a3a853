"""Files that lie about what they hold."""

import json
import struct

HUGE = 2**62
BINARY = b"\x7fELF\x02\x01\x00\x00\xff\xfe"


def safetensors(entries, data=b"", length=None):
    body = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def gguf(tensors=0, pairs=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest + bytes(64)


def gguf_tensor(offset):
    return struct.pack("<Q1sI2QIQ", 1, b"t", 2, 32, 32, 0, offset)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LYING = {
    "cut short": safetensors({"a": F32}, bytes(7)),
    "huge header": safetensors(b"{}", length=HUGE),
    "offsets beyond the file": safetensors({"a": {**F32, "data_offsets": [8, 16]}}, bytes(8)),
    "size lies": safetensors({"a": {**F32, "shape": [2**40, 2**40]}}, bytes(8)),
    "pickle": b"\x80\x04\x95" + bytes(64),
}
MODELS = {
    "empty": (b"", "the file is empty"),
    "binary": (BINARY, "expected b'GGUF'"),
    "truncated": (b"GGUF\x03", "truncated"),
    "huge counts": (gguf(tensors=HUGE), "tensors, but only"),
    "huge text": (gguf(pairs=1, rest=struct.pack("<Q", HUGE)), "bytes of text, but only"),
    "beyond the file": (gguf(tensors=1, rest=gguf_tensor(HUGE)), "truncated or corrupted"),
}
