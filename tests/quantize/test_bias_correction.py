"""Corrections of quantized layers: what they gain, how they travel, and what is refused."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.export import capture
from torch2rt.engine.archive import engine_to_bytes
from torch2rt.errors import ConfigError
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.lower import lower
from torch2rt.network.copy import copy_network
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.bias import add_bias
from torch2rt.quantize.bias_correction import correct_layers
from torch2rt.quantize.calibrator import Observations, observe_batches, table_of
from torch2rt.quantize.corrections import Correction, from_json, to_json
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.insert import insert_quantization
from torch2rt.quantize.rounding import round_weight

BOTH = ("bias_correction", "rounding")


class Deep(nn.Module):
    """Narrow and deep, as networks that 8 bits are hard for."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU6()]
        for _ in range(3):
            layers += [
                nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.ReLU6(),
                nn.Conv2d(24, 24, 1), nn.ReLU6(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture(scope="module")
def deep():
    torch.manual_seed(0)
    model = Deep().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 2.0
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1)).abs()


@pytest.fixture(scope="module")
def network(deep, images):
    found = lower(capture(deep, (images,), {}), fallback="error", name="deep").network
    optimize(found, merge_siblings=False)
    return found


@pytest.fixture(scope="module")
def table(network, images):
    observations = Observations()
    observe_batches(network, [{"x": images[:16]}], observations)
    return table_of(network, observations, method="minmax", fingerprint="")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("corrected") / "timing.jsonl")


def quantized(network, table, fold=False):
    copied = copy_network(network)
    insert_quantization(copied, table, target="cpu", fold=fold)
    return copied


def results(network, x, wanted=None):
    """The outputs, or every single result by name."""
    kept = {}

    def observe(layer, _, values):
        kept[layer.outputs[0].name] = values[0]

    outputs = NetworkRunner(network).run({"x": x}, observe=observe)
    return kept if wanted else next(iter(outputs.values()))


def corrections(network, table, x, *names):
    return correct_layers(network, quantized(network, table), {"x": x}, names=names)


def error(got, want):
    return float((got - want).norm() / want.norm())


def test_corrected_means_are_those_of_the_float_network(network, table, images):
    x = images[:16]
    found = corrections(network, table, x, "bias_correction")
    corrected = dataclasses.replace(table, corrections=found)
    want = results(network, x, wanted=True)
    plain = results(quantized(network, table), x, wanted=True)
    got = results(quantized(network, corrected), x, wanted=True)
    name = next(iter(network.outputs.values())).name
    assert set(found) == {
        layer.output.name for layer in network.layers if layer.kind.name in
        ("convolution", "matmul")
    }
    off_plain = (plain[name] - want[name]).double().mean(0).abs().max()
    off = (got[name] - want[name]).double().mean(0).abs().max()
    assert off < 1e-5 < 1e-4 < off_plain


def test_both_corrections_gain_on_other_images(network, table, images):
    want = results(network, images[16:])
    errors = {}
    for names in ((), ("bias_correction",), ("bias_correction", "rounding")):
        found = corrections(network, table, images[:16], *names) if names else {}
        fixed = dataclasses.replace(table, corrections=found)
        errors[names] = error(results(quantized(network, fixed), images[16:]), want)
    plain, biased, both = errors.values()
    assert biased < 0.8 * plain
    assert both < 0.8 * plain


def test_folded_networks_have_the_corrections(network, table, images):
    found = corrections(network, table, images[:16], "bias_correction", "rounding")
    fixed = dataclasses.replace(table, corrections=found)
    loose, folded = (quantized(network, fixed, fold) for fold in (False, True))
    assert error(results(folded, images), results(loose, images)) < 0.01
    assert any(tensor.dtype.value == "int8" for tensor in folded.constants)
    epilogues = [layer.epilogue.text for layer in folded.layers if layer.epilogue]
    assert not any(text.count("add(") > 1 for text in epilogues)  # in the bias that is there


@pytest.mark.parametrize(
    ("kind", "x_shape", "w_shape"),
    [
        (Matmul(transpose_b=True), (300, 20), (6, 20)),
        (Matmul(transpose_b=False), (300, 20), (20, 6)),
        (Convolution((1, 1), (0, 0), (0, 0), (1, 1)), (4, 20, 9, 9), (6, 20, 1, 1)),
        (Convolution((2, 2), (1, 1), (0, 1), (1, 1)), (4, 5, 9, 9), (6, 5, 3, 3)),
        (Convolution((1, 1), (2, 2), (2, 2), (2, 2), 6), (4, 6, 9, 9), (6, 1, 3, 3)),
        (Convolution((1, 1), (1, 1), (1, 1), (1, 1), 2), (4, 8, 9, 9), (6, 4, 3, 3)),
    ],
    ids=["linear", "product", "pointwise", "strided", "depthwise", "grouped"],
)
def test_rounding_beats_the_nearest(kind, x_shape, w_shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(x_shape, generator=generator).cumsum(-1).relu()
    w = torch.randn(w_shape, generator=generator)
    axis = 1 if isinstance(kind, Matmul) and not kind.transpose_b else 0
    others = [a for a in range(w.dim()) if a != axis]
    scale = w.abs().amax(others, keepdim=True) / 7  # few steps: rounding is what counts
    rounded = round_weight(kind, x, w, scale)
    assert rounded.shape == w.shape
    assert torch.equal(rounded, rounded.round())
    assert rounded.abs().max() <= 127
    (exact,) = kind.reference((x.double(), w.double()))

    def off(weight):
        (sums,) = kind.reference((x.double(), (weight * scale).double()))
        return float((sums - exact).norm())

    assert off(rounded) < 0.95 * off((w / scale).round())


def test_rounding_keeps_weights_that_are_integers():
    x, w = torch.randn(50, 8), torch.randint(-127, 128, (4, 8)).float()
    scale = torch.full((4, 1), 0.5)
    assert torch.equal(round_weight(Matmul(transpose_b=True), x, w * scale, scale).float(), w)


def test_rounding_leaves_other_kinds_to_the_nearest():
    kind = Convolution((1,), (0,), (0,), (1,))
    assert round_weight(kind, torch.randn(2, 3, 5), torch.randn(4, 3, 1), torch.ones(4, 1, 1)) \
        is None


def test_dead_channels_and_few_samples_are_no_obstacle():
    x = torch.zeros(1, 6)
    w, scale = torch.randn(3, 6), torch.full((3, 1), 0.01)
    rounded = round_weight(Matmul(transpose_b=True), x, w, scale)
    assert torch.equal(rounded.float(), (w / scale).round().clamp(-127, 127))


def test_a_bias_is_added_where_there_is_none(network):
    copied = copy_network(network)
    layer = next(x for x in copied.layers if x.kind.name == "convolution" and x.kind.groups > 1)
    assert layer.epilogue_count == 0
    before = results(network, torch.ones(1, 3, 12, 12), wanted=True)[layer.output.name]
    add_bias(copied, layer, np.linspace(0.0, 0.5, 24, dtype=np.float32))
    after = results(copied, torch.ones(1, 3, 12, 12), wanted=True)[layer.output.name]
    moved = (after - before)[0].amax((1, 2))
    assert layer.epilogue.text == "clamp(add(i0,i1),0.0,6.0)"
    assert moved.argmax() > 0
    assert (moved >= 0).all()


def test_the_table_alone_gives_the_same_engine(deep, images, cache, tmp_path):
    made = convert(deep, images, cache, calibration=[images[:16]], quantize_with=BOTH)
    assert len(made.calibration_table.corrections) == 8
    wanted = engine_to_bytes(made.engine)
    made.calibration_table.save(tmp_path / "table.json")
    again = convert(deep, images, cache, calibration=tmp_path / "table.json")
    assert engine_to_bytes(again.engine) == wanted
    assert again.calibration_table.corrections == made.calibration_table.corrections
    assert made.calibration_table.with_method("mse").corrections == {}
    merged = made.calibration_table.merge(again.calibration_table)
    assert merged.corrections == {}


def test_corrections_are_an_option(deep, images, cache):
    plain = convert(deep, images, cache, calibration=[images[:16]], quantize_with=())
    fixed = convert(deep, images, cache, calibration=[images[:16]], quantize_with=BOTH)
    assert plain.calibration_table.corrections == {}
    with torch.no_grad():
        want = deep(images[16:])
    assert error(fixed(images[16:]), want) < 0.8 * error(plain(images[16:]), want)


def convert(model, images, cache, **options):
    return torch2rt.convert(
        copy.deepcopy(model), images, precision={"*": "int8"}, calibration_method="minmax",
        timing_cache=cache, threads=1, progress=False, **options,
    )


@pytest.mark.parametrize("given", ["adaround", ("bias_correction", "luck"), 3])
def test_unknown_corrections_are_refused(given, deep, images):
    with pytest.raises(ConfigError, match=r"quantize_with=.* is not valid: unknown value\. Use "
                       r"some of 'equalize', 'bias_correction', 'rounding'"):
        torch2rt.convert(deep, images, precision="int8", calibration=[images],
                         quantize_with=given)


def test_corrections_survive_json():
    correction = Correction(
        np.array([0.1, -2.5], np.float32), np.array([[1, 0, -1], [0, 0, 1]], np.int8)
    )
    assert from_json(to_json(correction)) == correction
    assert from_json(to_json(Correction(correction.bias))) == Correction(correction.bias)
    assert from_json(to_json(Correction(correction.bias))) != correction


def test_a_correction_of_another_weight_is_refused():
    correction = Correction(np.zeros(2, np.float32), np.ones((2, 3), np.int8))
    assert correction.weight(np.full((2, 3), 127, np.int8)).max() == 127
    with pytest.raises(CalibrationError, match=r"has the shape \[2, 3\], the weight has \[2, 4\]"):
        correction.weight(np.zeros((2, 4), np.int8))


GOOD = to_json(Correction(np.zeros(2, np.float32), np.ones((2, 3), np.int8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "a correction must have shape, rounding, bias"),
        ({"shape": [2, -3]}, "is no list of sizes"),
        ({"shape": [1 << 20, 1 << 20]}, "larger than any weight"),
        ({"shape": [2, 4]}, "wrong size"),
        ({"shape": [2, 2]}, "wrong size"),
        ({"rounding": "%%"}, "are damaged"),
        ({"bias": 7}, "are no text"),
        ({"bias": to_json(Correction(np.array([np.nan], np.float32)))["bias"]}, "not finite"),
    ],
)
def test_damaged_corrections_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        from_json({**GOOD, **change})
