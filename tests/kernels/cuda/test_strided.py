"""Merged walks: every offset is that of the axes they were made from."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import run_kernel

from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import (
    MAX_SPAN,
    Axis,
    contiguous_length,
    count,
    index_type,
    merge_axes,
    vector_size,
    walk_function,
)


def offsets(axes):
    """Offsets of all elements in order, per operand."""
    if not axes:
        return [(0, 0)]
    return [
        tuple(sum(i * axis.strides[k] for i, axis in zip(place, axes, strict=True))
              for k in range(2))
        for place in itertools.product(*(range(axis.size) for axis in axes))
    ]


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from((0, 1, 2, 3, 4, 6, 8, 12, 24)),
                          st.sampled_from((0, 1, 2, 4, 8))), max_size=5))
def test_merged_axes_are_the_same_walk(sizes):
    axes = [Axis(size, (a, b)) for size, a, b in sizes]
    merged = merge_axes(axes)
    assert offsets(merged) == offsets(axes)
    assert count(merged) == count(axes)
    assert merge_axes(merged) == merged


def test_dense_axes_become_one():
    assert merge_axes([Axis(2, (60, 0)), Axis(3, (20, 0)), Axis(1, (7, 7)), Axis(20, (1, 0))]) == [
        Axis(120, (1, 0))
    ]


@pytest.mark.parametrize(("innermost", "others", "item", "expected"), [
    (Axis(64, (1, 1)), [Axis(9, (64, 64))], 2, 8),
    (Axis(64, (1, 1)), [Axis(9, (64, 64))], 4, 4),
    (Axis(12, (1, 1)), [Axis(9, (12, 12))], 2, 4),
    (Axis(64, (1, 1)), [Axis(9, (66, 64))], 2, 2),
    (Axis(64, (1, 1)), [Axis(1, (3, 5)), Axis(4, (64, 0))], 2, 8),
    (Axis(64, (1, 2)), [], 2, 1),
    (Axis(7, (1, 1)), [], 8, 1),
])
def test_vector_size(innermost, others, item, expected):
    assert vector_size(innermost, others, item, 2) == expected


def test_offsets_beyond_32_bits_are_seen():
    assert index_type([Axis(8, (1, 1))]) == "unsigned"
    assert index_type([Axis(3, (MAX_SPAN, 1))]) == "unsigned long long"
    assert index_type([Axis(2**20, (1,))], [Axis(2**12, (1,))]) == "unsigned long long"


def test_contiguous_length():
    assert contiguous_length((3, 4), (4, 1)) == 12
    assert contiguous_length((3, 1, 4), (4, 9, 1)) == 12
    assert contiguous_length((3, 4), (8, 1)) is None


@pytest.mark.usefixtures("cuda_device")
@pytest.mark.parametrize(("axes", "vector"), [
    ([Axis(3, (40, 0)), Axis(5, (8, 16)), Axis(8, (1, 2))], 1),
    ([Axis(3, (40, 0)), Axis(5, (8, 16)), Axis(8, (1, 2))], 4),
    ([Axis(7, (5, 1))], 1), ([], 1),
])
@pytest.mark.parametrize("index", ["unsigned", "unsigned long long"])
def test_walk_function(axes, vector, index):
    source = "\n".join([
        PRELUDE, walk_function("at", axes, ("x", "y"), index, vector),
        'extern "C" __global__ void walk(int* out) {',
        "    const auto o = at(blockIdx.x);",
        "    out[2 * blockIdx.x] = (int)o.x; out[2 * blockIdx.x + 1] = (int)o.y;", "}",
    ])
    out = np.zeros((count(axes) // vector, 2), np.int32)
    (found,) = run_kernel(source, "walk", (len(out), 1, 1), (1, 1, 1), [out])
    assert found.tolist() == [list(pair) for pair in offsets(axes)[::vector]]
