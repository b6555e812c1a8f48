"""Quantize and dequantize layers against torch's own fake quantization and PT2E's operators."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers the operators

from torch2rt.backends.reference.executor import run_network
from torch2rt.capture.export import capture
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.quantize import Quantize
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

X = torch.randn(2, 4, 5, 6) * 3
SCALES, ZEROS = torch.rand(4) * 0.05 + 0.01, torch.tensor([0, 1, -3, 5], dtype=torch.int32)
OPS = torch.ops.quantized_decomposed


def by_hand(x):
    q = OPS.quantize_per_tensor(x, 0.037, 5, 0, 255, torch.uint8)
    return OPS.dequantize_per_tensor(q, 0.037, 5, 0, 255, torch.uint8)


def by_hand_per_channel(x):
    q = OPS.quantize_per_channel(x, SCALES, ZEROS, 1, -128, 127, torch.int8)
    return OPS.dequantize_per_channel(q, SCALES, ZEROS, 1, -128, 127, torch.int8)


CASES = {
    "per tensor": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, 3, -128, 127),
    "few bits": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.4, 0, -8, 7),
    "by tensors": lambda x: torch.fake_quantize_per_tensor_affine(
        x, torch.tensor(0.031), torch.tensor(2, dtype=torch.int32), 0, 255
    ),
    "per channel": lambda x: torch.fake_quantize_per_channel_affine(
        x, SCALES, ZEROS, 1, -127, 127
    ),
    "last axis": lambda x: torch.fake_quantize_per_channel_affine(
        x, torch.full((6,), 0.1), torch.zeros(6, dtype=torch.int32), 3, -128, 127
    ),
    "PT2E": by_hand,
    "PT2E per channel": by_hand_per_channel,
}


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", CASES)
def test_rules_match_eager(name):
    torch.manual_seed(0)
    captured = capture(Wrapped(CASES[name]), (X,), {})
    network = lower(captured, fallback="error").network
    kinds = [layer.kind.name for layer in network.layers]
    assert "quantize" in kinds
    assert "dequantize" in kinds
    (got,) = run_network(network, dict.fromkeys(network.inputs, X)).values()
    (want,) = captured.run([X])
    off = (got - want).abs() > 1e-5  # 1 / scale in float32 or in float64: a step may flip
    assert float(off.float().mean()) < 0.01


@pytest.mark.parametrize("value", [2.5, 3.5, -2.5, 300.0, -300.0, np.inf])
def test_halves_round_to_even_and_all_is_clamped(value):
    (got,) = Quantize(DType.INT8, -128, 127).reference(
        [torch.tensor([value]), torch.tensor(1.0)]
    )
    assert got.item() == int(np.clip(np.rint(value), -128, 127))


def test_float8_rounds_by_itself():
    kind = Quantize(DType.FLOAT8_E4M3, -448, 448)
    (got,) = kind.reference([torch.tensor([1.06, 900.0]), torch.tensor(0.5)])
    assert got.float().tolist() == [2.0, 448.0]


def test_types():
    x, s, z = (TensorType(shape, dtype) for shape, dtype in (
        ((2, 4), DType.FLOAT32), ((4,), DType.FLOAT32), ((), DType.INT32),
    ))
    kind = Quantize(DType.UINT8, 0, 255)
    assert kind.infer([x, s, z]) == (TensorType((2, 4), DType.UINT8),)
    stored = TensorType((2, 4), DType.UINT8)
    assert Dequantize(DType.FLOAT16).infer([stored, s]) == (TensorType((2, 4), DType.FLOAT16),)
    with pytest.raises(ValueError, match="scale or zero point exceed"):
        kind.infer([s, x])
    with pytest.raises(ValueError, match=r"no range of int8: 5\.\.5"):
        Quantize(DType.INT8, 5, 5)
