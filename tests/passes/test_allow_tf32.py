"""Allow TF32: an attribute of what multiplies float32, and of nothing else."""

import numpy as np
import pytest

from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.allow_tf32 import AllowTf32, round_to_tf32
from torch2rt.passes.base import Log

WINDOW = '"stride":[1,1],"padding_before":[0,0],"padding_after":[0,0],"dilation":[1,1]'
BODIES = [
    (f"convolution(%x, @w) {{{WINDOW}}}", "float32[1,3,4,4]", (3, 3, 1, 1)),
    (f"deconvolution(%x, @w) {{{WINDOW}}}", "float32[1,3,4,4]", (3, 3, 1, 1)),
    ("matmul(%x, @w)", "float32[1,3,4,4]", (4, 4)),
]


def network_of(layer, shape, weight, dtype="float32"):
    import_all_kinds()
    sizes = ",".join(map(str, weight))
    source = (
        f"network n\ninput %x: {dtype}[1,3,4,4]\nconstant @w: {dtype}[{sizes}]\n"
        f"%y = {layer} -> {shape.replace('float32', dtype)}\noutput y = %y\n"
    )
    return parse(source, {"w": np.ones(weight, dtype)})


@pytest.mark.parametrize(("layer", "shape", "weight"), BODIES)
def test_what_multiplies_float32_is_marked(layer, shape, weight):
    network = network_of(layer, shape, weight)
    assert AllowTf32().run(network, Log())
    verify(network)
    assert network.layers[0].kind.tf32
    assert '"tf32":true' in text(network)
    assert not AllowTf32().run(network, Log())
    again = parse(text(network), {c.name: c.data for c in network.constants})
    assert again.layers[0].kind == network.layers[0].kind


@pytest.mark.parametrize(("layer", "shape", "weight"), BODIES)
def test_half_is_left_alone(layer, shape, weight):
    network = network_of(layer, shape, weight, "float16")
    assert not AllowTf32().run(network, Log())
    assert "tf32" not in text(network)


@pytest.mark.parametrize(("layer", "shape", "weight"), BODIES)
def test_weights_are_rounded_and_other_uses_keep_them(layer, shape, weight):
    network = network_of(layer, shape, weight)
    (before,) = network.constants
    before.data[...] = np.float32(1 + 2**-11 + 2**-13)  # above the middle
    network.add_output("w", before)
    AllowTf32().run(network, Log())
    assert (network.layers[0].inputs[1].data == 1 + 2**-10).all()
    assert network.outputs["w"] is before


def test_tf32_is_the_nearest_number_of_ten_bits():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    values[:6] = np.inf, -np.inf, np.nan, 0.0, -0.0, np.finfo(np.float32).max
    rounded = round_to_tf32(values)
    assert not (rounded[3:].view(np.uint32) & 0x1FFF).any()
    assert np.isfinite(rounded[5])
    finite = values[6:]
    assert (np.abs(rounded[6:] - finite) <= np.abs(finite) * 2**-11).all()
    assert rounded[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(rounded[2])
    assert round_to_tf32(np.float32([1 + 2**-11, 1 + 3 * 2**-11])).tolist() == [1, 1 + 2**-9]
