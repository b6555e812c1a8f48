"""Concats and stacks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import as_module, check_rule, lower_model, run_and_compare
from torch import Tensor

from torch2rt.layers.concat import Concat
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_concats_and_stacks() -> None:
    check_rule(
        lambda x, y: (
            torch.cat([x, y], 0), torch.cat([x, y, x], -1), torch.concat([x, y], 1),
            torch.stack([x, y], 0), torch.stack([x, y], -1), torch.stack([x, y], 1),
            torch.hstack([x, y]), torch.vstack([x, y]), torch.column_stack([x, y]),
            torch.cat([x], 1) + 1, torch.cat([x, x[:, 0:1]], 1),
        ),
        torch.randn(3, 4), torch.randn(3, 4),
    )


def test_vectors() -> None:
    check_rule(
        lambda x: (torch.hstack([x, x]), torch.vstack([x, x]), torch.column_stack([x, x])),
        torch.randn(3),
    )


def test_dtypes_promote() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(3, 2, dtype=torch.int64), x.half()], 1)

    x = torch.randn(3, 4)
    lowered = lower_model(model, x)
    run_and_compare(lowered, as_module(model), [x], 1e-6)
    concat = lowered.network.outputs["output0"].producer
    assert concat is not None
    assert {tensor.dtype for tensor in concat.inputs} == {DType.FLOAT32}


def test_empty_vectors_count_for_nothing() -> None:
    check_rule(lambda x: torch.cat([torch.zeros(0), x], 1), torch.randn(3, 4), dynamic=False)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2), st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_infer_is_what_the_reference_gives(axis: int, sizes: list[int]) -> None:
    shapes = [tuple(size if i == axis else 2 for i in range(3)) for size in sizes]
    kind = Concat(axis)
    (inferred,) = kind.infer([TensorType(shape, DType.FLOAT32) for shape in shapes])
    (value,) = kind.reference([torch.zeros(shape) for shape in shapes])
    assert inferred.shape == tuple(value.shape)


def test_symbolic_sizes_add_up() -> None:
    s0 = symbol("s0")
    types = [TensorType((s0, 3), DType.FLOAT32), TensorType((2 * s0, 3), DType.FLOAT32)]
    assert str(Concat(0).infer(types)[0]) == "float32[3*s0,3]"


def test_sizes_that_differ_are_refused() -> None:
    types = [TensorType((2, 3), DType.FLOAT32), TensorType((2, 4), DType.FLOAT32)]
    with pytest.raises(ValueError, match="differs in axis 1"):
        Concat(0).infer(types)
