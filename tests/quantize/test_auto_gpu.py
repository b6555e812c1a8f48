"""On a GPU: 8 bits where they are faster than float16, and mixes within a budget."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.devices import open_backend
from torch2rt.build.timing_cache import TimingCache

pytestmark = pytest.mark.gpu


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.block = nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Linear(64, 16)

    def forward(self, x):
        y = torch.relu(self.stem(x))
        y = torch.relu(self.block(y) + y)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval().cuda()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("auto") / "timing.jsonl")


def loader(batch):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(batch, 3, 32, 32, generator=generator).cuda() for _ in range(8)]
    return [(x, torch.zeros(batch)) for x in images]


@pytest.mark.parametrize("batch", [1, 64])
def test_int8_is_not_slower_than_float16(batch, net, cache):
    rt = torch2rt.convert(
        net, None, precision="int8", calibration=loader(batch), timing_cache=cache, progress=False
    )
    points = {point["name"]: point for point in rt.engine.report["choice"]["points"]}
    chosen = next(point for point in points.values() if point["is_chosen"])
    assert chosen["time_us"] <= 1.01 * points["fp16"]["time_us"]
    assert chosen["time_us"] <= 1.01 * points["int8 + fp16"]["time_us"]


@pytest.mark.parametrize("max_drop", [0.05, 1e-3])
def test_auto_keeps_its_budget(max_drop, net, cache):
    batches = loader(16)
    rt = torch2rt.convert(
        net, None, precision="auto", calibration=batches, max_drop=max_drop, timing_cache=cache,
        progress=False,
    )
    choice = rt.engine.report["choice"]
    chosen = next(point for point in choice["points"] if point["is_chosen"])
    assert chosen["is_within"]
    kinds = ["int8", "int8_weights"]
    kinds += ["fp8"] if open_backend("cuda").lacks_float8() is None else []
    uniform = {"fp16", "bf16", "tf32", "fp32", *(f"{kind} + fp16" for kind in kinds)}
    assert uniform <= {point["name"] for point in choice["points"]}
    for point in choice["points"]:
        if point["is_within"]:
            assert chosen["time_us"] <= 1.02 * point["time_us"]
    held = torch.cat([images for images, _ in batches[3::4]])
    with torch.no_grad():
        want = net(held)
    assert float((rt(held) - want).norm() / want.norm()) <= 1.1 * max_drop


class Products(nn.Module):
    """Linear layers large enough that their precision shows in their times."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(
            layer for _ in range(3) for layer in (nn.Linear(1024, 1024), nn.GELU())
        ))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("max_drop", [0.2, 0.02])
def test_auto_chooses_among_all_kinds_of_8_bits(max_drop, cache):
    torch.manual_seed(0)
    net = Products().eval().cuda()
    batches = [torch.randn(2048, 1024, device="cuda") for _ in range(4)]
    rt = torch2rt.convert(
        net, None, precision="auto", calibration=batches, max_drop=max_drop, timing_cache=cache,
        progress=False,
    )
    points = rt.engine.report["choice"]["points"]
    chosen = next(point for point in points if point["is_chosen"])
    assert chosen["is_within"]
    within = [point["time_us"] for point in points if point["is_within"]]
    assert chosen["time_us"] <= 1.02 * min(within)
    with torch.no_grad():
        want = net(batches[3])
    assert float((rt(batches[3]) - want).norm() / want.norm()) <= 1.1 * max_drop
