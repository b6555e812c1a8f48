"""Whole models in 16 bits, through the reference: no further from float64 than eager is."""

import copy

import pytest
import torch
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.capture import capture
from torch2rt.inspect.tolerance import NETWORK, relative_error
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log, run_passes
from torch2rt.passes.lower_precision import LowerPrecision
from torch2rt.passes.pipeline import optimize


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = nn.functional.silu(self.norm(self.stem(x)))
        x = x + self.body(x)
        x = nn.functional.max_pool2d(x * self.gate(x), 2)
        return self.head(x.mean((2, 3)))


class RootMeanSquare(nn.Module):
    """A norm as language models spell it; its squares overflow float16 here."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(32) + 0.5)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        x = x * 1000
        x = self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        return x + self.down(nn.functional.gelu(self.up(x)))


class Masked(nn.Module):
    """Attention whose mask is spelled with the most negative float32."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)

    def forward(self, x, mask):
        hidden = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
        parts = [p.unflatten(-1, (4, 8)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1)]
        mixed = nn.functional.scaled_dot_product_attention(*parts, attn_mask=hidden)
        return self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))


def mask_of(*lengths, size=6):
    return torch.stack([(torch.arange(size) < length).float() for length in lengths])


CASES = {
    "cnn": (Cnn, lambda: (torch.randn(2, 3, 12, 12),)),
    "rms": (RootMeanSquare, lambda: (torch.randn(2, 7, 32),)),
    "masked": (Masked, lambda: (torch.randn(2, 6, 32), mask_of(6, 4))),
}


def networks(name, dtype, is_optimized=True):
    torch.manual_seed(0)
    make, inputs = CASES[name]
    model, args = make().eval(), inputs()
    captured = capture(model, args, {})
    network = lower(captured).network
    constants = {t.name: t.data for t in network.constants}
    exact = parse(text(network), constants)
    optimize(network)
    run_passes(network, [LowerPrecision(dtype)], log=Log())
    if is_optimized:
        optimize(network)
    verify(network)
    return model, args, exact, network


@pytest.mark.parametrize(
    ("dtype", "precision"), [(DType.FLOAT16, "fp16"), (DType.BFLOAT16, "bf16")]
)
@pytest.mark.parametrize("name", CASES)
def test_the_error_is_no_larger_than_that_of_eager(name, dtype, precision):
    model, args, exact, network = networks(name, dtype)
    (want,) = run_network(
        exact, dict(zip(exact.inputs, args, strict=True)), dtype=torch.float64
    ).values()
    (got,) = run_network(network, dict(zip(network.inputs, args, strict=True))).values()
    error = relative_error(got, want)
    assert error < NETWORK[precision] / 2
    low = getattr(torch, dtype.value)
    with torch.no_grad():
        eager = copy.deepcopy(model).to(low)(*(arg.to(low) for arg in args))
    of_eager = relative_error(eager, want)
    assert error < 1.5 * of_eager


def test_a_second_run_on_whole_models_changes_nothing():
    for name in CASES:
        *_, network = networks(name, DType.FLOAT16, is_optimized=False)
        before = text(network)
        LowerPrecision(DType.FLOAT16).run(network, Log())
        assert text(network) == before


def test_images_and_products_are_computed_in_float16():
    *_, network = networks("cnn", DType.FLOAT16)
    for layer in network.layers:
        if layer.kind.name in ("convolution", "matmul", "pool", "adaptive_pool"):
            is_last = layer.output in network.outputs.values()  # its cast is part of it
            assert layer.output.dtype is (DType.FLOAT32 if is_last else DType.FLOAT16)
