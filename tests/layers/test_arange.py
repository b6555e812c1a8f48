"""Ranges of known and of symbolic length."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_testing import check_rule

from torch2rt.layers.arange import Arange
from torch2rt.network.dtype import DType


def test_ranges() -> None:
    check_rule(
        lambda x: (
            torch.arange(x.shape[0]), torch.arange(1, x.shape[0] + 1),
            torch.arange(0, 2 * x.shape[0], 2), torch.arange(x.shape[0], dtype=x.dtype),
            torch.arange(5), torch.arange(1, 9, 3), torch.arange(0, 1, 0.25, dtype=x.dtype),
            torch.arange(5, 0, -2), torch.linspace(0, 1, 7, dtype=x.dtype),
            torch.arange(x.shape[1]), torch.arange(x.shape[0], dtype=x.dtype) * x[:, 0],
        ),
        torch.randn(3, 4),
    )


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-3, -1, 1, 2, 0.5]))
def test_reference_is_torch_s(start: int, end: int, step: float) -> None:
    if (end - start) * step < 0:
        start, end = end, start
    want = torch.arange(start, end, step, dtype=torch.float32)
    kind = Arange(start, step, len(want), DType.FLOAT32)
    assert torch.equal(kind.reference(())[0], want)
