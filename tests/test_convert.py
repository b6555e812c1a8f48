"""convert(): its options, fallbacks, profiles, the timing cache and dynamic shapes."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.build.timing_cache import TimingCache
from torch2rt.config import Profile
from torch2rt.convert import split_inputs
from torch2rt.engine.archive import engine_to_bytes
from torch2rt.errors import ConfigError, InputError, UnsupportedNodesError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Odd(nn.Module):
    """Two operators without a rule, one of them in a sub-module."""

    class Inner(nn.Module):
        def forward(self, x):
            return torch.special.i0(x)

    def __init__(self):
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x):
        return torch.special.i1(self.inner(x))


SHAPE = (2, 3, 8, 8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("convert") / "timing.jsonl")


def convert(model, inputs, cache, **options):
    options = {"threads": 1, "progress": False, **options}
    return torch2rt.convert(model, inputs, timing_cache=cache, **options)


def same(got, want):
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int3"}, r"precision='int3' is not valid: unknown value\. Use one of"),
        ({"fallback": "no"}, r"fallback='no' is not valid: .*'torch', 'error'"),
        ({"threads": 0}, r"threads=0 is not valid: it counts CPU threads"),
        ({"threads": 1.5}, r"threads=1\.5 is not valid"),
        ({"precision": "fp16"}, r"precision='fp16' is not valid: it needs device=\"cuda\"\. On "
         r"the CPU use precision=\"bf16\""),
        ({"precision": "tf32"}, r"'tf32' .* it needs device=\"cuda\"\. .* precision=\"fp32\""),
        ({"tune_budget_s": -1}, r"tune_budget_s=-1 is not valid: it is a time in seconds"),
        ({"tune_budget_s": "long"}, r"tune_budget_s='long' is not valid"),
        ({"threads": -1}, r"threads=-1 is not valid"),
    ],
)
def test_options_are_checked_before_anything_else(options, message, net, cache):
    with pytest.raises(ConfigError, match=message):
        convert(net, torch.randn(SHAPE), cache, **options)
    with pytest.raises(ConfigError, match=message):
        convert(net, None, cache, **options)


def test_an_unknown_device_is_refused(net, cache):
    with pytest.raises(torch2rt.errors.Torch2rtError, match=r"device 'toaster'"):
        convert(net, torch.randn(SHAPE), cache, device="toaster")


def test_inputs_in_every_spelling():
    x, y = torch.ones(1), torch.zeros(1)
    assert split_inputs(x) == ((x,), {})
    assert split_inputs((x, y)) == ((x, y), {})
    assert split_inputs([x]) == ((x,), {})
    assert split_inputs({"a": x}) == ((), {"a": x})
    assert split_inputs(((x,), {"b": y})) == ((x,), {"b": y})
    with pytest.raises(ConfigError, match=r"inputs='int' is not valid: not example inputs"):
        split_inputs(3)


def test_fallback_error_lists_all_nodes_with_path_and_line(cache):
    with pytest.raises(UnsupportedNodesError, match=r"2 node\(s\)") as caught:
        convert(Odd(), torch.randn(3, 4), cache, fallback="error")
    lines = str(caught.value).splitlines()
    (first,) = [line for line in lines if "special_i0" in line]
    (second,) = [line for line in lines if "special_i1" in line]
    assert "inner" in first
    assert "test_convert.py:" in first
    assert "test_convert.py:" in second


def test_fallback_torch_runs_them(cache):
    model, x = Odd(), torch.randn(3, 4)
    rt = convert(model, x, cache)
    same(rt(x), model(x))
    assert [row[0] for row in rt.engine.report["fallbacks"]] == [
        "aten.special_i0.default", "aten.special_i1.default"
    ]


@pytest.mark.parametrize("make", [dict, lambda **shapes: Profile(shapes)])
def test_profiles_tune_several_shapes(make, net, cache):
    profiles = [make(x=(1, 3, 8, 8)), make(x=(4, 3, 8, 8))]
    rt = convert(net, torch.randn(SHAPE), cache, profiles=profiles)
    (tuned_1, tuned_4) = rt.engine.plans[:2]
    assert [*tuned_1.symbols.values(), *tuned_4.symbols.values()] == [1, 4]
    for batch in (1, 4, 2):
        x = torch.randn(batch, 3, 8, 8)
        same(rt(x), net(x))
    made = [list(plan.symbols.values()) for plan in rt.engine.plans]
    assert made[:2] == [[1], [4]]


def test_a_second_conversion_measures_nothing_and_gives_the_same_engine(net, tmp_path, monkeypatch):
    path, x = tmp_path / "timing.jsonl", torch.randn(SHAPE)
    first = engine_to_bytes(convert(net, x, path).engine)
    times = path.read_text()
    assert times

    def refuse(*arguments):
        assert not arguments[1], "something was measured again"
        return []

    monkeypatch.setattr(CpuBackend, "time_calls_us", refuse)
    second = engine_to_bytes(convert(net, x, path).engine)
    assert second == first
    assert path.read_text() == times


def test_threads_are_part_of_the_device(net, cache):
    one = convert(net, torch.randn(SHAPE), cache, threads=1).engine
    two = convert(net, torch.randn(SHAPE), cache, threads=2).engine
    assert one.backend.threads == 1
    assert two.backend.threads == 2
    assert one.backend.fingerprint() != two.backend.fingerprint()


def test_named_dims_vary_and_others_do_not(net, cache):
    dims = {"x": {0: "batch", 2: "height"}}
    rt = convert(net, torch.randn(2, 3, 8, 10), cache, dynamic_shapes=dims)
    for shape in ((2, 3, 8, 10), (5, 3, 12, 10), (1, 3, 9, 10)):
        x = torch.randn(shape)
        same(rt(x), net(x))
    with pytest.raises(InputError, match="input 'x': wrong shape"):
        rt(torch.randn(2, 3, 8, 11))
    assert len([d for d in rt.engine.bindings.inputs[0].type.shape if not isinstance(d, int)]) == 2


def test_torch_export_dims_are_taken(net, cache):
    dims = ({0: torch.export.Dim("batch", min=1, max=4)},)
    rt = convert(net, torch.randn(SHAPE), cache, dynamic_shapes=dims)
    same(rt(torch.ones(4, 3, 8, 8)), net(torch.ones(4, 3, 8, 8)))
    with pytest.raises(InputError, match=r"=5 is out of range"):
        rt(torch.randn(5, 3, 8, 8))


def test_progress_false_prints_nothing(net, cache, capfd):
    convert(net, torch.randn(SHAPE), cache, progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_names_the_model_and_the_steps(net, cache, capfd):
    convert(net, torch.randn(SHAPE), cache, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "convert Net" in captured.err
    assert "capture" in captured.err


def test_precision_bf16_is_near(net, cache):
    x = torch.randn(SHAPE)
    rt = convert(net, x, cache, precision="bf16")
    assert rt.engine.precision == "bf16"
    torch.testing.assert_close(rt(x), net(x).detach(), rtol=0.05, atol=0.02)


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x, scale):
        return self.head(self.parts(x)) * scale


def test_swap_puts_an_engine_in_place_of_a_sub_module(cache):
    model = Parent().eval()
    x, scale = torch.randn(3, 4), torch.tensor(2.0)
    want = model(x, scale).detach()
    rt = torch2rt.swap(
        model, "parts.1", (x, scale), timing_cache=cache, threads=1, progress=False
    )
    assert model.parts[1] is rt
    with torch.no_grad():
        same(model(x, scale), want)
    assert rt.engine.bindings.inputs[0].type.rank == 2


def test_swap_refuses_what_is_not_there_or_not_called(cache):
    model, inputs = Parent().eval(), (torch.randn(3, 4), torch.tensor(2.0))
    with pytest.raises(ConfigError, match=r"path='parts\.7' is not valid: .* no such sub-module"):
        torch2rt.swap(model, "parts.7", inputs, timing_cache=cache)
    with pytest.raises(ConfigError, match=r"path='unused' is not valid: the model did not call it"):
        torch2rt.swap(model, "unused", inputs, timing_cache=cache)
    assert isinstance(model.unused, nn.Linear)
