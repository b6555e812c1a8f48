from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tactic_testing import make_spec

from torch2rt.backends.cuda.triton.convolution import box_count, box_shape
from torch2rt.backends.cuda.triton.operands import (
    Axis,
    aligned_strides,
    classify_extra,
    epilogue_refusal,
    fold,
    make_program,
)
from torch2rt.backends.cuda.triton.tiles import (
    BYTE_BOX_TILES,
    BYTE_MAP_TILES,
    POINTER_TILES,
    Tile,
    Work,
)
from torch2rt.backends.spec import TensorSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType


def test_dense_axes_fold_into_one() -> None:
    assert fold([Axis(2, (12, 0)), Axis(3, (4, 0)), Axis(4, (1, 0))]) == [Axis(24, (1, 0))]


def test_axes_that_one_operand_repeats_do_not_fold() -> None:
    assert fold([Axis(2, (12, 0)), Axis(12, (1, 1))]) == [Axis(2, (12, 0)), Axis(12, (1, 1))]


def test_axes_of_size_one_vanish() -> None:
    assert fold([Axis(1, (99,)), Axis(5, (1,)), Axis(1, (7,))]) == [Axis(5, (1,))]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 9))
@settings(max_examples=50)
def test_folded_axes_walk_the_same_elements(sizes: list[int], pitch: int) -> None:
    strides = [math.prod(sizes[i + 1 :]) + (pitch if i == 0 else 0) for i in range(len(sizes))]
    axes = [Axis(size, (stride,)) for size, stride in zip(sizes, strides, strict=True)]

    def offsets(axes: list[Axis]) -> list[int]:
        found = [0]
        for axis in axes:
            found = [at + i * axis.strides[0] for at in found for i in range(axis.size)]
        return found

    assert offsets(fold(axes)) == offsets(axes)


def test_broadcast_operands_have_strides_of_zero() -> None:
    operand = TensorSpec((3, 1, 5), DType.FLOAT32)
    assert aligned_strides(operand, (2, 3, 4, 5)) == (0, 5, 0, 1)


@pytest.mark.parametrize(("strides", "column", "kind"), [
    ((0, 0, 0), 0, "scalar"), ((0, 0, 0), 1, "column"), ((0, 0, 64), 1, "matrix"),
    ((96, 0, 0), 1, "matrix"), ((0, 0, 1), 0, None), ((0, 0, 0), 7, None),
])
def test_kinds_of_epilogue_operands(
    strides: tuple[int, int, int], column: int, kind: str | None
) -> None:
    found = classify_extra(2, DType.FLOAT32, strides, column, 64)
    assert (found.kind if found else None) == kind


def linear(epilogue: str | None, *extras: torch.Tensor) -> object:
    inputs = [torch.zeros(4, 8), torch.zeros(6, 8), *extras]
    return make_spec(Matmul(transpose_b=True), inputs, epilogue)


@pytest.mark.parametrize(("epilogue", "extras", "reason"), [
    ("bitwise_not(i0)", (), "bitwise_not"),
    ("add(add(add(add(i0,i1),i2),i3),i4)", (torch.zeros(6),) * 4, "4 operands"),
    ("add(i0,i1)", (torch.zeros(6, dtype=torch.int64),), "int64"),
])
def test_refused_epilogues(
    epilogue: str, extras: tuple[torch.Tensor, ...], reason: str
) -> None:
    refusal = epilogue_refusal(linear(epilogue, *extras))  # type: ignore[arg-type]
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_numbers_of_zero_and_one_become_code() -> None:
    spec = linear(None)
    types = [("a", "*fp16"), ("e1", "constexpr")]
    numbers = {"m": 64, "k": 64, "n": 24, "a_row": 1, "b_row": 0, "odd": 7}
    program, passed = make_program(
        spec, "gemm", "gemm", types, numbers, {"BLOCK": 16}, 4, 2,  # type: ignore[arg-type]
    )
    assert [number.value for number in passed] == [64, 64, 24, 7]
    assert dict(program.constants) == {"e1": None, "a_row": 1, "b_row": 0, "BLOCK": 16}
    assert dict(program.divisors) == {"a": 16, "k": 16, "n": 8}


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.sampled_from([32, 64, 256]))
@settings(max_examples=60)
def test_boxes_cover_every_pixel(images: int, rows: int, columns: int, size: int) -> None:
    box = box_shape(images, rows, columns, size)
    assert math.prod(box) == size
    assert box_count(images, rows, columns, box) * size >= images * rows * columns


@pytest.mark.parametrize(("pixels", "size", "box"), [
    ((64, 56, 56), 128, (2, 8, 8)), ((1, 7, 7), 64, (1, 8, 8)), ((64, 14, 14), 128, (32, 2, 2)),
])
def test_boxes_waste_least_and_are_square(
    pixels: tuple[int, int, int], size: int, box: tuple[int, int, int]
) -> None:
    assert box_shape(*pixels, size) == box


def test_names_of_tiles_differ() -> None:
    for tiles in (BYTE_MAP_TILES, POINTER_TILES, BYTE_BOX_TILES):
        assert len({tile.name for tile in tiles}) == len(tiles)


def test_larger_products_take_longer() -> None:
    class Card:
        multiprocessors = 132
        shared_bytes = 227 * 1024

    tile = Tile(128, 128, 64, 8, 4)
    times = [
        Work(m, 768, 768, 1, 2, 2 * (m * 1536 + 768 * 768), 2).estimate_us(
            tile, Card(), through_maps=True,  # type: ignore[arg-type]
        )
        for m in (128, 4096, 65536)
    ]
    assert times == sorted(times)
    assert times[0] < 10 < times[2]
