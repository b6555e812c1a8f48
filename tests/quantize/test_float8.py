"""Linear layers in float8: which ones, with which scales, and what that loses."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from fake_backend import Reference
from float8_testing import PRODUCT_LOSS, Pretended, Table, convert, error, inserted, lowered
from torch import nn

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.backends.spec import LayerSpec
from torch2rt.config import BuildConfig
from torch2rt.errors import ConfigError
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.text import text
from torch2rt.passes.base import Log
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.float8 import insert_float8
from torch2rt.quantize.overrides import parse_precision


class Block(nn.Module):
    """A transformer block; its residual stream is read by a norm and by additions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in self.qkv(self.first(x)).chunk(3, -1)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    backend = Pretended(own=[Reference("any.fake.reference")])
    module = importlib.import_module("torch2rt.convert")
    monkeypatch.setattr(module, "open_backend", lambda *_, **__: backend)
    return backend


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


def products(network: Network, *kinds: str) -> dict[str, Layer]:
    return {
        layer.name: layer for layer in network.layers if layer.kind.name in (kinds or ("matmul",))
    }


def test_a_block_multiplies_float8(
    block: nn.Module, device: Pretended, tmp_path: Path
) -> None:
    x = torch.randn(4, 9, 32)
    rt = convert(block, x, tmp_path)
    assert rt.engine.precision == "fp8"
    found = products(rt.engine.network)
    assert len(found) == 4
    for layer in found.values():
        assert [t.dtype for t in layer.main_inputs] == [DType.FLOAT8_E4M3] * 2
    # The first layer of the MLP writes what the second reads; residuals stay float.
    assert found["mlp.0"].output.dtype is DType.FLOAT8_E4M3
    assert "clamp(mul(" in found["mlp.0"].epilogue.text
    assert found["mlp.2"].epilogue_inputs[-1].dtype is DType.FLOAT16
    # So do norms, for the products behind them alone.
    norms = [layer for layer in rt.engine.network.layers if layer.kind.name == "layer_norm"]
    assert [norm.output.dtype for norm in norms] == [DType.FLOAT8_E4M3] * 2
    # Scales stay beside the sums: in the weights they would lose what float8 has no numbers for.
    assert found["out"].epilogue.text == "add(add(mul(i0,i1),i2),i3)"
    # What is cut to heads and attended is bytes from the projection on.
    assert found["qkv"].epilogue.text == "clamp(add(mul(i0,i1),i2),-448.0,448.0)"
    (attention,) = [layer for layer in rt.engine.network.layers if layer.kind.name == "attention"]
    dtypes = [tensor.dtype for tensor in (*attention.inputs, attention.output)]
    assert dtypes == [DType.FLOAT8_E4M3] * 4
    # What the stream carries past the products is exact.
    share = error(x, block(x))
    assert 0.3 * PRODUCT_LOSS * share < error(rt(x), block(x)) < 2 * PRODUCT_LOSS * share
    rows = {row["layer"]: row for row in rt.engine.report["quantized"]}
    assert {row["dtype"] for row in rows.values()} == {"float8_e4m3fn"}
    assert rows["qkv"]["threshold"] == pytest.approx(
        float(block.first(x).detach().abs().max()), rel=1e-5
    )
    assert min(row["sqnr_db"] for row in rows.values()) > 22


def test_values_are_those_of_torchs_float8() -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(24, 16).eval(), torch.randn(5, 24) * 2
    network, _ = inserted(model, x)
    (layer,) = products(network).values()
    x_scale = torch.tensor(8 / 448)
    weight_scale = model.weight.abs().amax(1, keepdim=True) / 448
    stored = torch.clamp(x * (1 / x_scale), -448, 448).to(torch.float8_e4m3fn).double()
    weight = (model.weight / weight_scale).to(torch.float8_e4m3fn).double()
    want = stored @ weight.T * (x_scale.double() * weight_scale.double().T) + model.bias
    (got,) = run_network(network, dict.fromkeys(network.inputs, x)).values()
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert layer.epilogue is not None
    assert layer.epilogue.text.startswith("add(mul(")


def test_one_quantization_serves_all_products_and_nothing_else() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(x)
            return self.a(x) * self.b(x).relu() + x

    network, _ = inserted(Branches(), torch.randn(3, 8))
    quantized = [layer for layer in network.layers if layer.kind.name == "quantize"]
    assert len(quantized) == 1
    a, b = products(network).values()
    assert a.inputs[0] is b.inputs[0] is quantized[0].output
    (source,) = quantized[0].inputs[:1]
    assert {user.name for user in source.users} > {quantized[0].name}


def test_what_is_no_linear_layer_stays_float() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(self.conv(x).mean((2, 3)))
            return y @ y.mT

    network, log = inserted(Mixed(), torch.randn(2, 3, 6, 6))
    dtypes = {layer.name: layer.inputs[0].dtype for layer in network.layers
              if layer.kind.name in ("convolution", "matmul")}
    assert dtypes["conv"] is DType.FLOAT32
    assert dtypes["linear"] is DType.FLOAT8_E4M3
    assert list(dtypes.values()).count(DType.FLOAT8_E4M3) == 1
    optimize(network, log=log, target="cuda")
    writers = {layer.kind.name for layer in network.layers
               if layer.output.dtype is DType.FLOAT8_E4M3}
    assert writers == {"pointwise"}, "other kernels than those of products do not write float8"
    reasons = [reject.reason for reject in log.rejected.values()]
    assert "its second operand is no constant float32 matrix" in reasons
    assert any("float8_e4m3fn, which products alone write" in reason for reason in reasons)


def test_ranges_are_the_largest_magnitudes(device: Pretended, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, x = nn.Linear(64, 8).eval(), torch.randn(400, 64)
    x[0, 0] = 100.0
    rt = convert(model, x, tmp_path, calibration_method="percentile:99")
    (row,) = [row for name, row in rt.calibration_table.rows.items() if row.maximum > 50]
    assert row.threshold == pytest.approx(100.0)


def test_patterns_choose_layers(block: nn.Module, device: Pretended, tmp_path: Path) -> None:
    x = torch.randn(2, 5, 32)
    rt = convert(block, x, tmp_path, {"mlp": "fp8", "out": "int8_weights", "*": "fp16"})
    found = products(rt.engine.network)
    assert {name: layer.inputs[1].dtype for name, layer in found.items()} == {
        "mlp.0": DType.FLOAT8_E4M3, "mlp.2": DType.FLOAT8_E4M3, "out": DType.INT8,
        "qkv": DType.FLOAT16,
    }
    assert found["out"].inputs[0].dtype is DType.FLOAT16
    assert "it is to be fp16" in rt.report()


@pytest.mark.parametrize(("fast", "chosen"), [
    ((), set()), (("mlp.0", "mlp.2"), {"mlp.0", "mlp.2"}), (("attention",), {"attention"}),
    (("qkv", "out", "mlp.0", "mlp.2"), {"qkv", "out", "mlp.0", "mlp.2"}),
    (("qkv", "attention", "out"), {"qkv", "attention", "out"}),
])
def test_layers_get_float8_where_it_is_faster(
    fast: tuple[str, ...], chosen: set[str], block: nn.Module, device: Pretended, tmp_path: Path
) -> None:
    def time_us(spec: LayerSpec) -> float:
        if spec.kind.name not in ("attention", "matmul"):
            return 1.0
        is_float8 = spec.inputs[0].dtype is DType.FLOAT8_E4M3
        return (20.0 if spec.name in fast else 80.0) if is_float8 else 50.0

    device.times_us["any.fake.reference"] = time_us
    rt = convert(block, torch.randn(2, 5, 32), tmp_path, "fp8")
    found = products(rt.engine.network, "attention", "matmul")
    assert {n for n, layer in found.items()
            if layer.inputs[0].dtype is DType.FLOAT8_E4M3} == chosen
    assert rt.engine.precision == ("fp8" if chosen else "fp16")
    rows = {row["layer"]: row["precision"] for row in rt.engine.report["choice"]["layers"]}
    assert rows == {name: "fp8" if name in chosen else "fp16" for name in found}
    assert "fp8 + fp16" in rt.report()


def test_zero_weights_and_ranges() -> None:
    model = nn.Linear(4, 3, bias=False).eval()
    with torch.no_grad():
        model.weight[1] = 0
    network, _ = inserted(model, torch.randn(2, 4))
    (layer,) = products(network).values()
    scales = layer.inputs[2].data
    assert scales is not None
    assert (scales > 0).all()
    network = lowered(model, torch.randn(2, 4))
    log = Log()
    insert_float8(network, Table(), overrides=lambda _: None, log=log)
    assert "float8" not in text(network)
    assert any("no range is known" in reject.reason for reject in log.rejected.values())


def test_a_device_without_float8_is_refused(
    block: nn.Module, device: Pretended, tmp_path: Path
) -> None:
    device.reason = "NVIDIA A100 (sm_80) has no products of float8, which need sm_89 or newer"
    for precision in ("fp8", {"mlp": "fp8", "*": "fp16"}):
        with pytest.raises(ConfigError, match=r"precision='fp8' is not valid: NVIDIA A100 \(sm_80\)"
                           r" has no products of float8.*Use precision=\"int8\", \"int8_weights\""):
            convert(block, torch.randn(1, 3, 32), tmp_path, precision)


def test_unusable_options_are_refused(block: nn.Module) -> None:
    x = torch.randn(1, 3, 32)
    with pytest.raises(ConfigError, match=r"precision='fp8' .* it needs device=\"cuda\"\. On the "
                       r"CPU use precision=\"int8\", or \"int8_weights\""):
        torch2rt.convert(block, x, precision="fp8", calibration=[x], device="cpu")
    with pytest.raises(ConfigError, match="a network has one kind of 8 bits"):
        parse_precision({"mlp": "fp8", "*": "int8"})
    assert BuildConfig(precision="fp8", device="cuda").precision == "fp8"


def test_it_needs_ranges(block: nn.Module, device: Pretended, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'precision="fp8" needs the ranges of tensors'):
        convert(block, torch.randn(1, 3, 32), tmp_path, calibration=None)
    with pytest.raises(ConfigError, match=r'precision="fp8" needs the ranges of tensors'):
        torch2rt.convert(block, precision="fp8", device="cuda")
