"""Darknet's ``.weights``: a header, then float32 numbers of all layers, little-endian.

The header has four layouts:

| layout | bytes | contents |
|---|---|---|
| FLOATS | 16 | learning rate, momentum, decay as float32, images seen as int32: before versions |
| SEEN_32 | 16 | major, minor, revision as int32, seen as int32: versions before 0.2 |
| SEEN_64 | 20 | major, minor, revision as int32, seen as int64: 0.2 and later |
| SEEN_32_LATE | 16 | versions from 0.2 as a 32-bit build wrote them, seen as int32 |

The first three can be told apart by the numbers: a float read as a version is above 1000, which is
also Darknet's own test for matrices that are stored transposed. The last one shows by its length.

The numbers of a layer: biases; with batch norm scales, means, variances; then weights. Fully
connected layers store batch norm after the weights. Source: src/parser.c, load_weights_upto.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from torch2rt.plugins.darknet.errors import DarknetError

if TYPE_CHECKING:
    from torch2rt.plugins.darknet.module import Darknet

_NUMBER = np.dtype("<f4")


class Layout(enum.Enum):
    """How the header lies in the file: the format of `struct`."""

    FLOATS = "<fffi"
    SEEN_32 = "<iiii"
    SEEN_64 = "<iiiq"
    SEEN_32_LATE = "<3ii"

    @property
    def size_bytes(self) -> int:
        """Bytes of the header."""
        return struct.calcsize(self.value)

    @property
    def is_transposed(self) -> bool:
        """Whether fully connected layers store their matrices as [inputs, outputs]."""
        return self is Layout.FLOATS


@dataclass(frozen=True, slots=True)
class Header:
    """The start of the file.

    ``version``: major, minor, revision; of FLOATS learning rate, momentum, decay.
    """

    layout: Layout = Layout.SEEN_64
    version: tuple[float, float, float] = (0, 2, 0)
    images_seen: int = 0

    def to_bytes(self) -> bytes:
        """As it lies in the file."""
        return struct.pack(self.layout.value, *self.version, self.images_seen)


def read_weights(data: bytes, counts: Sequence[int]) -> tuple[Header, list[np.ndarray]]:
    """The header and one float32 array per count. DarknetError unless the length is exactly right.

    Example:
        >>> header, arrays = read_weights(Path("x.weights").read_bytes(), [32, 32, 32, 32, 864])
    """
    header = _read_header(data, sum(counts) * _NUMBER.itemsize)
    body = memoryview(data)[header.layout.size_bytes :]
    _check_length(len(body), counts)
    numbers = np.frombuffer(body, _NUMBER)
    ends = np.cumsum(counts)
    return header, [
        numbers[end - count : end].copy() for end, count in zip(ends, counts, strict=True)
    ]


def write_weights(arrays: Sequence[np.ndarray], header: Header | None = None) -> bytes:
    """A file of these arrays, in this order."""
    parts = [np.ascontiguousarray(array, _NUMBER).tobytes() for array in arrays]
    return (header or Header()).to_bytes() + b"".join(parts)


def load_weights(model: Darknet, path: str | os.PathLike[str]) -> Header:
    """Fill a model from a file.

    DarknetError if the file is not exactly as long as the model's layers say, or if a variance is
    negative or a number is not finite; the model is then as it was.
    """
    stored = model.stored()
    header, arrays = read_weights(Path(path).read_bytes(), [s.tensor.numel() for s in stored])
    for slot, array in zip(stored, arrays, strict=True):
        if not np.isfinite(array).all():
            raise _error(f"{slot.name} has numbers that are not finite")
        if slot.is_variance and (array < 0).any():
            raise _error(f"{slot.name} has negative variances: the cfg is of another network")
    with torch.no_grad():
        for slot, array in zip(stored, arrays, strict=True):
            numbers = torch.from_numpy(array)
            if slot.is_matrix and header.layout.is_transposed:
                numbers = numbers.reshape(slot.tensor.shape[::-1]).t()
            slot.tensor.copy_(numbers.reshape(slot.tensor.shape))
    return header


def save_weights(
    model: Darknet, path: str | os.PathLike[str], header: Header | None = None
) -> None:
    """Write a model as a ``.weights`` file."""
    header = header or Header()
    arrays = []
    for slot in model.stored():
        tensor = slot.tensor.detach().cpu().float()
        is_turned = slot.is_matrix and header.layout.is_transposed
        arrays.append((tensor.t() if is_turned else tensor).reshape(-1).numpy())
    Path(path).write_bytes(write_weights(arrays, header))


def _read_header(data: bytes, body_bytes: int) -> Header:
    if len(data) < Layout.SEEN_32.size_bytes:
        raise _error(f"{len(data)} bytes are too few for a header")
    major, minor, _, _ = struct.unpack_from(Layout.SEEN_32.value, data)
    if not 0 <= major <= 1000 or not 0 <= minor <= 1000:
        layout = Layout.FLOATS
    elif major * 10 + minor < 2:
        layout = Layout.SEEN_32
    elif len(data) == Layout.SEEN_32_LATE.size_bytes + body_bytes and any(data[16:20]):
        # Otherwise these are the upper half of an int64, and the file lacks its last number.
        layout = Layout.SEEN_32_LATE
    else:
        layout = Layout.SEEN_64
    if len(data) < layout.size_bytes:
        raise _error(f"{len(data)} bytes are too few for a header of {layout.size_bytes}")
    *version, seen = struct.unpack_from(layout.value, data)
    first, second, third = version
    if seen < 0 or not all(np.isfinite(version)):
        raise _error(f"the header says version {version}, {seen} images seen: not of Darknet")
    return Header(layout, (first, second, third), seen)


def _check_length(found: int, counts: Sequence[int]) -> None:
    wanted = sum(counts) * _NUMBER.itemsize
    if found == wanted:
        return
    if found < wanted:
        ends = np.cumsum(counts) * _NUMBER.itemsize
        part = int(np.searchsorted(ends, found, side="right"))
        raise _error(
            f"it ends too early: the layers want {wanted} bytes after the header, there are "
            f"{found}; array {part} of {len(counts)} is the first that is not whole"
        )
    raise _error(
        f"it is too long: the layers want {wanted} bytes after the header, there are {found}. "
        "The cfg is of another network"
    )


def _error(reason: str) -> DarknetError:
    return DarknetError(file="weights", reason=reason)
