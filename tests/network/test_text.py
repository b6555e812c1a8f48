"""The text form: round trip, and hostile text that gives an error and runs nothing."""

import sys

import numpy as np
import pytest
from fusion_testing import network_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from random_networks import networks

from torch2rt.errors import NetworkTextError
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify

LENET = """network lenet
symbol s0 in 1..1024
input %x: float32[s0,1,28,28] as image
constant @w: float32[6,1,5,5]
constant @b: bfloat16[6,1,1]
%conv = convolution(%x, @w, @b) {"stride":[1,1],"padding_before":[0,0],"padding_after":[0,0],\
"dilation":[1,1]} epilogue relu(add(i0,i1)) -> float32[s0,6,24,24]
%half = pointwise(%conv) {"expression":{"expression":"mul(i0,inf)"},\
"dtype":{"dtype":"float16"}} -> float16[s0,6,24,24]
%flat = reshape(%half) {"shape":[{"dim":"s0"},3456]} -> float16[s0,3456]
%v, %i = sort(%flat) {"axis":1} -> float16[s0,3456], int64[s0,3456]
output values = %v
output indices = %i
output same = %x
"""


def test_round_trip_of_every_part() -> None:
    network = network_of(LENET)
    assert text(network) == LENET
    verify(network)
    assert network.symbols == {"s0": (1, 1024)}
    assert network.outputs["same"] is network.inputs["image"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_random_networks_survive_a_round_trip(network: Network) -> None:
    constants = {t.name: t.data for t in network.constants if t.data is not None}
    assert text(parse(text(network), constants)) == text(network)


def replaced(old: str, new: str) -> str:
    assert old in LENET
    return LENET.replace(old, new)


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("import os\n", 1, "not a line of a network"),
        (replaced("output same = %x", "output same = %nothing"), 12, "nothing"),
        (replaced("output same", "output values"), 12, "exists already"),
        (replaced("%x, @w", "%y, @w"), 6, "y"),
        (replaced("%x, @w", "x, @w"), 6, "'x' is not a tensor"),
        (replaced("convolution(", "convolutions("), 6, "no layer kind"),
        (replaced("convolution(", "registry("), 6, "no layer kind"),
        (replaced('"stride":[1,1],', ""), 6, "missing"),
        (replaced('"stride"', '"evil":1,"stride"'), 6, "unknown attributes"),
        (replaced('"stride":[1,1]', '"stride":[1,'), 6, ""),
        (replaced("relu(add(i0,i1))", "system(i0)"), 6, "unknown pointwise op"),
        (replaced("relu(add(i0,i1))", "relu(add(i0))"), 6, "takes 2 arguments"),
        (replaced("mul(i0,inf)", "__import__(i0)"), 7, "unknown pointwise op"),
        (replaced("[s0,6,24,24]\n%half", "[s0,6,24,23]\n%half"), 6, "the layer gives"),
        (replaced("float16[s0,3456], int64", "float16[s0,3456], int65"), 9, "int65"),
        (replaced("%v, %i = sort", "%v = sort"), 9, "do not match"),
        (replaced("%v, %i = sort", "%v, %v = sort"), 9, "name is taken"),
        (replaced("%half = p", "%conv = p"), 7, "name is taken"),
        (replaced('"dim":"s0"', '"dim":"__import__(1)"'), 8, "not a dim"),
        (replaced("[s0,1,28,28]", "[s0**9**9,1,28,28]"), 3, "not a dim"),
        (replaced("[6,1,1]", "[6,1,2]"), 5, "has shape"),
        (replaced("@b:", "@w:"), 5, "name is taken"),
        (replaced("@b: bfloat16", "@b: float32"), 5, "stored as"),
        (replaced("symbol s0 in 1..1024", "symbol s0 in 1..x"), 2, "not a line"),
        ("input %x: float32[" + "(" * 5000 + "1" + ")" * 5000 + "]\n", 1, "not a dim"),
        ("input %x: float32[" + "-" * 5000 + "1]\n", 1, "not a dim"),
    ],
)
def test_wrong_text_names_line_and_reason(source: str, line: int, reason: str) -> None:
    constants = {"w": np.zeros((6, 1, 5, 5), np.float32), "b": np.zeros((6, 1, 1), np.uint16)}
    with pytest.raises(NetworkTextError, match=f"line {line}:") as caught:
        parse(source, constants)
    assert reason in str(caught.value)


def test_a_constant_without_data_is_named() -> None:
    with pytest.raises(NetworkTextError, match=r"line 1: .*w"):
        parse("constant @w: float32[1]\n", {})


def test_deep_nesting_is_an_error() -> None:
    deep = "relu(" * 100_000 + "i0" + ")" * 100_000
    source = replaced("relu(add(i0,i1))", deep)
    constants = {"w": np.zeros((6, 1, 5, 5), np.float32), "b": np.zeros((6, 1, 1), np.uint16)}
    with pytest.raises(NetworkTextError, match="nests too deeply"):
        parse(source, constants)


_WORDS = ["network", "input", "constant", "output", "symbol", "%x", "@w", ":", "->", "=", "(", ")",
          "[", "]", "{", "}", "float32", "1", "s0", ",", '"', "epilogue", "relu(i0)", "aten",
          "os.system", "__import__('os')", "\n", "pointwise", "../../etc/passwd", "in 1..2", " "]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(_WORDS)).map(" ".join)))
@example('%y = aten() {"op":"aten.from_file.default"} -> float32[1]')
def test_any_text_gives_a_network_or_an_error(source: str) -> None:
    before = set(sys.modules)
    try:
        network = parse(source, {})
    except NetworkTextError:
        pass
    else:
        verify(network)
    new = {name for name in set(sys.modules) - before if not name.startswith("torch2rt.layers")}
    assert not {name for name in new if name.split(".")[0] in ("os", "subprocess", "pickle")}


def test_a_fallback_layer_cannot_name_an_op_that_touches_files() -> None:
    line = (
        '%y = aten() {"op":"aten.from_file.default","arguments":["/etc/passwd"],"named":[],'
        '"outputs":[{"tensor":"float32[1]"}]} -> float32[1]\n'
    )
    with pytest.raises(NetworkTextError, match="is not an op that a fallback layer may run"):
        parse(line, {})
