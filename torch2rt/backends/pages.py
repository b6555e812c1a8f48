"""Memory in large pages: weights and activations are read through fewer page-table entries.

A network's weights fill thousands of pages of 4 KiB, more than a core's translation buffers hold,
and every miss walks the page table, twice over in a virtual machine. In pages of 2 MiB they fill a
few dozen. Small blocks share a chunk of them, which lives as long as one of its blocks does.
"""

from __future__ import annotations

import contextlib
import mmap
import threading

import numpy as np

from torch2rt.backends.buffer import aligned_bytes
from torch2rt.network.dtype import Array

PAGE_BYTES = 2 << 20
_CHUNK_BYTES = 16 << 20
# Less than this is not worth a place in a chunk.
_SMALLEST_BYTES = 4096
_ALIGNMENT_BYTES = 64


class _Chunks:
    """Hands out parts of the current chunk; a part keeps its chunk alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk: Array = np.empty(0, np.uint8)
        self._used_bytes = 0

    def take(self, size: int) -> Array:
        with self._lock:
            if self._used_bytes + size > self._chunk.size:
                self._chunk, self._used_bytes = _mapped(_CHUNK_BYTES), 0
            part = self._chunk[self._used_bytes : self._used_bytes + size]
            self._used_bytes += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
            return part


_CHUNKS = _Chunks()


def paged_bytes(size: int) -> Array:
    """Zeroed memory of ``size`` bytes at a multiple of 64, in large pages where there are some."""
    if size < _SMALLEST_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned_bytes(size)
    if size > _CHUNK_BYTES // 2:
        return _mapped(size)
    return _CHUNKS.take(size)


def _mapped(size: int) -> Array:
    """A mapping of its own that starts at a large page."""
    mapping = mmap.mmap(-1, size + PAGE_BYTES)
    with contextlib.suppress(OSError):  # the kernel may be built without: small pages do
        mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8)
    start = -whole.__array_interface__["data"][0] % PAGE_BYTES
    part: Array = whole[start : start + size]
    return part
