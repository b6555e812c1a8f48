"""Conversions to our dtypes do not depend on the version of torch."""

from __future__ import annotations

import pytest
import torch

from torch2rt import expression as ex
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.network.layer import run_reference
from torch2rt.network.tensor import TensorType
from torch2rt.network.torch_cast import to_dtype

X = torch.tensor([448.0, 464.0, 464.1, 1e30, torch.inf, -torch.inf, -1e30, torch.nan, 1.06])
WANTED = torch.tensor([448.0] * 5 + [-448.0] * 2 + [torch.nan, 1.0])


@pytest.fixture(params=["NaN beyond 448", "this torch"])
def _torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float8 casts as in torch 2.11, which has no numbers above 448, or as they are."""
    plain = torch.Tensor.to

    def to(x: torch.Tensor, *args: object) -> torch.Tensor:
        if args == (torch.float8_e4m3fn,) and x.dtype != torch.float8_e4m3fn:
            x = torch.where(x.abs() > 464, torch.nan, x)
        return plain(x, *args)

    if request.param != "this torch":
        monkeypatch.setattr(torch.Tensor, "to", to)


@pytest.mark.usefixtures("_torch")
def test_float8_saturates() -> None:
    for x in (X, X.double()):
        got = to_dtype(x, DType.FLOAT8_E4M3).float()
        torch.testing.assert_close(got, WANTED, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("text", ["i0", "to_float8_e4m3fn(i0)"])
def test_results_of_layers_saturate(text: str) -> None:
    kind = Pointwise(ex.parse_expression(text), DType.FLOAT8_E4M3)
    (got,) = run_reference(kind, None, [X], [TensorType(tuple(X.shape), DType.FLOAT8_E4M3)])
    torch.testing.assert_close(got.float(), WANTED, rtol=0, atol=0, equal_nan=True)


def test_float8_is_left_as_it_is() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    same = to_dtype(every, DType.FLOAT8_E4M3).view(torch.uint8)
    assert same.tolist() == list(range(256))
