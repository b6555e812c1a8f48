"""Constant folding, and removal of what is dead or there twice."""

import numpy as np
from fusion_testing import assert_same_outputs, network_of, outputs_of, pointwise, run_twice

from torch2rt.network.network import Network
from torch2rt.network.text import text
from torch2rt.passes.eliminate_common import EliminateCommon
from torch2rt.passes.eliminate_dead import EliminateDead
from torch2rt.passes.fold_constants import FoldConstants

X = "input %x: float32[2,3]\n"
F = "float32[2,3]"


def kinds(network: Network) -> list[str]:
    return [layer.kind.name for layer in network.layers]


def test_layers_of_constants_are_computed() -> None:
    source = (
        X + "constant @c: float32[3,2]\n"
        '%t = transpose(@c) {"permutation":[1,0]} -> float32[2,3]\n'
        + pointwise("e", "%t", "exp(i0)", F) + pointwise("y", "%x, %e", "add(i0,i1)", F)
        + "output y = %y\noutput e = %e\n"
    )
    network = network_of(source)
    before = outputs_of(network)
    log = run_twice(FoldConstants(), network)
    assert kinds(network) == ["pointwise"]
    assert network.outputs["e"].is_constant
    assert network.outputs["e"].name == "e"
    assert len(log.fired) == 2
    assert_same_outputs(before, outputs_of(network))


def test_a_result_much_larger_than_its_inputs_is_not_stored() -> None:
    source = (
        "constant @c: float32[1]\n"
        '%e = expand(@c) {"shape":[8192,1024]} -> float32[8192,1024]\noutput e = %e\n'
    )
    network = network_of(source)
    log = run_twice(FoldConstants(), network)
    assert kinds(network) == ["expand"]
    ((_, reject),) = log.rejected.items()
    assert "would become 33554432" in reject.reason


def test_symbolic_sizes_are_not_folded() -> None:
    source = (
        "symbol s0 in 1..9\ninput %x: float32[s0]\nconstant @c: float32[1]\n"
        '%e = expand(@c) {"shape":[{"dim":"s0"}]} -> float32[s0]\noutput e = %e\n'
    )
    network = network_of(source)
    log = run_twice(FoldConstants(), network)
    assert kinds(network) == ["expand"]
    assert [reject.reason for reject in log.rejected.values()] == ["its sizes are symbolic"]


RANDOM = (
    "constant @c: float32[3]\n"
    '%{0} = aten(@c) {{"op":"aten.rand_like.default","arguments":[["tensor",0]],"named":[],'
    '"outputs":[{{"tensor":"float32[3]"}}]}} -> float32[3]\n'
)


def test_a_fallback_layer_is_neither_folded_nor_merged() -> None:
    one = RANDOM.format("a")
    two = RANDOM.format("b").partition("\n")[2]
    network = network_of(one + two + "output a = %a\noutput b = %b\n")
    run_twice(FoldConstants(), network)
    run_twice(EliminateCommon(), network)
    assert kinds(network) == ["aten", "aten"]


def test_dead_layers_and_constants_go_away() -> None:
    source = (
        X + "input %unused: float32[1]\nconstant @c: float32[3]\nconstant @d: float32[3]\n"
        + pointwise("a", "%x, @c", "add(i0,i1)", F) + pointwise("b", "%a", "exp(i0)", F)
        + pointwise("y", "%x, @d", "add(i0,i1)", F) + "output y = %y\n"
    )
    network = network_of(source)
    before = outputs_of(network)
    run_twice(EliminateDead(), network)
    assert [tensor.name for tensor in network.tensors] == ["x", "unused", "d", "y"]
    assert_same_outputs(before, outputs_of(network))


def test_a_layer_with_one_result_in_use_stays() -> None:
    source = (
        'input %x: float32[4]\n%v, %i = sort(%x) {"axis":0,"is_descending":true} -> '
        "float32[4], int64[4]\noutput y = %i\n"
    )
    network = network_of(source)
    run_twice(EliminateDead(), network)
    assert kinds(network) == ["sort"]


def test_equal_layers_become_one_and_keep_all_origins() -> None:
    source = (
        X + pointwise("a", "%x", "relu(i0)", F) + pointwise("b", "%x", "relu(i0)", F)
        + pointwise("c", "%a", "exp(i0)", F) + pointwise("d", "%b", "exp(i0)", F)
        + pointwise("y", "%c, %d", "add(i0,i1)", F) + "output y = %y\noutput b = %b\n"
    )
    network = network_of(source)
    before = outputs_of(network)
    run_twice(EliminateCommon(), network)
    assert [layer.name for layer in network.layers] == ["a", "c", "y"]
    assert [origin.module_path for origin in network.layers[0].origins] == ["a", "b"]
    assert network.outputs["b"].name == "a"
    assert_same_outputs(before, outputs_of(network))


def test_equal_constants_become_one() -> None:
    source = (
        X + "constant @c: float32[3]\nconstant @d: float32[3]\nconstant @e: float32[3]\n"
        "constant @f: int32[3]\n"
        + pointwise("a", "%x, @c", "add(i0,i1)", F) + pointwise("b", "%x, @d", "add(i0,i1)", F)
        + pointwise("y", "%a, %b, @e, @f", "add(add(i0,i1),add(i2,i3))", F) + "output y = %y\n"
    )
    ones = np.ones(3, np.float32)
    data = {"c": ones, "d": ones.copy(), "e": ones * 2, "f": ones.view(np.int32)}
    network = network_of(source, data)
    before = outputs_of(network)
    run_twice(EliminateCommon(), network)
    assert [tensor.name for tensor in network.constants] == ["c", "e", "f"]
    assert kinds(network) == ["pointwise", "pointwise"]
    assert_same_outputs(before, outputs_of(network))


def test_layers_that_differ_stay() -> None:
    source = (
        X + pointwise("a", "%x", "relu(i0)", F) + pointwise("b", "%x", "relu(i0)", "float16[2,3]")
        + pointwise("c", "%x", "add(i0,1)", F) + pointwise("d", "%x", "add(i0,1.0)", F)
        + "".join(f"output {name} = %{name}\n" for name in "abcd")
    )
    network = network_of(source)
    before = text(network)
    run_twice(EliminateCommon(), network)
    assert text(network) == before
