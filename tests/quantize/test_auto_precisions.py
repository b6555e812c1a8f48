"""precision="auto" with float8 and with weights alone in 8 bits: what is tried, kept and told."""

import importlib

import pytest
import torch
from fake_backend import FakeBackend, Reference
from torch import nn

import torch2rt
from torch2rt.network.dtype import DType

BYTES = {DType.INT8: "int8", DType.FLOAT8_E4M3: "fp8"}
FLOATS_US = {DType.FLOAT16: 50.0, DType.BFLOAT16: 60.0, DType.FLOAT32: 100.0}


class Device(FakeBackend):
    """A GPU in name, which may have float8; ``us`` are times of products by what they read."""

    name = "cuda"
    lacks: str | None = None
    checks_candidates = True

    def __init__(self):
        super().__init__([Reference("any.fake.reference")])
        self.us = {}
        self.times_us["any.fake.reference"] = self.time_us

    def lacks_float8(self):
        return self.lacks

    def time_us(self, spec):
        if spec.kind.name not in ("matmul", "convolution"):
            return 0.1
        x, weight = spec.inputs[:2]
        found = BYTES.get(x.dtype, "int8_weights" if weight.dtype is DType.INT8 else "")
        return self.us.get(found, FLOATS_US.get(x.dtype, 200.0))


@pytest.fixture
def device(monkeypatch):
    backend = Device()
    module = importlib.import_module("torch2rt.convert")
    monkeypatch.setattr(module, "open_backend", lambda *_, **__: backend)
    return backend


class Outliers(nn.Module):
    """Products of what has a few large values: 8-bit integers lose the others, floats do not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 8)

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Outliers().eval()


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    found = [torch.randn(4, 16, generator=generator) for _ in range(8)]
    for x in found:
        x[0, 3] = 2000.0
    return found


def convert(net, batches, tmp_path, metric=None, **options):
    def share(outputs, batch):
        """Of the samples without an outlier, those whose outputs are off by less than a fifth."""
        want = net(batch)
        errors = (outputs - want).norm(dim=1) / want.norm(dim=1)
        return (errors[1:] < 0.2).double().mean()

    with torch.no_grad():
        return torch2rt.convert(
            net, precision="auto", calibration=batches, metric=metric or share, device="cuda",
            calibration_method="percentile:99", quantize_with=(), progress=False,
            timing_cache=tmp_path / "times.jsonl", **options,
        )


def points_of(rt):
    return {point["name"]: point for point in rt.engine.report["choice"]["points"]}


def test_float8_wins_where_it_is_as_fast_and_integers_lose_too_much(
    net, batches, device, tmp_path
):
    device.us = {"int8": 10.0, "fp8": 10.0, "int8_weights": 40.0}
    rt = convert(net, batches, tmp_path)
    points = points_of(rt)
    assert {"fp16", "bf16", "tf32", "fp32", "int8 + fp16", "fp8 + fp16", "int8_weights + fp16"} <= (
        set(points)
    )
    assert not points["int8 + fp16"]["is_within"]
    assert points["fp8 + fp16"]["is_chosen"]
    assert rt.engine.precision == "fp8"
    assert {row["precision"] for row in rt.engine.report["choice"]["layers"]} == {"fp8"}
    assert {row.method for row in rt.calibration_table.rows.values()} == {"minmax"}
    assert "fp8 + fp16: " in rt.report()
    assert len(rt.engine.report["quantized"]) == 2


def test_the_ranges_of_float8_are_the_largest_magnitudes(net, batches, device, tmp_path):
    """Whatever the method of the integers: here one that clips."""
    device.us = {"fp8": 10.0}
    rt = convert(net, batches, tmp_path, metric=lambda outputs, batch: 1.0)
    assert rt.engine.precision == "fp8"
    assert rt.calibration_table.rows["x"].threshold == pytest.approx(2000.0)


def test_weights_alone_win_where_whole_integers_lose_too_much(net, batches, device, tmp_path):
    device.lacks = "it is old"
    device.us = {"int8": 10.0, "int8_weights": 20.0}
    rt = convert(net, batches, tmp_path)
    points = points_of(rt)
    assert not any("fp8" in name for name in points)
    assert points["int8_weights + fp16"]["is_chosen"]
    assert rt.engine.precision == "int8_weights"
    rows = rt.engine.report["choice"]["layers"]
    assert {row["precision"] for row in rows} == {"int8_weights"}
    assert {row["why"] for row in rows} == {"the engine as a whole is faster so"}
    assert {row["noise_db"] for row in rows} == {None}
    assert "int8_weights + fp16: " in rt.report()


def test_a_mix_of_float8_and_float_where_one_layer_loses_too_much(
    net, batches, device, tmp_path
):
    device.us = {"fp8": 10.0, "int8": 60.0, "int8_weights": 60.0}

    def metric(outputs, batch):
        """The model's own outputs, but for what rounding takes."""
        want = net(batch)
        return 1.0 - float((outputs - want).norm() / want.norm())

    both = points_of(convert(net, batches, tmp_path, metric=metric, max_drop=1.0))["fp8 + fp16"]
    drop = 0.9 * (1.0 - both["metric"])
    rt = convert(net, batches, tmp_path, metric=metric, max_drop=drop)
    points = points_of(rt)
    assert not points["fp8 + fp16"]["is_within"]
    assert points["1 x fp8 + fp16"]["is_chosen"]
    rows = rt.engine.report["choice"]["layers"]
    assert sorted(row["precision"] for row in rows) == ["fp16", "fp8"]
    assert all("8 bits" in row["why"] for row in rows)
    assert all(row["noise_db"] < 0 for row in rows)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.a(x)


def test_without_linear_layers_there_are_neither(device, tmp_path):
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(4)]
    rt = convert(Convolutions().eval(), batches, tmp_path, metric=lambda outputs, batch: 1.0)
    names = list(points_of(rt))
    assert sorted(names) == ["bf16", "fp16", "fp32", "int8 + fp16", "tf32"]
    assert len(names) == len(rt.engine.report["choice"]["points"])


def test_on_a_cpu_weights_alone_are_tried(net, batches, tmp_path):
    rt = torch2rt.convert(
        net, precision="auto", calibration=batches, threads=1, progress=False,
        timing_cache=tmp_path / "times.jsonl",
    )
    points = points_of(rt)
    assert "int8_weights + fp32" in points
    assert not any("fp8" in name for name in points)
    within = [point["time_us"] for point in points.values() if point["is_within"]]
    chosen = next(point for point in points.values() if point["is_chosen"])
    assert chosen["time_us"] <= 1.02 * min(within)
