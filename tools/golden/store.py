"""Reads and writes safetensors (8 bytes header length, JSON header, raw data) with numpy alone, and the JSON beside it.

BF16 has no numpy type: values travel as float32 and must be exactly representable in float32, float16 and bfloat16.
"""
import json
import struct

import numpy as np

# Widest element first, so that every tensor starts at a multiple of its own element size.
ORDER = ["F32", "BF16", "F16", "BOOL"]


class Input(np.ndarray):
    """float32 values kept as BF16: a plain view type that says how to store the array."""


def as_input(array):
    array = np.asarray(array, np.float32)
    finite = array[np.isfinite(array)]
    assert np.array_equal(finite, finite.astype(np.float16).astype(np.float32)), "not exact in float16"
    assert not np.any(finite.view(np.uint32) & 0xFFFF), "not exact in bfloat16"
    return array.view(Input)


def expected(array):
    """float64 rounded once to float32."""
    array = np.asarray(array, np.float64)
    rounded = array.astype(np.float32)
    assert np.array_equal(np.isfinite(array), np.isfinite(rounded)), "overflows float32"
    return rounded


def encode(array):
    if array.dtype == np.bool_:
        return "BOOL", array.astype(np.uint8).tobytes()
    if isinstance(array, Input):
        bits = np.asarray(array).view(np.uint32)
        return "BF16", (bits >> 16).astype("<u2").tobytes()
    if array.dtype == np.float16:
        return "F16", array.astype("<f2").tobytes()
    assert array.dtype == np.float32, array.dtype
    return "F32", array.astype("<f4").tobytes()


def write_safetensors(path, tensors, metadata=None):
    encoded = [(name, array.shape, *encode(np.ascontiguousarray(array).reshape(array.shape).view(type(array)))) for name, array in tensors.items()]
    encoded.sort(key=lambda entry: ORDER.index(entry[2]))  # stable: cases stay in order within a dtype
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, shape, dtype, data in encoded:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in encoded:
            file.write(entry[3])


def read_safetensors(path):
    """name -> numpy array; BF16 comes back as float32 (Input)."""
    with open(path, "rb") as file:
        raw = file.read()
    length = struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        data = raw[8 + length + start : 8 + length + end]
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).view(Input)
        else:
            array = np.frombuffer(data, {"F32": "<f4", "F16": "<f2", "BOOL": np.bool_}[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def write_json(path, meta):
    """One case a line: short, and a changed case is one changed line in a diff."""
    lines = []
    for key, value in meta.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = ",\n".join("  " + json.dumps(item) for item in value)
            lines.append(f" {json.dumps(key)}: [\n{body}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    with open(path, "w") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
