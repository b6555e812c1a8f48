"""Calibration on a GPU: the same table as on the CPU, to rounding, and fast."""

import time

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.build.timing_cache import TimingCache

pytestmark = pytest.mark.gpu


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.block = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        y = torch.relu(self.stem(x))
        y = torch.relu(self.block(y) + y)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


def tables(net, loader, tmp_path, **options):
    """The tables of one model calibrated on both devices."""
    cache = TimingCache(tmp_path / "timing.jsonl")
    return [
        torch2rt.convert(
            net.to(device), None, precision={"*": "int8"}, calibration=loader, timing_cache=cache,
            device=device, tune_budget_s=0, progress=False, **options,
        ).calibration_table
        for device in ("cpu", "cuda")
    ]


@pytest.mark.parametrize("method", ["entropy", "mse", "best"])
def test_both_devices_make_one_table(method, net, tmp_path):
    loader = [(torch.randn(16, 3, 32, 32), torch.zeros(16)) for _ in range(4)]
    here, there = tables(net, loader, tmp_path, calibration_method=method)
    assert here.fingerprint == there.fingerprint
    assert set(here.rows) == set(there.rows)
    for name, row in here.rows.items():
        other = there.rows[name]
        assert other.maximum == pytest.approx(row.maximum, rel=1e-5)
        assert other.minimum == pytest.approx(row.minimum, rel=1e-5, abs=1e-6)
        assert other.negatives == pytest.approx(row.negatives, abs=1e-4)
        assert other.seen.histogram.total == row.seen.histogram.total
        if method != "best":
            assert other.threshold == pytest.approx(row.threshold, rel=0.02)


def test_a_table_made_here_is_taken_there(net, tmp_path):
    loader = [torch.randn(16, 3, 32, 32)]
    here, _ = tables(net, loader, tmp_path)
    x = torch.randn(4, 3, 32, 32)
    rt = torch2rt.convert(
        net.cuda(), x.cuda(), precision={"*": "int8"}, calibration=here, tune_budget_s=0,
        timing_cache=tmp_path / "timing.jsonl", progress=False,
    )
    error = (rt(x.cuda()) - net(x.cuda())).norm() / net(x.cuda()).norm()
    assert float(error.detach()) < 0.1


class Hard(nn.Module):
    """One layer reads a range that 8 bits do not serve, of which it needs the small values."""

    def __init__(self):
        super().__init__()
        self.first, self.hard, self.last = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        y = self.first(x).tanh()
        wide = torch.cat([y[:, :1] * 2000.0, y[:, 1:]], 1)
        return self.last(self.hard(wide).tanh())


def test_a_layer_that_loses_most_stays_in_float_on_both_devices(tmp_path):
    torch.manual_seed(0)
    model = Hard().eval()
    with torch.no_grad():
        model.hard.weight[:, 0] *= 1e-4
    loader = list(torch.randn(48, 32).split(16))
    for device in ("cpu", "cuda"):
        rt = torch2rt.convert(
            model.to(device), None, precision="int8", calibration=loader, device=device,
            calibration_method="minmax", timing_cache=tmp_path / f"{device}.jsonl",
            tune_budget_s=0, progress=False,
        )
        assert list(rt.calibration_table.floats) == ["hard"]


def test_500_images_of_a_resnet_take_less_than_30_seconds():
    import torchvision_shim  # noqa: F401, I001  (before torchvision, whose import needs it)
    import torchvision

    from torch2rt.capture.export import capture
    from torch2rt.lower import lower
    from torch2rt.passes.pipeline import optimize
    from torch2rt.quantize.calibrate import calibrate, calibration_from_options

    model = torchvision.models.resnet50().eval().cuda()
    graph = capture(model, (torch.randn(2, 3, 224, 224, device="cuda"),), {})
    network = lower(graph, name="resnet50").network
    optimize(network, merge_siblings=False)
    images = torch.randn(50, 3, 224, 224)
    request = calibration_from_options((images for _ in range(10)), "entropy", None, None)
    start = time.perf_counter()
    table = calibrate(request, network, graph.call_spec, "f", device=torch.device("cuda"))
    seconds = time.perf_counter() - start
    print(f"calibration of ResNet-50 with 500 images: {seconds:.2f} s")
    assert table.samples == 500
    assert seconds < 30
