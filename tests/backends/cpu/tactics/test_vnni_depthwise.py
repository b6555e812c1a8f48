"""Depthwise convolutions of bytes by our own kernels, against the reference."""

from collections.abc import Sequence

import pytest
import torch
from tactic_testing import check_tactic

from torch2rt.backends.cpu.jit import jit_unavailable
from torch2rt.backends.cpu.jit.compiler import has_byte_products
from torch2rt.backends.cpu.vnni.depthwise_plan import panel_starts
from torch2rt.backends.cpu.vnni.tile import grid_columns
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

if jit_unavailable() is not None or not has_byte_products():
    pytest.skip("needs llvmlite and a CPU with AVX512_VNNI", allow_module_level=True)

NAME = "convolution.vnni.depthwise"
# Of values rounded to 8 bits so many may fall to the other side of a boundary.
FLIPS = 2e-3
UNSIGNED, SIGNED = "to_uint8(clamp(round({}),0.0,255.0))", "to_int8(clamp(round({}),-128.0,127.0))"
SCALED = "add(mul(to_float32(i0),i1),i2)"


def stored(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape, dtype=torch.int64).to(dtype)


def window(size: int, stride: int, groups: int, dilation: int = 1) -> Convolution:
    half = (size // 2 * dilation,) * 2
    return Convolution((stride, stride), half, half, (dilation, dilation), groups)


def further(k: int, taps: int) -> list[torch.Tensor]:
    return [torch.rand(k, 1, 1) * 0.01 / taps**0.5 + 0.001, torch.randn(k, 1, 1) * 20]


# channels, image, window, taps
SHAPES = {
    "3x3": (64, (8, 14), window(3, 1, 64), (3, 3)),
    "3x3, overlapping panels": (144, (5, 6), window(3, 1, 144), (3, 3)),
    "3x3 by 2": (96, (9, 13), window(3, 2, 96), (3, 3)),
    "5x5": (128, (7, 7), window(5, 1, 128), (5, 5)),
    "5x5 by 2": (65, (14, 15), window(5, 2, 65), (5, 5)),
    "5x5, a small image": (64, (2, 3), window(5, 1, 64), (5, 5)),
    "distant pixels": (64, (9, 8), window(3, 1, 64, 2), (3, 3)),
    "one pixel": (64, (3, 8), window(1, 1, 64), (1, 1)),
    "wide": (72, (4, 9), Convolution((1, 2), (1, 0), (0, 3), (1, 1), 72), (2, 4)),
    "outside the image": (64, (3, 3), Convolution((1, 1), (6, 6), (6, 6), (1, 1), 64), (3, 3)),
}


@pytest.mark.parametrize("text", [UNSIGNED, SIGNED])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, text: str) -> None:
    channels, image, kind, taps = SHAPES[name]
    check_tactic(
        NAME, kind,
        [stored(torch.uint8, 2, channels, *image), stored(torch.int8, channels, 1, *taps),
         *further(channels, taps[0] * taps[1])],
        text.format(SCALED), constants=[1, 2, 3], tolerance=FLIPS,
        out_dtype=DType.UINT8 if text is UNSIGNED else DType.INT8,
    )


def test_sums_are_exact() -> None:
    """With a factor of 1 every sum that fits 8 bits is stored as it is, for each tap alone."""
    for tap in range(9):
        w = torch.zeros(80, 1, 9, dtype=torch.int8)
        w[:, :, tap] = torch.arange(80, dtype=torch.int8).reshape(80, 1) % 5 - 2
        check_tactic(
            NAME, window(3, 1, 80), [stored(torch.uint8, 1, 80, 6, 7), w.reshape(80, 1, 3, 3)],
            SIGNED.format("to_float32(i0)"), constants=[1], out_dtype=DType.INT8,
        )


@pytest.mark.parametrize("residual", [torch.uint8, torch.int8])
def test_a_residual_is_added(residual: torch.dtype) -> None:
    text = f"relu(add({SCALED},mul(to_float32(i3),0.731)))"
    check_tactic(
        NAME, window(3, 1, 96),
        [stored(torch.uint8, 1, 96, 5, 8), stored(torch.int8, 96, 1, 3, 3), *further(96, 9),
         stored(residual, 1, 96, 5, 8)],
        UNSIGNED.format(text), constants=[1, 2, 3], tolerance=FLIPS, out_dtype=DType.UINT8,
    )


@pytest.mark.parametrize(
    ("kind", "x", "w", "dtype", "reason"),
    [
        (window(3, 1, 64), (1, 64, 5, 5), (64, 1, 3, 3), torch.int8, "unsigned by signed bytes"),
        (window(3, 1, 32), (1, 32, 5, 5), (32, 1, 3, 3), torch.uint8, "less than 64 channels"),
        (window(3, 1, 64), (1, 64, 5, 5), (128, 1, 3, 3), torch.uint8, "a group per channel"),
        (window(9, 1, 64), (1, 64, 9, 9), (64, 1, 9, 9), torch.uint8, "more than 49 pixels"),
        (window(3, 1, 64), (0, 64, 5, 5), (64, 1, 3, 3), torch.uint8, "the output is empty"),
    ],
)
def test_layers_that_are_refused(
    kind: Convolution, x: Sequence[int], w: Sequence[int], dtype: torch.dtype, reason: str
) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_tactic(
            NAME, kind, [stored(dtype, *x), stored(torch.int8, *w)],
            SIGNED.format("to_float32(i0)"), constants=[1], out_dtype=DType.INT8,
        )


@pytest.mark.parametrize(
    ("epilogue", "dtype"), [("to_float32(i0)", DType.FLOAT32), (None, DType.INT32)]
)
def test_results_of_more_than_8_bits_are_refused(epilogue: str | None, dtype: DType) -> None:
    with pytest.raises(AssertionError, match="the kernel stores bytes"):
        check_tactic(
            NAME, window(3, 1, 64),
            [stored(torch.uint8, 1, 64, 5, 5), stored(torch.int8, 64, 1, 3, 3)], epilogue,
            constants=[1], out_dtype=dtype,
        )


def test_panels_cover_all_channels() -> None:
    assert panel_starts(64) == [0]
    assert panel_starts(96) == [0, 32]
    assert panel_starts(256) == [0, 64, 128, 192]


@pytest.mark.parametrize(
    ("panels", "tiles", "threads", "prefers_panels", "expected"),
    [(18, 7, 2, False, 2), (11, 28, 2, True, 1), (3, 4, 8, False, 2), (3, 4, 8, True, 4),
     (4, 28, 2, False, 1), (4, 28, 2, True, 2), (5, 5, 1, True, 1)],
)
def test_work_is_divided_evenly(
    panels: int, tiles: int, threads: int, prefers_panels: bool, expected: int
) -> None:
    assert grid_columns(panels, tiles, threads, prefers_panels) == expected
