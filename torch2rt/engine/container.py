"""The container of an engine file: one safetensors file, packed from and unpacked to numpy arrays.

Layout::

    8 bytes             length of the header, little-endian
    JSON object         "__metadata__" (strings), then one entry per tensor, in file order;
                        padded with spaces so that the data starts at a multiple of 64 bytes
    data                the tensors, each at a multiple of 64 bytes

safetensors allows no holes, so the bytes between two tensors are tensors too ("padding/0", ...).
The metadata starts with the CRC-32 of everything before the data, its own eight digits counted as
zeros, so that a reader of any version can check the header before it believes a word of it; the
CRC-32 of the data follows. A CRC-32 finds every flipped bit and every damaged run of up to 32 bits.
CRC-32 guards against accidents only: a hostile file has the right checksums, so every number is
checked against the size of the file before it is used, and nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import reprlib
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from torch2rt.errors import Torch2rtError
from torch2rt.network.dtype import Array, DType

ALIGNMENT_BYTES = 64
FORMAT_VERSION = 1
# The first torch2rt that reads this format version; a file tells it to older readers.
FORMAT_NEEDS = "0.1.0"
# Real headers are a few MB; parsed JSON takes up to 30 times its text, so this bounds memory too.
MAX_HEADER_BYTES = 64 << 20

_START = b'{"__metadata__":{"header_crc32":"'
_NO_CRC = b"00000000"
_LENGTH = struct.Struct("<Q")
_CRC_AT = _LENGTH.size + len(_START)
_OWN_METADATA = ("header_crc32", "format", "needs", "data_crc32")
_PADDING = "padding/"
_MAX_RANK = 32
_MAX_ADDRESS = 1 << 62
_MAX_DEPTH = 100
_DTYPE_NAMES = {
    DType.FLOAT64: "F64",
    DType.FLOAT32: "F32",
    DType.FLOAT16: "F16",
    DType.BFLOAT16: "BF16",
    DType.FLOAT8_E4M3: "F8_E4M3",
    DType.INT64: "I64",
    DType.INT32: "I32",
    DType.INT16: "I16",
    DType.INT8: "I8",
    DType.UINT8: "U8",
    DType.BOOL: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 80

NOT_AN_ENGINE = "Give the path of a file that an engine was saved to."
DAMAGED = "The file is damaged or was altered: copy it again, or save the engine again."


class ContainerError(Torch2rtError, ValueError):
    """Bytes that are not a container, or content that does not fit into one."""

    template = "{reason}. {remedy}"


class TypedArray(NamedTuple):
    """An array with its true dtype; bfloat16 and float8 arrays hold bits (see `DType.numpy`)."""

    dtype: DType
    array: Array


Metadata: TypeAlias = dict[str, str]
Tensors: TypeAlias = dict[str, TypedArray]


def pack(metadata: Mapping[str, str], tensors: Mapping[str, TypedArray]) -> list[memoryview]:
    """The file as buffers to write one after the other; tensors are not copied.

    Metadata keeps its order, tensors are sorted by name: same content, same bytes.
    Raises ContainerError if something cannot be stored.
    """
    entries: dict[str, dict[str, Any]] = {}
    pieces: list[memoryview] = []
    end = data_crc = 0
    for wanted in sorted(tensors):
        for name, stored in (*_padding(end), (wanted, tensors[wanted])):
            if stored.array.ndim > _MAX_RANK:
                raise not_storable(f"tensor {brief(name)} has {stored.array.ndim} axes")
            piece = np.asarray(stored.array, order="C").reshape(-1).view(np.uint8).data
            entries[name] = {
                "dtype": _DTYPE_NAMES[stored.dtype],
                "shape": list(stored.array.shape),
                "data_offsets": [end, end + len(piece)],
            }
            end += len(piece)
            data_crc = zlib.crc32(piece, data_crc)
            pieces.append(piece)
    own = (_NO_CRC.decode(), str(FORMAT_VERSION), FORMAT_NEEDS, f"{data_crc:08x}")
    text = dict(zip(_OWN_METADATA, own, strict=True)) | dict(metadata)
    return [memoryview(_seal(to_json({"__metadata__": text, **entries}))), *pieces]


def unpack(data: memoryview) -> tuple[Metadata, Tensors]:
    """Metadata and tensors, as read-only views of ``data``; everything is checked first.

    Raises ContainerError, and nothing else, for any bytes whatever.
    """
    header_end = _header_end(data)
    try:
        text = bytes(data[_LENGTH.size:header_end]).decode()
    except UnicodeDecodeError as error:
        raise damaged(f"the header is not UTF-8 ({error.reason})") from error
    header = parse_json(text, "the header")
    if not isinstance(header, dict):
        raise damaged("the header is not an object")
    metadata = _metadata(header.pop("__metadata__", None))
    body = data[header_end:]
    tensors = _tensors(header, body)
    if f"{zlib.crc32(body):08x}" != metadata["data_crc32"]:
        raise ContainerError(reason="the checksum of the data does not match", remedy=DAMAGED)
    for name, stored in tensors.items():
        if stored.dtype is DType.BOOL and stored.array.view(np.uint8).max(initial=0) > 1:
            raise damaged(f"tensor {brief(name)} of bools holds other values than 0 and 1")
    return {k: v for k, v in metadata.items() if k not in _OWN_METADATA}, tensors


def to_json(value: object) -> str:
    """Compact JSON, keys in their order. ContainerError if it is not made of JSON values."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise not_storable(f"a value cannot be written as JSON ({error})") from error
    if _is_too_deep(value):
        raise not_storable(f"a value is nested more than {_MAX_DEPTH} deep")
    return text


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text; ContainerError, naming ``what``, if it is not one.

    Refuses what JSON parsers usually let through: an object that has the same key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
        if "\\ud" in text or "\\uD" in text:
            # An escaped half of a surrogate pair parses, but breaks whoever prints it.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise damaged(f"{what} is not valid JSON ({error})") from error
    if _is_too_deep(value):
        raise damaged(f"{what} is nested more than {_MAX_DEPTH} deep")
    return value


def damaged(reason: str) -> ContainerError:
    """The error for content that `pack` cannot have written."""
    return ContainerError(reason=reason, remedy=DAMAGED)


def not_storable(reason: str) -> ContainerError:
    """The error for content that `pack` cannot write; nothing a user does should lead here."""
    return ContainerError(reason=reason, remedy="This is a bug of torch2rt; please report it.")


def brief(value: object) -> str:
    """A value of a file for an error message, however long it is there."""
    return _BRIEF.repr(value)


def _padding(end: int) -> list[tuple[str, TypedArray]]:
    """The tensor, if one is needed, that fills the bytes up to the next aligned offset."""
    missing = -end % ALIGNMENT_BYTES
    zeros = TypedArray(DType.UINT8, np.zeros(missing, np.uint8))
    return [(f"{_PADDING}{end}", zeros)] if missing else []


def _seal(text: str) -> bytes:
    """The header's bytes: length, text padded to where the data starts, checksum filled in."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise not_storable(f"a text cannot be written as UTF-8 ({error})") from error
    content += b" " * (-(_LENGTH.size + len(content)) % ALIGNMENT_BYTES)
    if len(content) > MAX_HEADER_BYTES:
        raise not_storable(f"the header takes {len(content)} bytes, over {MAX_HEADER_BYTES}")
    header = _LENGTH.pack(len(content)) + content
    crc = f"{zlib.crc32(header):08x}".encode()
    return header[:_CRC_AT] + crc + header[_CRC_AT + len(crc):]


def _header_end(data: memoryview) -> int:
    """Where the data starts, once the header is known to be whole and undamaged."""
    if data[_LENGTH.size:_CRC_AT] != _START:
        kind = "a safetensors file" if bytes(data[8:9]) == b"{" else "some other kind of file"
        raise ContainerError(reason=f"it is not an engine, but {kind}", remedy=NOT_AN_ENGINE)
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + int(length)
    if end > len(data) or length > MAX_HEADER_BYTES:
        raise damaged(f"the header takes {length} bytes, which is too many: truncated")
    crc_end = _CRC_AT + len(_NO_CRC)
    crc = zlib.crc32(data[crc_end:end], zlib.crc32(_NO_CRC, zlib.crc32(data[:_CRC_AT])))
    # Compared as text: "A" is one flipped bit away from "a" and means the same number.
    if data[_CRC_AT:crc_end] != f"{crc:08x}".encode():
        raise damaged("the checksum of the header does not match")
    if end % ALIGNMENT_BYTES:
        raise damaged(f"the data starts at {end}, not at a multiple of {ALIGNMENT_BYTES}")
    return end


def _metadata(metadata: object) -> Metadata:
    """The metadata, of a format version that can be read."""
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged("the metadata is not an object of strings")
    missing = [name for name in _OWN_METADATA if name not in metadata]
    if missing:
        raise damaged(f"the metadata lacks {', '.join(missing)}")
    if metadata["format"] != str(FORMAT_VERSION):
        needs = brief(metadata["needs"])
        raise ContainerError(
            reason=f"it has format version {brief(metadata['format'])}, and this torch2rt reads "
            f"version {FORMAT_VERSION}",
            remedy=f"Install torch2rt {needs} or newer, or save the engine again with this one.",
        )
    return metadata


def _tensors(entries: Mapping[str, Any], body: memoryview) -> Tensors:
    """Views of the tensors. Entries must follow one another without holes, to the end."""
    tensors: Tensors = {}
    end = 0
    for name, entry in entries.items():
        dtype, shape, size = _checked_entry(name, entry)
        begin, end = end, end + size
        if entry["data_offsets"] != [begin, end]:
            raise damaged(
                f"tensor {brief(name)} lies at {brief(entry['data_offsets'])}, its place is "
                f"[{begin}, {end}]"
            )
        if end > len(body):
            raise damaged(f"truncated: the data has {len(body)} bytes, at least {end} expected")
        if name.startswith(_PADDING):
            continue
        if begin % ALIGNMENT_BYTES:
            raise damaged(f"tensor {brief(name)} is not aligned to {ALIGNMENT_BYTES} bytes")
        array = np.ndarray(shape, dtype.numpy, buffer=body, offset=begin)
        tensors[name] = TypedArray(dtype, array)
    if end != len(body):
        raise damaged(f"the data has {len(body)} bytes, {end} expected")
    return tensors


def _checked_entry(name: str, entry: object) -> tuple[DType, tuple[int, ...], int]:
    """Dtype, shape and size in bytes of a tensor's entry, none of them absurd."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(f"the entry of tensor {brief(name)} is {brief(entry)}")
    dtype_name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype_name, str) or dtype_name not in _DTYPES:
        raise damaged(f"tensor {brief(name)} has dtype {brief(dtype_name)}")
    if not _are_sizes(shape) or len(shape) > _MAX_RANK or not _are_sizes(offsets):
        raise damaged(f"tensor {brief(name)} has shape {brief(shape)} at {brief(offsets)}")
    dtype = _DTYPES[dtype_name]
    reach = dtype.itemsize_bytes  # counts empty axes as 1: numpy refuses strides beyond 2^63
    for dim in shape:
        reach *= max(dim, 1)
    if reach > _MAX_ADDRESS:
        raise damaged(f"tensor {brief(name)} has shape {brief(shape)}")
    return dtype, tuple(shape), 0 if 0 in shape else reach


def _are_sizes(values: object) -> bool:
    """Whether it is a list of integers, none negative (True and 1.0 equal 1 and are not)."""
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _is_too_deep(value: object) -> bool:
    """Whether JSON is nested so deep that code walking it by recursion could fail."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return items
