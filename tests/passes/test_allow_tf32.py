"""Allow TF32: an attribute of what multiplies float32, and of nothing else."""

import numpy as np
import pytest

from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.allow_tf32 import AllowTf32
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
    again = parse(text(network), {"w": np.ones(weight, np.float32)})
    assert again.layers[0].kind == network.layers[0].kind


@pytest.mark.parametrize(("layer", "shape", "weight"), BODIES)
def test_half_is_left_alone(layer, shape, weight):
    network = network_of(layer, shape, weight, "float16")
    assert not AllowTf32().run(network, Log())
    assert "tf32" not in text(network)
