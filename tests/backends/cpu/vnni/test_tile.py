"""How outputs are covered by tiles, and which taps a tile leaves out; needs no compiler."""

import itertools

import numpy as np
import pytest

from torch2rt.backends.cpu.vnni.copy import copied, flat_rows
from torch2rt.backends.cpu.vnni.epilogue import interleaved
from torch2rt.backends.cpu.vnni.tile import Geometry, Run, spans, tiles
from torch2rt.backends.cpu.vnni.weights import pack


def shape(
    size: tuple[int, int], window: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Geometry:
    reach = (window - 1) * dilation + 1
    made = [(extent + 2 * padding - reach) // stride + 1 for extent in size]
    return Geometry(
        8, 16, *size, made[0], made[1], (window, window), 8, (stride, stride), (padding, padding),
        (dilation, dilation),
    )


def test_taps_outside_the_image_are_left_out() -> None:
    left, right = spans(shape((4, 8), 3, padding=1), 4)
    assert left.runs == (Run(0, 1, 1, 4), Run(1, 2, 0, 4))
    assert right.runs == (Run(0, 2, 0, 4), Run(2, 1, 0, 3))
    middle = spans(shape((4, 12), 3, padding=1), 4)[1]
    assert middle.runs == (Run(0, 3, 0, 4),)


def test_distant_taps_are_apart() -> None:
    assert spans(shape((9, 9), 3, dilation=2), 8)[0].runs == tuple(
        Run(tap, 1, 0, 5) for tap in range(3)
    )


@pytest.mark.parametrize("size", [(7, 7), (5, 16), (3, 29)])
@pytest.mark.parametrize(("window", "stride", "padding", "dilation"), [
    (1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 2, 1), (3, 1, 2, 2), (7, 2, 3, 1),
])
def test_every_output_gets_its_taps_once(
    size: tuple[int, int], window: int, stride: int, padding: int, dilation: int
) -> None:
    given = shape(size, window, stride, padding, dilation)
    expected = np.zeros((given.out_height, given.out_width), int)
    for y, x, r, s in itertools.product(
        range(given.out_height), range(given.out_width), range(window), range(window)
    ):
        row, column = (place * stride - padding + tap * dilation for place, tap in ((y, r), (x, s)))
        expected[y, x] += 0 <= row < size[0] and 0 <= column < size[1]
    found = np.zeros_like(expected)
    for tile in tiles(given, 7):
        assert tile.span.pixels <= 7
        for run in tile.span.runs:
            first = tile.span.start
            found[tile.y, first + run.begin : first + run.end] += tile.rows * run.count
    assert (found == expected).all()


def test_a_copy_has_all_that_windows_reach() -> None:
    given = shape((6, 9), 3, 2, 1)
    padded = copied(given, False)
    assert (padded.height, padded.width, padded.padding) == (7, 11, (0, 0))
    assert all(tile.rows == 3 and len(tile.span.runs) == 1 for tile in tiles(padded, 7))


def test_a_row_of_taps_is_one_tap() -> None:
    flat = copied(shape((8, 8), 3, padding=1), True)
    assert (flat.window, flat.channels, flat.pixel_bytes) == ((3, 1), 24, 8)
    weights = np.arange(2 * 3 * 2 * 3).reshape(2, 3, 2, 3)
    made = flat_rows(weights)
    assert made.shape == (2, 12, 2, 1)
    assert made[1, :9, 1, 0].tolist() == weights[1, :, 1].T.reshape(-1).tolist()
    assert not made[:, 9:].any()


def test_channels_of_a_panel_are_in_quarters() -> None:
    order = interleaved(np.arange(128))
    assert order[:8].tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert order[16:20].tolist() == [4, 5, 6, 7]
    assert order[64:68].tolist() == [64, 65, 66, 67]


def test_weights_are_packed_panel_by_panel() -> None:
    weights = (np.arange(48 * 8) % 127).astype(np.int8).reshape(48, 8, 1, 1)
    packed = pack(weights, 2)
    whole = packed[: 32 * 8].reshape(2, 2, 16, 4)  # steps of four channels, registers, lanes
    assert (whole[1, 1] == weights[16:32, 4:, 0, 0]).all()
    assert (packed[32 * 8 :].reshape(2, 16, 4)[0] == weights[32:, :4, 0, 0]).all()
