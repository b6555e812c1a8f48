"""The 64-bit numbers that describe a run and its tiles to compiled functions."""

from __future__ import annotations

from enum import IntEnum, auto


class Field(IntEnum):
    """Positions of the 64-bit numbers a run is described by."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last: list[int]) -> int:
        return count

    source = auto()  # address of what tiles read
    weights = auto()  # address of the packed weights
    table = auto()  # address of the addresses that tiles read
    tiles = auto()  # address of the tiles of an image, `Entry` numbers each
    tile_count = auto()
    images = auto()
    image_bytes = auto()  # of the input
    image_elements = auto()  # of the output
    out_channels = auto()
    panels = auto()
    whole_panels = auto()
    panel_bytes = auto()  # of a whole panel of weights
    vectors = auto()  # registers of a whole panel
    last_vectors = auto()
    columns = auto()  # of the grid of threads
    ahead_bytes = auto()  # fetched by a whole tile
    has_copy = auto()  # whether that is a copy, described by the following
    given = auto()  # address of x
    copy_kernel = auto()
    copy_rows = auto()  # of all images, padding included
    copy_height = auto()
    copy_row_bytes = auto()
    copy_top = auto()  # rows of padding
    copy_left_bytes = auto()
    row_bytes = auto()  # of x
    height = auto()
    flip = auto()  # bits of each byte that are inverted
    barrier = auto()  # address of GOMP_barrier
    thread_number = auto()  # address of omp_get_thread_num
    thread_count = auto()  # address of omp_get_num_threads


class Entry(IntEnum):
    """Positions of the 64-bit numbers that describe a tile."""

    kernel = 0  # address of the function for whole panels
    last_kernel = 1
    source_bytes = 2  # of its input in an image
    vector_bytes = 3  # of its first row of taps, in the weights of a register
    pixel = 4  # its first, in the output
    rows = 5  # of taps
