"""Tactics that are strided copies, against the reference."""

import math

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.layers.concat import Concat
from torch2rt.layers.expand import Expand
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.slice_scatter import SliceScatter
from torch2rt.layers.transpose import Transpose

pytestmark = pytest.mark.usefixtures("cuda_device")
DTYPES = [torch.uint8, torch.bfloat16, torch.float32, torch.int64]
F16 = torch.float16


def numbers(dtype, *shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(120).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shapes", "axis", "layouts"), [
    ([(2, 16, 3, 5), (2, 32, 3, 5)], 1, 2),
    ([(2, 3, 3, 5), (2, 8, 3, 5), (2, 1, 3, 5)], 1, 2),
    ([(2, 8, 3, 5), (1, 8, 3, 5)], 0, 2),
    ([(2, 3, 8), (2, 5, 8)], 1, 1),
    ([(3,), (4,)], 0, 1),
    ([(2, 3), (2, 4)], 1, 1),
    ([(2, 0), (2, 4)], 1, 1),
])
def test_concat(shapes, axis, layouts, dtype):
    inputs = [numbers(dtype, *shape) for shape in shapes]
    check_cuda_tactic("concat.cuda.copy", Concat(axis), inputs, exact=True, layouts=layouts)
    check_cuda_tactic("concat.cuda.copy", Concat(axis), inputs, constants=[1], exact=True)


def test_concat_of_more_inputs_than_a_launch_takes():
    inputs = [numbers(F16, 2, 8, 3) + i for i in range(11)]
    (made,) = check_cuda_tactic("concat.cuda.copy", Concat(1), inputs, exact=True)
    assert len(made.launches) == 2


def test_concat_of_pitched_operands():
    inputs = [numbers(F16, 2, 8, 3, 8), numbers(F16, 2, 8, 5, 8) + 1]
    check_cuda_tactic(
        "concat.cuda.copy", Concat(2), inputs, exact=True, pitched={"i0": 1, "i1": 3, "o0": 2}
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "starts", "sizes", "steps"), [
    ((2, 48, 3, 5), (0, 16, 0, 0), (2, 32, 3, 5), (1, 1, 1, 1)),
    ((2, 48, 3, 5), (1, 10, 0, 2), (1, 17, 3, 3), (1, 1, 1, 1)),
    ((2, 16, 6, 5), (0, 0, 1, 4), (2, 16, 3, 5), (1, 1, 2, -1)),
    ((9,), (8,), (9,), (-1,)),
    ((6, 4), (2, 0), (1, 4), (1, 1)),
    ((1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6), (1, 1, 2, 2, 3, 2, 3),
     (1, 1, -1, -2, -1, -3, -2)),
])
def test_slice(shape, starts, sizes, steps, dtype):
    check_cuda_tactic(
        "slice.cuda.copy", Slice(starts, sizes, steps), [numbers(dtype, *shape)], exact=True
    )


def test_slice_of_pitched_operands():
    kind = Slice((0, 8, 1, 0), (2, 16, 2, 8), (1, 1, 1, 1))
    x = numbers(F16, 2, 24, 4, 8)
    check_cuda_tactic("slice.cuda.copy", kind, [x], exact=True, pitched={"i0": 3, "o0": 1})
    assert_refused("slice.cuda.copy", kind, [x], constants=[0], reason="constant")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "permutation", "layouts"), [
    ((2, 20, 3, 5), (0, 2, 3, 1), 4),
    ((2, 7, 3, 8), (0, 2, 1, 3), 4),
    ((70, 41), (1, 0), 1),
    ((3, 33, 2, 64), (3, 2, 1, 0), 4),
    ((1, 6), (1, 0), 1),
    ((2, 3, 4, 5, 6), (4, 2, 0, 1, 3), 4),
    ((2, 1, 2, 1, 2, 3, 2, 9), (7, 6, 5, 4, 3, 2, 1, 0), 1),
])
def test_transpose(shape, permutation, layouts, dtype):
    check_cuda_tactic(
        "transpose.cuda.copy", Transpose(permutation), [numbers(dtype, *shape)], exact=True,
        layouts=layouts,
    )


def test_transpose_of_pitched_operands_and_constants():
    x = numbers(F16, 2, 40, 16)
    check_cuda_tactic(
        "transpose.cuda.copy", Transpose((0, 2, 1)), [x], exact=True, pitched={"i0": 1, "o0": 1}
    )
    check_cuda_tactic("transpose.cuda.copy", Transpose((1, 0, 2)), [x], constants=[0], exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "target"), [
    ((1, 16, 1, 5), (3, 16, 4, 5)),
    ((16, 1, 1), (2, 16, 3, 3)),
    ((5, 1), (5, 24)),
    ((5, 1), (5, 7)),
    ((), (3, 2)),
    ((1, 1, 8), (4, 2, 8)),
])
def test_expand(shape, target, dtype):
    check_cuda_tactic("expand.cuda.copy", Expand(target), [numbers(dtype, *shape)], exact=True)
    check_cuda_tactic(
        "expand.cuda.copy", Expand(target), [numbers(dtype, *shape)], constants=[0], exact=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "target", "layouts"), [
    ((2, 8, 3, 5), (2, 120), 2),
    ((2, 120), (2, 8, 3, 5), 2),
    ((2, 8, 4, 5), (2, 4, 2, 20), 4),
    ((2, 6, 4, 3), (3, 4, 2, 6), 3),
    ((6, 4), (3, 8), 1),
    ((2, 16, 3, 4), (2, 16, 12), 4),
    ((1, 1), (1,), 1),
])
def test_reshape(shape, target, layouts, dtype):
    made = check_cuda_tactic(
        "reshape.cuda.copy", Reshape(target), [numbers(dtype, *shape)], exact=True
    )
    assert len(made) == layouts


def test_reshape_of_pitched_operands():
    check_cuda_tactic(
        "reshape.cuda.copy", Reshape((2, 8, 2, 16)), [numbers(F16, 2, 8, 32)], exact=True,
        pitched={"i0": 1},
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("starts", "steps", "sizes"), [
    ((0, 8, 1, 0), (1, 1, 1, 1), (2, 8, 2, 5)),
    ((1, 1, 0, 1), (1, 3, 2, 2), (1, 4, 2, 2)),
    ((1, 1, 0, 1), (1, 3, 2, 2), (0, 4, 2, 2)),
])
def test_slice_scatter(starts, steps, sizes, dtype):
    inputs = [numbers(dtype, 2, 16, 3, 5), numbers(dtype, *sizes) + 3]
    check_cuda_tactic("slice_scatter.cuda.copy", SliceScatter(starts, steps), inputs, exact=True)
    check_cuda_tactic(
        "slice_scatter.cuda.copy", SliceScatter(starts, steps), inputs, constants=[0], exact=True
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_permutation_of_any_slice(data):
    """Random shapes, starts, steps and permutations."""
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 8, 9, 16, 33]), min_size=1, max_size=5))
    if math.prod(shape) > 20000:
        shape = shape[:3]
    starts, sizes, steps = [], [], []
    for length in shape:
        step = data.draw(st.sampled_from([1, 1, 2, -1]))
        size = data.draw(st.integers(1, 1 + (length - 1) // abs(step)))
        room = length - 1 - (size - 1) * abs(step)
        start = data.draw(st.integers(0, room))
        starts.append(start if step > 0 else length - 1 - start)
        sizes.append(size)
        steps.append(step)
    dtype = data.draw(st.sampled_from([torch.uint8, F16, torch.float32]))
    kind = Slice(tuple(starts), tuple(sizes), tuple(steps))
    x = numbers(dtype, *shape)
    check_cuda_tactic("slice.cuda.copy", kind, [x], exact=True)
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    check_cuda_tactic("transpose.cuda.copy", Transpose(order), [x], exact=True)
