"""The contender that multiplies linear layers in float8 as torch can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torch2rt.bench.contenders import load_contender, refusal
from torch2rt.bench.contenders.scaled_mm import Float8Linear, in_float8
from torch2rt.bench.source import LoadedModel


class Block(nn.Module):
    """Attention by its own linear layers, and an odd one."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.wide, self.odd = nn.Linear(32, 64, bias=False), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor, *, shift: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.odd(torch.relu(self.wide(mixed + shift)))


@pytest.fixture
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(Block().eval(), (torch.randn(2, 9, 32),), {"shift": torch.randn(32)})


def test_linear_layers_multiply_float8(loaded: LoadedModel) -> None:
    with torch.no_grad():
        want = loaded.model(*loaded.args, **loaded.kwargs)
        module = in_float8(loaded)
        (got,) = module(*loaded.args, *loaded.kwargs.values())
    layers = [part for part in module.modules() if isinstance(part, Float8Linear)]
    assert len(layers) == 3  # the two of the attention, and the wide one
    assert {layer.weight.dtype for layer in layers} == {torch.float8_e4m3fn}
    assert all(float(layer.x_scale) > 1e-4 for layer in layers)
    error = float((got - want).norm() / want.norm())
    assert 1e-3 < error < 0.1


def test_it_is_for_float8_on_a_gpu() -> None:
    contender = load_contender("scaled_mm")
    assert refusal(contender, "fp8", "cuda:0") is None
    for precision, device in (("fp8", "cpu"), ("fp16", "cuda")):
        assert refusal(contender, precision, device) is not None
