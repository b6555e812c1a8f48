"""Transposes, slices and concats: moved and as views, against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tactic_testing import check_tactic, make_spec, tactic_named, to_bytes

from torch2rt.backends.spec import Layout, TensorSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.backends.views import slice_offset_bytes
from torch2rt.layers.concat import Concat
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.dtype import DType

DTYPES = [torch.float32, torch.bfloat16, torch.int64]


def numbers(dtype, *shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(120).to(dtype)


def takes(name, kind, inputs):
    return not isinstance(tactic_named(name).supports(make_spec(kind, inputs)), Refusal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "permutation", "views"), [
    ((2, 20, 3, 5), (0, 2, 3, 1), 1),
    ((2, 3, 5, 20), (0, 3, 1, 2), 1),
    ((1, 32, 1, 1), (0, 2, 3, 1), 6),
    ((2, 7, 3, 8), (0, 2, 1, 3), 0),
    ((4, 6), (1, 0), 0),
    ((1, 6), (1, 0), 1),
    ((2, 3, 4, 5, 6), (4, 2, 0, 1, 3), 0),
    ((2, 16, 1, 5), (0, 1, 3, 2), 3),
])
def test_transpose(shape, permutation, views, dtype):
    x = numbers(dtype, *shape)
    kind = Transpose(permutation)
    check_tactic("transpose.numpy.copy", kind, [x], exact=True)
    if dtype is not torch.int64:
        check_tactic("transpose.onednn.reorder", kind, [x], exact=True)
    assert takes("transpose.cpu.view", kind, [x]) == (views > 0)
    if views:
        assert len(check_tactic("transpose.cpu.view", kind, [x], exact=True)) >= views


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "starts", "sizes", "steps", "views"), [
    ((1, 48, 3, 5), (0, 16, 0, 0), (1, 32, 3, 5), (1, 1, 1, 1), 2),
    ((1, 40, 3, 5), (0, 16, 0, 0), (1, 24, 3, 5), (1, 1, 1, 1), 2),
    ((1, 48, 3, 5), (0, 10, 0, 0), (1, 16, 3, 5), (1, 1, 1, 1), 1),
    ((3, 48, 3, 5), (1, 0, 0, 0), (2, 48, 3, 5), (1, 1, 1, 1), 3),
    ((3, 48, 3, 5), (1, 16, 0, 0), (1, 16, 3, 5), (1, 1, 1, 1), 2),
    ((2, 48, 3, 5), (0, 0, 1, 0), (2, 48, 1, 5), (1, 1, 1, 1), 0),
    ((2, 48, 6, 5), (0, 0, 1, 4), (2, 48, 3, 5), (1, 1, 2, -1), 0),
    ((9,), (8,), (9,), (-1,), 0),
    ((6, 4), (2, 0), (1, 4), (1, 1), 1),
])
def test_slice(shape, starts, sizes, steps, views, dtype):
    x = numbers(dtype, *shape)
    kind = Slice(starts, sizes, steps)
    check_tactic("slice.numpy.copy", kind, [x], exact=True)
    if dtype is not torch.int64 and set(steps) == {1}:
        check_tactic("slice.onednn.reorder", kind, [x], exact=True)
    assert takes("slice.cpu.view", kind, [x]) == (views > 0)
    if views:
        assert len(check_tactic("slice.cpu.view", kind, [x], exact=True)) == views


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shapes", "axis", "views"), [
    ([(1, 16, 3, 5), (1, 32, 3, 5)], 1, 2),
    ([(1, 16, 3, 5), (1, 20, 3, 5)], 1, 2),
    ([(1, 20, 3, 5), (1, 16, 3, 5)], 1, 1),
    ([(2, 16, 3, 5), (2, 16, 3, 5)], 1, 0),
    ([(2, 16, 3, 5), (1, 16, 3, 5), (1, 16, 3, 5)], 0, 3),
    ([(1, 16, 3, 5), (1, 16, 4, 5)], 2, 2),
    ([(3,), (4,)], 0, 1),
    ([(2, 3), (2, 4)], 1, 0),
])
def test_concat(shapes, axis, views, dtype):
    inputs = [numbers(dtype, *shape) for shape in shapes]
    kind = Concat(axis)
    check_tactic("concat.numpy.copy", kind, inputs, exact=True)
    check_tactic("concat.numpy.copy", kind, inputs, constants=[1], exact=True)
    if dtype is not torch.int64:
        check_tactic("concat.onednn.direct", kind, inputs, exact=True)
    assert takes("concat.cpu.view", kind, inputs) == (views > 0)
    if views:
        assert len(check_tactic("concat.cpu.view", kind, inputs, exact=True)) >= views - 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_slice_offsets_point_at_the_part(data):
    """Wherever an offset is given, the bytes there are those of the part on its own."""
    shape = tuple(data.draw(st.sampled_from([(1, 2, 3), (1, 16, 24, 32), (1, 2, 5), (1, 3)])
                            .flatmap(st.sampled_from)) for _ in range(4))
    starts = [data.draw(st.integers(0, size - 1)) for size in shape]
    sizes = [data.draw(st.integers(1, size - start)) for size, start in
             zip(shape, starts, strict=True)]
    layout = data.draw(st.sampled_from(list(Layout)))
    spec = TensorSpec(shape, DType.FLOAT32, layout)
    offset = slice_offset_bytes(spec, starts, sizes)
    if offset is None:
        return
    x = torch.randn(shape)
    part = x[tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))]
    wanted = to_bytes(part, TensorSpec(tuple(sizes), DType.FLOAT32, layout))
    assert (to_bytes(x, spec)[offset : offset + wanted.size] == wanted).all()
