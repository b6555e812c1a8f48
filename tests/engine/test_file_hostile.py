"""Damaged, foreign, future and hostile engine files: always EngineFileError, never anything else.

A hostile file has the right checksums. `seal` computes them independently of the code under test.
"""

import binascii
import json
import random
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.engine import container
from torch2rt.engine.file import EngineFile, from_bytes, to_bytes
from torch2rt.errors import EngineFileError
from torch2rt.network.dtype import DType

SMALL = EngineFile(
    network_text="input x: float32[2]\n",
    plans=({"symbols": {"n": 1}},),
    constants={"w": np.arange(6, dtype=np.float32), "b": np.array([True, False])},
    dtypes={"w": DType.FLOAT32, "b": DType.BOOL},
    precision="fp32",
    device="cpu",
    origins={"conv": [["model.conv", "m.py:1"]]},
    environment={"numpy": "2"},
    blobs={"kernel": b"\x7fELF"},
)
DATA = to_bytes(SMALL)
fuzz = settings(max_examples=400, deadline=None, derandomize=True, database=None)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensor data of a sound file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + length]), data[8 + length:]


def seal(header: dict[str, Any] | str, body: bytes, *, align: bool = True) -> bytes:
    """A file with this header and data, and checksums that are right if there is a place."""
    if isinstance(header, dict) and isinstance(metadata := header.get("__metadata__"), dict):
        header["__metadata__"] = {
            "header_crc32": "00000000", **metadata, "data_crc32": f"{binascii.crc32(body):08x}"
        }
        header["__metadata__"]["header_crc32"] = "00000000"
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    content = text.encode("utf-8", "surrogatepass")
    content += b" " * (-(8 + len(content)) % 64 if align else 0)
    head = len(content).to_bytes(8, "little") + content
    crc = f"{binascii.crc32(head):08x}".encode()
    return head.replace(b'"header_crc32":"00000000"', b'"header_crc32":"' + crc + b'"', 1) + body


def changed(path: tuple[str, ...], value: object, body: bytes | None = None) -> bytes:
    """The small file with one value of its header replaced, and sealed again."""
    header, own_body = split(DATA)
    place = header
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return seal(header, own_body if body is None else body)


def outcome(data: bytes) -> EngineFile | None:
    """The engine or None for EngineFileError; whatever was accepted can be written again."""
    try:
        engine = from_bytes(data)
    except EngineFileError as error:
        check_message(str(error))
        return None
    assert to_bytes(from_bytes(to_bytes(engine))) == to_bytes(engine)
    return engine


def check_message(message: str) -> None:
    """Reason and remedy, printable, of a length for people."""
    assert re.match(r"engine bytes: .+\. .+\.$", message, re.DOTALL)
    assert len(message.encode()) < 1000


def refused(data: bytes, reason: str) -> None:
    with pytest.raises(EngineFileError, match=reason):
        from_bytes(data)
    assert outcome(data) is None


def test_sealing_a_sound_file_changes_nothing() -> None:
    assert seal(*split(DATA)) == DATA
    assert outcome(DATA) is not None
    assert outcome(changed(("__metadata__", "precision"), "bf16")) is not None


# ---- accidents ----------------------------------------------------------------------------------


def test_every_flipped_bit_is_found() -> None:
    bits = range(len(DATA) * 8)
    for bit in [*random.Random(0).choices(bits, k=2000), *bits[:512]]:
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        assert outcome(bytes(damaged)) is None, bit


def test_every_truncation_is_found() -> None:
    for length in range(len(DATA)):
        assert outcome(DATA[:length]) is None, length
    refused(DATA[:-1], "truncated")
    refused(DATA[:100], "truncated")


def test_appended_bytes_are_found() -> None:
    for extra in (b"\0", b" " * 64, DATA):
        refused(DATA + extra, "bytes, .* expected")


def test_swapped_blocks_are_found() -> None:
    swapped = DATA[:-128] + DATA[-64:] + DATA[-128:-64]
    assert swapped != DATA
    assert outcome(swapped) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"PK\x03\x04" + bytes(200), b"\x80\x04" + b"." * 200, bytes(4096), b"\xff" * 99],
)
def test_other_kinds_of_files(data: bytes) -> None:
    refused(data, "not an engine, but some other kind of file. Give the path")


def test_a_safetensors_file_that_is_no_engine() -> None:
    header = {"__metadata__": {"format": "pt"}, "w": {"dtype": "U8", "shape": [0],
                                                     "data_offsets": [0, 0]}}
    content = json.dumps(header).encode()
    refused(len(content).to_bytes(8, "little") + content, "not an engine, but a safetensors file")


# ---- other versions -----------------------------------------------------------------------------


def test_a_future_version_says_which_torch2rt_reads_it() -> None:
    header, body = split(DATA)
    header["__metadata__"] |= {"format": "2", "needs": "0.9.0", "news": "?"}
    header["w"] = {"dtype": "F4_NEW", "blocks": []}
    refused(seal(header, body), "format version '2', .* reads version 1. Install torch2rt '0.9.0'")


@pytest.mark.parametrize("version", ["0", "", "01", "1 ", "one", "-1", "9" * 5000])
def test_no_other_spelling_of_a_version_is_taken(version: str) -> None:
    refused(changed(("__metadata__", "format"), version), "format version")


# ---- hostile headers ----------------------------------------------------------------------------

TENSOR = "constants/w"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("__metadata__",), [], "not an engine"),
        (("__metadata__", "news"), "x", "unknown or missing: .*news"),
        (("__metadata__", "network"), 5, "object of strings"),
        (("__metadata__", "network"), None, "object of strings"),
        (("__metadata__", "plans"), "", "field 'plans' is not valid JSON"),
        (("__metadata__", "plans"), "[" * 100_000, "field 'plans' is not valid JSON"),
        (("__metadata__", "plans"), "[" * 200 + "]" * 200, "field 'plans' is nested"),
        (("__metadata__", "plans"), "{}", "field 'plans' has another structure"),
        (("__metadata__", "plans"), "[[]]", "field 'plans' has another structure"),
        (("__metadata__", "plans"), '[{"a":1,"a":2}]', "appears twice"),
        (("__metadata__", "plans"), '[{"a":"\\ud800"}]', "field 'plans' is not valid JSON"),
        (("__metadata__", "plans"), "[" + "9" * 9999 + "]", "field 'plans' is not valid JSON"),
        (("__metadata__", "calls"), "null", "field 'calls' has another structure"),
        (("__metadata__", "origins"), '{"conv":[["a",1]]}', "field 'origins'"),
        (("__metadata__", "environment"), '{"a":{}}', "field 'environment'"),
        (("__metadata__", "calibration"), "1", "field 'calibration'"),
        ((TENSOR, "dtype"), "F33", "has dtype 'F33'"),
        ((TENSOR, "dtype"), ["F32"], "has dtype"),
        ((TENSOR, "dtype"), "F64", "its place is"),
        ((TENSOR, "dtype"), "BF16", "its place is"),
        ((TENSOR, "shape"), [7], "its place is"),
        ((TENSOR, "shape"), [], "its place is"),
        ((TENSOR, "shape"), [-6], "has shape"),
        ((TENSOR, "shape"), [6.0], "has shape"),
        ((TENSOR, "shape"), [True, 6], "has shape"),
        ((TENSOR, "shape"), 6, "has shape"),
        ((TENSOR, "shape"), "6", "has shape"),
        ((TENSOR, "shape"), [1] * 40 + [6], "has shape"),
        ((TENSOR, "shape"), [2**62, 2**62], "has shape"),
        ((TENSOR, "shape"), [0, 2**62, 2**62], "has shape"),
        ((TENSOR, "shape"), [10**4000], "has shape"),
        ((TENSOR, "data_offsets"), [0, 24], "its place is"),
        ((TENSOR, "data_offsets"), [129, 153], "its place is"),
        ((TENSOR, "data_offsets"), [-24, 0], "has shape"),
        ((TENSOR, "data_offsets"), [128.0, 152.0], "has shape"),
        ((TENSOR, "data_offsets"), [128], "its place is"),
        ((TENSOR, "data_offsets"), {}, "has shape"),
        ((TENSOR, "extra"), 1, "the entry of tensor"),
        ((TENSOR,), [], "the entry of tensor"),
        (("other",), {"dtype": "U8", "shape": [0], "data_offsets": [152, 152]}, "not aligned"),
        (("other",), {"dtype": "U8", "shape": [9], "data_offsets": [152, 161]}, "truncated"),
    ],
)
def test_hostile_headers(path: tuple[str, ...], value: object, reason: str) -> None:
    refused(changed(path, value), reason)


def test_hostile_tensors() -> None:
    header, body = split(DATA)
    header["elsewhere/w"] = header.pop(TENSOR)
    refused(seal(header, body), "neither a constant nor a blob")
    refused(changed(("blobs/kernel", "shape"), [2, 2]), "neither a constant nor a blob")
    assert header["constants/b"]["data_offsets"] == [64, 66]
    refused(seal(split(DATA)[0], body[:64] + b"\2" + body[65:]), "other values than 0 and 1")


def test_names_twice_in_the_header() -> None:
    text = DATA[8:8 + int.from_bytes(DATA[:8], "little")].decode().rstrip()
    twice = text[:-1] + ',"constants/w":' + json.dumps(split(DATA)[0][TENSOR]) + "}"
    zeroed = re.sub('"header_crc32":"........"', '"header_crc32":"00000000"', twice)
    refused(seal(zeroed, split(DATA)[1]), "appears twice")


def test_an_unaligned_data_section() -> None:
    header, body = split(DATA)
    unaligned = 0
    for _ in range(3):
        header["__metadata__"]["network"] += "x"
        sealed = seal(header, body, align=False)
        if (len(sealed) - len(body)) % 64:
            unaligned += 1
            refused(sealed, "not at a multiple of 64")
    assert unaligned >= 2


def test_a_header_of_half_a_surrogate_or_of_no_utf8() -> None:
    start = '{"__metadata__":{"header_crc32":"00000000","a":"%s"}}'
    refused(seal(start % "\\ud800", b""), "not valid JSON")
    refused(seal(start % "\ud800", b""), "not UTF-8")


@pytest.mark.parametrize("length", [0, 1, 40, 2**31, 2**62, 2**63, 2**64 - 1])
def test_hostile_header_lengths(length: int) -> None:
    refused(length.to_bytes(8, "little") + DATA[8:], "header")


def test_a_header_over_the_limit_is_neither_read_nor_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "MAX_HEADER_BYTES", 200)
    refused(DATA, "the header takes")
    with pytest.raises(EngineFileError, match=r"the header takes .* bytes, over 200"):
        to_bytes(SMALL)


def test_nothing_large_is_allocated_for_a_small_file() -> None:
    shapes = [([2**40], [0, 2**42]), ([2**33], [0, 2**35]), ([2**60], [0, 2**62])]
    tracemalloc.start()
    try:
        for shape, offsets in shapes:
            entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            header = {"__metadata__": split(DATA)[0]["__metadata__"], TENSOR: entry}
            refused(seal(header, b"1234"), "truncated|has shape")
        refused((2**33).to_bytes(8, "little") + DATA[8:], "truncated")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


# ---- fuzz ---------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers(-5, 300) | st.sampled_from([2**31, 2**62, 2**64, -1])
    | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "BOOL", "BF16", "[]", "{}", "1"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner,
                                                                max_size=3),
    max_leaves=8,
)


@fuzz
@given(st.integers(0, len(DATA)), st.integers(0, 80), st.binary(max_size=80))
def test_fuzz_replaced_bytes(start: int, count: int, patch: bytes) -> None:
    data = DATA[:start] + patch + DATA[start + count:]
    assert (outcome(data) is not None) == (data == DATA)


@fuzz
@given(st.binary(max_size=300), st.booleans())
def test_fuzz_any_bytes(data: bytes, with_start: bool) -> None:
    start = DATA[:16 + len('"__metadata__":{"header_crc32')] if with_start else b""
    assert outcome(start + data) is None


@fuzz
@given(st.data())
def test_fuzz_sealed_headers(data: st.DataObject) -> None:
    header, body = split(DATA)
    place = header
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    action = data.draw(st.sampled_from(["replace", "remove", "rename"]))
    old = place.pop(key)
    if action == "replace":
        place[key] = data.draw(values)
    elif action == "rename":
        place[data.draw(st.text(max_size=8))] = old
    outcome(seal(header, body))


@fuzz
@given(
    st.sampled_from(["plans", "calls", "origins", "report", "environment", "calibration"]),
    values.map(json.dumps) | st.text(max_size=30) | st.text('[]{}",:0', max_size=30),
)
def test_fuzz_fields(name: str, text: str) -> None:
    outcome(changed(("__metadata__", name), text))


@fuzz
@given(
    st.lists(st.integers(-1, 70), max_size=4),
    st.sampled_from(["F32", "U8", "BOOL", "F8_E4M3"]),
    st.integers(0, 200), st.integers(0, 200), st.binary(max_size=200),
)
def test_fuzz_tensors(shape: list[int], dtype: str, begin: int, end: int, body: bytes) -> None:
    metadata = split(DATA)[0]["__metadata__"]
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    engine = outcome(seal({"__metadata__": metadata, TENSOR: entry}, body))
    if engine is not None:
        assert engine.constants["w"].nbytes == end == len(body)
        assert engine.constants["w"].tobytes() == body
