"""Slices, selections, splits and flips, with known and symbolic sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule

from torch2rt.layers.slice import Slice, resolve_index
from torch2rt.network.dim import substitute, symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_slices() -> None:
    check_rule(
        lambda x: (
            x[:, 1:3], x[:, -3:], x[:, :-1], x[:, ::2], x[:, 1:100:3], x[:, 4:2], x[..., 2:],
            x[1:], x[:-1], x[-2:], x[::2], x[:, 1:2, 3:4], x[:, 7:], x[:100],
            x.narrow(1, 1, 2), x.narrow(1, -2, 2), x[:, None, 1], x[0], x[-1], x[:, -2, 3],
            x.select(2, 1),
        ),
        torch.randn(4, 5, 6),
        kinds={"slice", "reshape"},
    )


def test_splits() -> None:
    check_rule(
        lambda x: (
            *x.split(2, 1), *x.split([1, 3, 1], 1), *x.chunk(3, 1), *x.chunk(3, -1),
            *x.tensor_split(4, 1), *x.tensor_split([1, 4], 1), *x.unbind(1), *x.hsplit([2]),
            *x.vsplit([1]),
            *torch.split_with_sizes(x, [2, 4], 2), *torch.unsafe_chunk(x, 2, 2),
        ),
        torch.randn(4, 5, 6),
        kinds={"slice", "reshape"},
    )


def test_half_of_a_dynamic_axis() -> None:
    check_rule(lambda x: (x[: x.shape[0] // 2], x[x.shape[0] // 2 :]), torch.randn(4, 3))


def test_flips() -> None:
    check_rule(lambda x: (x.flip(1), x.flip(0, -1), x.fliplr(), x.flipud()), torch.randn(3, 4, 5),
               kinds={"slice"})


def test_diagonals() -> None:
    check_rule(
        lambda x: (x.diagonal(0, 1, 2), x.diagonal(1, 1, 2), x.diagonal(-2, 2, 1),
                   x.diagonal(0, 1, 3), x.diagonal(-1, -1, -2)),
        torch.randn(3, 4, 5, 4),
    )


def test_everything_in_order_adds_no_layer() -> None:
    check_rule(lambda x: x[:, 0:5][:, :] * 2, torch.randn(4, 5), kinds={"pointwise"})


axes = st.tuples(
    st.integers(1, 6), st.integers(0, 5), st.sampled_from([1, 2, 3, -1, -2])
).filter(lambda axis: axis[1] < axis[0])


@settings(max_examples=100, deadline=None)
@given(st.lists(axes, min_size=1, max_size=3), st.data())
def test_reference_reads_what_the_formula_says(
    drawn: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    lengths, starts, steps = zip(*drawn, strict=True)
    room = [
        (length - 1 - start) // step if step > 0 else start // -step
        for length, start, step in drawn
    ]
    sizes = tuple(data.draw(st.integers(0, most + 1)) for most in room)
    kind = Slice(starts, sizes, steps)
    x = torch.arange(int(torch.tensor(lengths).prod())).reshape(lengths)
    assert kind.infer([TensorType(lengths, DType.INT64)])[0].shape == sizes
    (got,) = kind.reference([x])
    want = x
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        want = want.index_select(axis, start + step * torch.arange(size))
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("start", "size", "step"), [(0, 6, 1), (5, 1, 1), (-1, 1, 1), (1, 3, 2), (1, 3, -1), (0, 1, 0)]
)
def test_a_slice_outside_is_refused(start: int, size: int, step: int) -> None:
    with pytest.raises(ValueError, match=r"slice of float32\[5\]"):
        Slice((start,), (size,), (step,)).infer([TensorType((5,), DType.FLOAT32)])


@given(st.integers(-8, 8), st.integers(0, 6))
def test_indices_resolve_as_in_python(index: int, length: int) -> None:
    assert resolve_index(index, length) == slice(index, None).indices(length)[0]
    symbolic = resolve_index(index, symbol("s0"))
    want = slice(index, None).indices(length)[0] if index < 0 else index
    assert substitute(symbolic, {"s0": length}) == want
