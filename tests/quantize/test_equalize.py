"""Equalized channels: the same network with like ranges, and what is left alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.export import capture
from torch2rt.engine.archive import engine_to_bytes
from torch2rt.lower import lower
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.corrections import scales_from_json, scales_to_json
from torch2rt.quantize.equalize import equalize, find_scales, streams_of
from torch2rt.quantize.errors import CalibrationError


class Residual(nn.Module):
    """A stream of residual sums, and depthwise convolutions between relu6s."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.last = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.stem(x)
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.wide(x))))
        x = x + self.narrow(y)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Residual().eval()
    with torch.no_grad():
        for layer in (made.stem, made.wide, made.narrow, made.depthwise):
            factor = torch.logspace(-1.5, 0.3, layer.out_channels)
            layer.weight *= factor[:, None, None, None]
            layer.bias *= factor
    return made


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(model, images):
    found = lower(capture(model, (images,), {}), fallback="error", name="residual").network
    optimize(found, merge_siblings=False)
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("equalized") / "timing.jsonl")


def ranges(network, x, name):
    seen = {}

    def observe(layer, _, results):
        seen[layer.name] = results[0].abs().amax((0, 2, 3)) if results[0].dim() == 4 else None

    run_network(network, {"x": x}, observe=observe)
    return seen[name]


def test_the_network_stays_the_same_and_its_channels_become_alike(network, images):
    before = run_network(network, {"x": images}, dtype=torch.float64)["output"]
    spread = {name: ranges(network, images, name) for name in ("stem", "wide")}
    scales = find_scales(network, {"x": images})
    equalize(network, scales)
    verify(network)
    after = run_network(network, {"x": images}, dtype=torch.float64)["output"]
    assert float((after - before).norm() / before.norm()) < 1e-6
    for name, was in spread.items():
        now = ranges(network, images, name)
        assert float(now.max() / now.min()) < 0.5 * float(was.max() / was.min()), name


def test_tensors_that_are_added_are_one_stream(network):
    found = {s.name: ([t.name for t in s.tensors], len(s.readers)) for s in streams_of(network)}
    assert found["stem"] == (["stem", "narrow"], 2)
    assert set(found) == {"stem", "wide", "depthwise"}  # a mean follows the last convolution


def test_bounds_of_relu6_are_kept_clear_of(network, images):
    scales = find_scales(network, {"x": images})
    largest = ranges(network, images, "wide").double().numpy()
    assert scales["wide"].max() == 1.0
    assert (1.4 * largest / scales["wide"] <= 6.0).all()
    equalize(network, scales)
    twice = run_network(network, {"x": 1.2 * images}, dtype=torch.float64)["output"]
    assert torch.isfinite(twice).all()


CHAIN = """network chain
input %x: float32[2,4,5,5]
constant @a: float32[4,4,1,1]
constant @b: float32[4,4,1,1]
constant @s: float32[4,1,1]
%y = convolution(%x, @a, @s) {ATTRS} epilogue EPILOGUE -> float32[2,4,5,5]
%z = convolution(%y, @b) {ATTRS} -> float32[2,4,5,5]
output z = %z
OUTPUT"""
ATTRS = '{"stride":[1,1],"padding_before":[0,0],"padding_after":[0,0],"dilation":[1,1]}'


def chain(epilogue, output=""):
    rng = np.random.default_rng(0)
    data = {"a": (4, 4, 1, 1), "b": (4, 4, 1, 1), "s": (4, 1, 1)}
    written = CHAIN.replace("{ATTRS}", ATTRS).replace("EPILOGUE", epilogue)
    constants = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in data.items()}
    return parse(written.replace("OUTPUT", output), constants)


@pytest.mark.parametrize(
    "epilogue", ["relu(add(i0,i1))", "clamp(sub(i0,i1),0.0,6.0)", "add(i0,i1)"]
)
def test_these_pairs_are_rescaled(epilogue):
    assert [stream.name for stream in streams_of(chain(epilogue))] == ["y"]


@pytest.mark.parametrize(
    ("epilogue", "output"),
    [
        ("sigmoid(add(i0,i1))", ""), ("clamp(add(i0,i1),-1.0,1.0)", ""), ("mul(i0,i1)", ""),
        ("add(relu(add(i0,i1)),1.0)", ""), ("relu(add(i0,i1))", "output y = %y\n"),
    ],
)
def test_these_pairs_are_left_alone(epilogue, output):
    assert list(streams_of(chain(epilogue, output))) == []


def test_a_shared_weight_is_left_alone():
    network = chain("relu(add(i0,i1))")
    second = network.layers[1]
    network.set_inputs(second, (second.inputs[0], network.layers[0].inputs[1]))
    assert list(streams_of(network)) == []


def test_scales_of_another_network_are_refused(network):
    before = text(network)
    with pytest.raises(ValueError, match="no channels to equalize in 'other'"):
        equalize(network, {"other": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="3 scales of 16 channels in 'stem'"):
        equalize(network, {"stem": np.ones(3, np.float32)})
    assert text(network) == before
    assert isinstance(network, Network)


def convert(model, images, cache, **options):
    return torch2rt.convert(
        copy.deepcopy(model), images, precision={"*": "int8"}, calibration_method="minmax",
        timing_cache=cache, threads=1, progress=False, **options,
    )


def test_equalized_engines_are_nearer_and_their_table_repeats_them(model, images, cache, tmp_path):
    with torch.no_grad():
        want = model(images)
    found = {}
    for names in ((), ("equalize",)):
        rt = convert(model, images, cache, calibration=[images[:16]], quantize_with=names)
        found[names] = float((rt(images) - want).norm() / want.norm())
    assert found["equalize",] < 0.8 * found[()]
    table = rt.calibration_table
    table.save(tmp_path / "table.json")
    again = convert(model, images, cache, calibration=tmp_path / "table.json")
    fresh = convert(model, images, cache, calibration=table)
    assert engine_to_bytes(again.engine) == engine_to_bytes(fresh.engine)
    other = convert(model, images, cache, calibration=[images[:16]], quantize_with=())
    with pytest.raises(CalibrationError, match="it cannot merge with a table of other scales"):
        table.merge(other.calibration_table)


def test_scales_survive_json_and_bad_ones_are_refused():
    scales = {"a": np.array([0.5, 1.0], np.float32)}
    assert (scales_from_json(scales_to_json(scales))["a"] == scales["a"]).all()
    for data, message in (
        ([], "no object"), ({"a": 3}, "no text"),
        (scales_to_json({"a": np.zeros(2, np.float32)}), "not positive"),
    ):
        with pytest.raises(ValueError, match=message):
            scales_from_json(data)
