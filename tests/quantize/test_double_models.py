"""Models in float64 at every precision: they stay so at "fp32", and visibly are float32 below."""

import pytest
import torch
from needs import needs_onednn
from torch import nn

import torch2rt
from torch2rt.build.timing_cache import TimingCache
from torch2rt.network.dtype import DType

WITHOUT_DATA = ("bf16", "int8_weights")
WITH_DATA = ("int8", {"*": "int8"}, {"head": "fp32", "*": "int8"}, "auto")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval().double()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("double") / "timing.jsonl")


def convert(net, x, cache, precision, **options):
    if precision in WITH_DATA:
        options["calibration"] = [x, x]
    return torch2rt.convert(
        net, x, precision=precision, timing_cache=cache, threads=1, progress=False, **options
    )


def dtypes(rt):
    """Of what layers compute, but for the casts of inputs and outputs."""
    layers = rt.engine.network.layers
    return {t.dtype for layer in layers if "float64" not in layer.name for t in layer.outputs}


def error(got, want):
    return float((got - want).norm().detach() / want.norm().detach())


@pytest.mark.parametrize("precision", [*WITHOUT_DATA, *WITH_DATA], ids=str)
def test_below_fp32_float32_takes_the_place_of_float64(precision, net, x, cache):
    rt = convert(net, x, cache, precision)
    got = rt(x)
    assert got.dtype is torch.float64
    assert error(got, net(x)) < 0.03
    assert DType.FLOAT64 not in dtypes(rt)
    assert "note: the model computes in float64; at this precision the engine has float32" in (
        rt.report()
    )
    if precision in WITH_DATA[1:3]:
        assert rt.engine.precision == "int8"
        assert {DType.UINT8, DType.INT8} & dtypes(rt)


def test_at_fp32_a_model_in_float64_stays_exact_and_the_report_says_so(net, x, cache):
    rt = convert(net, x, cache, "fp32")
    assert error(rt(x), net(x)) < 1e-14
    assert dtypes(rt) == {DType.FLOAT64}
    assert "note: the model computes in float64, and so does the engine, slowly" in rt.report()


def test_a_float32_model_says_nothing_of_float64(x, cache):
    rt = convert(Net().eval(), x.float(), cache, "bf16")
    assert "float64" not in rt.report()


class Casting(nn.Module):
    """A float32 model that takes and gives float64."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        return self.conv(x.float()).relu().double()


@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", {"*": "int8"}], ids=str)
def test_casts_of_a_float32_model_are_steps_of_their_own(precision, x, cache):
    torch.manual_seed(0)
    model = Casting().eval()
    rt = convert(model, x, cache, precision)
    assert rt(x).dtype is torch.float64
    assert error(rt(x), model(x)) < (1e-6 if precision == "fp32" else 0.02)
    (conv,) = [layer for layer in rt.engine.network.layers if layer.kind.name == "convolution"]
    assert conv.output.dtype is DType.FLOAT32
    assert not any(
        "torch" in step.tactic for plan in rt.engine.plans for step in plan.steps
    )
