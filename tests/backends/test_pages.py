"""Memory in large pages: aligned, zeroed, apart from one another, and alive while it is used."""

import gc
import itertools

import numpy as np
import pytest

from torch2rt.backends.buffer import address_of
from torch2rt.backends.pages import PAGE_BYTES, paged_bytes

SIZES = [0, 1, 64, 4095, 4096, 5000, 1 << 20, (9 << 20) + 3]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_aligned_zeroed_and_writable(size: int) -> None:
    block = paged_bytes(size)
    assert block.dtype == np.uint8
    assert block.size == size
    assert not block.any()
    block[:] = 255
    assert size == 0 or address_of(block) % 64 == 0


def test_a_large_block_starts_at_a_large_page() -> None:
    assert address_of(paged_bytes(SIZES[-1])) % PAGE_BYTES == 0


def test_blocks_do_not_overlap() -> None:
    blocks = [paged_bytes(size) for size in SIZES[1:] * 6]
    spans = sorted((address_of(block), address_of(block) + block.size) for block in blocks)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_block_outlives_the_others_of_its_chunk() -> None:
    blocks = [paged_bytes(1 << 20) for _ in range(40)]
    kept = blocks[7]
    kept[:] = 7
    del blocks
    gc.collect()
    assert (kept == 7).all()
