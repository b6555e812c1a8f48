"""The whole flow on a GPU: precisions, devices, errors, reports."""

import copy
import json
import os

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.errors import InputError, OverflowInPrecisionError, PrecisionError
from torch2rt.inspect.bisect import step_errors
from torch2rt.inspect.tolerance import NETWORK, relative_error
from torch2rt.inspect.verify import exact_float32

pytestmark = pytest.mark.gpu

LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.left, self.right = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(40, 40, 3, 2, 1, groups=40)
        self.head = nn.Linear(40, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = torch.cat([self.left(x), torch.relu(self.right(x))], 1)
        x = nn.functional.hardswish(self.depthwise(x))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.mlp = nn.Sequential(
            nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)
        )

    def forward(self, x):
        parts = [
            part.unflatten(-1, (4, 16)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


CASES = {"cnn": (Cnn, (3, 3, 48, 48)), "block": (Block, (2, 17, 64))}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One folder for all processes that run these tests: what one compiles, the others find."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "cuda_flow" / "timing.jsonl"


def convert(model, x, cache, tune_budget_s=0.0, **options):
    """Conversion without tuning, which other tests are about and which takes the time."""
    return torch2rt.convert(
        model, x, timing_cache=cache, tune_budget_s=tune_budget_s, progress=False, **options
    )


def made(name):
    make, shape = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    return model.cuda(), torch.randn(shape, device="cuda")


def error_of(model, x, got):
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    return relative_error(got, want)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_as_near_to_float64_as_eager(name, precision, cache):
    model, x = made(name)
    rt = convert(model, x, cache, precision=precision)
    assert rt.engine.backend.device == "cuda:0"
    got = rt(x)
    assert got.device == x.device
    assert got.dtype == torch.float32
    error = error_of(model, x, got)
    assert error < NETWORK[precision]
    low = LOW.get(precision)
    if low is not None:
        with torch.no_grad():
            eager = copy.deepcopy(model).to(low)(x.to(low))
        assert error < 1.5 * error_of(model, x, eager)
    if precision == "fp32":
        with torch.no_grad(), exact_float32():
            torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_another_batch_a_second_stream_and_a_file(name, cache, tmp_path):
    model, x = made(name)
    rt = convert(model, x, cache, precision="fp16")
    more = torch.cat([x, x])
    torch.testing.assert_close(rt(more)[: len(x)], rt(x), rtol=2e-2, atol=2e-2)
    first = rt(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = [rt(x) for _ in range(5)]
    stream.synchronize()
    assert all(torch.equal(result, first) for result in results)
    rt.save(tmp_path / "m.engine")
    assert torch.equal(torch2rt.load(tmp_path / "m.engine")(x), first)


def test_a_model_on_the_cpu_goes_to_the_gpu_when_asked(cache):
    model, x = made("cnn")
    on_cpu = copy.deepcopy(model).cpu()
    rt = convert(on_cpu, x.cpu(), cache, precision="fp16", device="cuda")
    assert error_of(model, x, rt(x)) < NETWORK["fp16"]
    with pytest.raises(InputError, match="wrong device"):
        rt(x.cpu())


def test_a_model_in_half(cache):
    model, x = made("block")
    half, x = copy.deepcopy(model).half(), x.half()
    for precision in ("fp16", "fp32"):
        rt = convert(half, x, cache, precision=precision)
        got = rt(x)
        assert got.dtype == torch.float16
        assert error_of(half, x, got) < NETWORK["fp16"]


def test_an_overflow_is_found_and_named(cache):
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.last(torch.relu(self.first(x * 30000.0)))

    torch.manual_seed(0)
    model, x = Loud().eval().cuda(), torch.randn(4, 16, device="cuda") * 10
    with pytest.raises(OverflowInPrecisionError, match="bf16"):
        convert(model, x, cache, precision="fp16")
    convert(model, x, cache, precision="bf16")


def test_a_weight_beyond_the_range_is_named(cache):
    model = nn.Linear(8, 8).cuda()
    with torch.no_grad():
        model.weight[0, 0] = 1e5
    x = torch.randn(2, 8, device="cuda")
    with pytest.raises(PrecisionError, match="100000"):
        convert(model, x, cache, precision="fp16")


@pytest.mark.parametrize("name", CASES)
def test_report_profile_and_bisect(name, cache, tmp_path):
    model, x = made(name)
    rt = convert(model, x, cache, precision="fp16")
    rt.report(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert all(row["time_us"] >= 0 and row["bytes"] > 0 for row in data["steps"][0])
    profile = rt.profile(x)
    assert len(profile.steps) == len(rt.engine.plans[0].steps)
    assert all(0 < step.time_us < 1e4 for step in profile.steps)
    errors = step_errors(rt.engine, [x])
    assert not [error for error in errors if error.is_off]
    assert rt.bisect(model, x) is None


def test_tuning_goes_on_where_it_stopped(tmp_path):
    model, x = made("cnn")
    cache = tmp_path / "timing.jsonl"
    rough = convert(model, x, cache, precision="fp16")
    assert rough.engine.plans[0].untuned > 0
    assert "was not measured" in rough.report()
    tuned = convert(model, x, cache, tune_budget_s=60.0, precision="fp16")
    assert tuned.engine.plans[0].untuned == 0
    for rt in (rough, tuned):
        assert error_of(model, x, rt(x)) < NETWORK["fp16"]
