"""Weights of linear layers in 8 bits: the layers that get them, what is lost, what is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.errors import ConfigError
from torch2rt.network.dtype import DType
from torch2rt.network.text import text

# A weight is off by up to half a step, evenly: s / sqrt(12), s = max / 127. nn.Linear draws evenly
# up to its max, so that a weight's own size is max / sqrt(3).
LOSS = 3**0.5 / 127 / 12**0.5


class Block(nn.Module):
    """Two linear layers and a convolution."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 1)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x.unsqueeze(-1)).squeeze(-1)
        return self.head(y + self.mlp(y))


def convert(model: nn.Module, x: torch.Tensor, folder: Path, precision: object = "int8_weights",
            **options: object) -> torch2rt.RTModule:
    return torch2rt.convert(
        model, x, precision=precision, threads=1, progress=False,
        timing_cache=folder / "times.jsonl", **options,
    )


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


def test_linear_layers_are_stored_in_8_bits(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 64)
    rt = convert(model, x, tmp_path)
    assert rt.engine.precision == "int8_weights"
    stored = {t.name: t for t in rt.engine.network.constants if t.dtype is DType.INT8}
    assert sorted(stored) == ["head.weight.int8", "mlp.0.weight.int8", "mlp.2.weight.int8"]
    for rows in (1, 2, 5, 50):  # 50: by unpacked weights, in a plan of its own
        x = torch.randn(rows, 64)
        assert error(rt(x), model(x)) < 2 * LOSS
    assert 0.2 * LOSS < error(rt(x), model(x))
    assert rt.engine.report["verified"]["output"] < 2 * LOSS


def test_files_are_a_quarter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).eval()
    x = torch.randn(1, 512)
    sizes = {}
    for precision in ("fp32", "int8_weights"):
        rt = convert(model, x, tmp_path, precision)
        rt.save(tmp_path / precision)
        sizes[precision] = (tmp_path / precision).stat().st_size
    assert sizes["int8_weights"] < 0.27 * sizes["fp32"]
    engine = torch2rt.Engine.load(tmp_path / "int8_weights")
    (got,) = engine.run({engine.bindings.inputs[0].name: x.numpy()}).values()
    np.testing.assert_array_equal(np.asarray(got), rt(x).numpy())


def test_patterns_choose_layers(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 64)
    rt = convert(model, x, tmp_path, {"mlp.2": "int8_weights", "*": "bf16"})
    matmuls = {
        layer.name: layer.inputs[1].dtype for layer in rt.engine.network.layers
        if layer.kind.name == "matmul"
    }
    assert matmuls == {"mlp.0": DType.BFLOAT16, "mlp.2": DType.INT8, "head": DType.BFLOAT16}
    assert rt.engine.precision == "int8_weights"
    assert error(rt(x), model(x)) < 1e-2


def test_beside_layers_of_8_bits(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(16, 64)
    rt = convert(
        model, x, tmp_path, {"head": "int8_weights", "*": "int8"}, calibration=[x],
        quantize_with=(),
    )
    dtypes = {
        layer.name: tuple(t.dtype for t in layer.main_inputs) for layer in rt.engine.network.layers
        if layer.kind.name == "matmul"
    }
    assert dtypes["head"] == (DType.FLOAT32, DType.INT8)
    assert dtypes["mlp.2"][0] in (DType.INT8, DType.UINT8)
    assert rt.engine.precision == "int8"


def test_a_model_in_bfloat16_stays_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32)).eval().bfloat16()
    x = torch.randn(3, 64).bfloat16()
    rt = convert(model, x, tmp_path)
    assert rt(x).dtype == torch.bfloat16
    assert "matmul(%input, @0.weight.int8" in text(rt.engine.network)
    assert error(rt(x), model(x)) < 2 * LOSS + 8e-3


def test_without_linear_layers_nothing_is_stored(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).eval()
    x = torch.randn(1, 3, 8, 8)
    rt = convert(model, x, tmp_path)
    assert rt.engine.precision == "fp32"
    assert error(rt(x), model(x)) < 1e-5


def test_what_is_not_stored_is_said(tmp_path: Path) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) @ x.mT

    rt = convert(Product().eval(), torch.randn(4, 8), tmp_path)
    assert "its second operand is no constant matrix" in rt.report()


def test_it_takes_no_calibration(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 64)
    with pytest.raises(ConfigError, match="precision 'int8_weights' has no ranges to calibrate"):
        convert(model, x, tmp_path, calibration=[x])
