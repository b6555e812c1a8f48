"""Padding in every mode, crops included."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule
from torch import nn

from torch2rt.layers.pad import Pad
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_constant_pads() -> None:
    check_rule(
        lambda x: (
            F.pad(x, (1, 2)), F.pad(x, (1, 2, 0, 3), value=1.5), F.pad(x, (-1, 2)),
            F.pad(x, (0, -1, 1, -1)), F.pad(x, (0, 0, 0, 0, 1, 0), value=float("-inf")),
            torch.constant_pad_nd(x, (2, 1), 3.0), F.pad(x, (0, 0)) + 1,
        ),
        torch.randn(3, 4, 5),
    )


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_modes(mode: str) -> None:
    check_rule(
        lambda x: (F.pad(x, (1, 2, 3, 0), mode=mode), F.pad(x[:, :, 0], (2, 1), mode=mode)),
        torch.randn(3, 2, 4, 5),
    )


def test_modules() -> None:
    x = torch.randn(3, 2, 4, 5)
    for module in (nn.ReflectionPad2d(2), nn.ReplicationPad2d((1, 0, 2, 1)), nn.ZeroPad2d(1),
                   nn.CircularPad2d(1), nn.ConstantPad2d(2, 0.5)):
        check_rule(module, x, kinds={"pad"})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["constant", "reflect", "replicate", "circular"]),
    st.lists(st.tuples(st.integers(3, 5), st.integers(0, 2), st.integers(0, 2)),
             min_size=1, max_size=2),
)
def test_reference_and_infer_agree_with_torch(
    mode: str, axes: list[tuple[int, int, int]]
) -> None:
    sizes = (1, 2, *(axis[0] for axis in axes))
    x = torch.randn(sizes)
    before = (0, 0, *(axis[1] for axis in axes))
    after = (0, 0, *(axis[2] for axis in axes))
    kind = Pad(before, after, mode)
    flat = [count for axis in reversed(axes) for count in axis[1:]]
    want = F.pad(x, flat, mode=mode)
    assert torch.equal(kind.reference([x])[0], want)
    assert kind.infer([TensorType(sizes, DType.FLOAT32)])[0].shape == tuple(want.shape)


def test_bad_attributes_are_refused() -> None:
    x = TensorType((3, 4), DType.FLOAT32)
    with pytest.raises(ValueError, match="cannot remove"):
        Pad((0, -1), (0, 0)).infer([x])
    with pytest.raises(ValueError, match="longer than the axis"):
        Pad((0, 4), (0, 0), "reflect").infer([x])
    with pytest.raises(ValueError, match="none of"):
        Pad((0,), (0,), "mirror")
