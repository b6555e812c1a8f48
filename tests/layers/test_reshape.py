"""The reshape family, with one and with two symbolic sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import captured_graph, check_rule, lower_model, run_and_compare

from torch2rt.layers.reshape import Reshape, reshape_target
from torch2rt.lower import lower
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_reshapes() -> None:
    check_rule(
        lambda x: (
            x.view(x.shape[0], -1), x.reshape(-1, 4), x.flatten(1), x.flatten(), x.flatten(0, 1),
            x.unflatten(3, (2, 2)), x.unsqueeze(0), x.unsqueeze(-1), x.view(x.shape[0], 2, 2, 3),
            x.reshape(-1), x.view_as(x * 2), x.reshape_as(x + 1), x.ravel(),
            x.view(x.shape[0] * 3, 4),
        ),
        torch.randn(3, 1, 3, 4),
    )


def test_squeezes() -> None:
    check_rule(
        lambda x: (x.squeeze(), x.squeeze(1), x.squeeze(2), x.squeeze((1, 3)), x.squeeze(-1)),
        torch.randn(3, 1, 4, 1),
    )


def test_scalars_and_more_axes() -> None:
    check_rule(
        lambda x: (x[0].reshape(()), torch.atleast_2d(x[:, 0]), torch.atleast_1d(x[0, 0]),
                   torch.atleast_3d(x)),
        torch.randn(3, 1), dynamic=False,
    )


def test_two_symbolic_sizes() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            n, t = x.shape[:2]
            return (x.view(n * t, 6), x.view(n, t, 2, 3), x.reshape(-1, t, 3), x.flatten(1),
                    x.view(n, t, 2, 3).permute(0, 2, 1, 3).reshape(n * 2, t, 3))

    auto = torch.export.Dim.AUTO
    x = torch.randn(3, 5, 6)
    lowered = lower_model(Model(), x, dynamic=True)
    run_and_compare(lowered, Model(), [x], 1e-6)
    exported = torch.export.export(Model(), (x,), dynamic_shapes=({0: auto, 1: auto},))
    both = lower(captured_graph(exported))  # type: ignore[arg-type]
    run_and_compare(both, Model(), [x], 1e-6)
    run_and_compare(both, Model(), [torch.randn(4, 7, 6)], 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_the_missing_size_is_torch_s(sizes: list[int], data: st.DataObject) -> None:
    shape = data.draw(st.permutations(sizes)) or [1]
    target = list(shape)
    target[data.draw(st.integers(0, len(shape) - 1))] = -1
    want = torch.zeros(sizes).reshape(target)
    (got,) = Reshape(tuple(target)).infer([TensorType(tuple(sizes), DType.FLOAT32)])
    assert got.shape == tuple(want.shape)


def test_targets() -> None:
    s0, s1 = symbol("s0"), symbol("s1")
    assert reshape_target((s0, 6), (s0, 2, 3)) == (-1, 2, 3)
    assert reshape_target((s0, s1, 6), (s0, s1, 2, 3)) == (s0, s1, 2, 3)
    assert reshape_target((s0, 0), (s0, 0, 2)) == (s0, 0, 2)
    x = TensorType((s0, s1, 6), DType.FLOAT32)
    assert str(Reshape((-1, 6)).infer([x])[0]) == "float32[s0*s1,6]"
    assert str(Reshape((s0, -1)).infer([x])[0]) == "float32[s0,6*s1]"


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be reshaped"):
        Reshape((2, 2)).infer([TensorType((3,), DType.FLOAT32)])
