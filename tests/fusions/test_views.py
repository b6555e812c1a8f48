"""Reshapes, transposes, expands, slices, concats and pads."""

import pytest
from fusion_testing import (
    check_fires,
    check_refused,
    convolution,
    network_of,
    pointwise,
    run_twice,
)

from torch2rt.fusions.base import Fuse, Fusion
from torch2rt.fusions.expand_after_pointwise import ExpandAfterPointwise
from torch2rt.fusions.expand_into_attention import ExpandIntoAttention
from torch2rt.fusions.expand_into_pointwise import ExpandIntoPointwise
from torch2rt.fusions.flatten_concat import FlattenConcat
from torch2rt.fusions.matmul_without_flatten import MatmulWithoutFlatten
from torch2rt.fusions.merge_reshapes import MergeReshapes
from torch2rt.fusions.merge_slices import MergeSlices
from torch2rt.fusions.merge_transposes import MergeTransposes
from torch2rt.fusions.pad_into_window import PadIntoWindow
from torch2rt.fusions.remove_identity import RemoveIdentity
from torch2rt.fusions.reuse_concat import ReuseConcat
from torch2rt.fusions.slice_of_concat import SliceOfConcat
from torch2rt.fusions.transpose_as_reshape import TransposeAsReshape
from torch2rt.fusions.transpose_into_matmul import TransposeIntoMatmul


def reshape(output: str, x: str, shape: str, type: str) -> str:
    return f'%{output} = reshape(%{x}) {{"shape":[{shape}]}} -> {type}\n'


def transpose(output: str, x: str, permutation: str, type: str) -> str:
    return f'%{output} = transpose(%{x}) {{"permutation":[{permutation}]}} -> {type}\n'


def concat(output: str, inputs: str, type: str, axis: int = 1) -> str:
    return f'%{output} = concat({inputs}) {{"axis":{axis}}} -> {type}\n'


def cut(output: str, x: str, starts: str, sizes: str, type: str, steps: str = "1,1") -> str:
    return (
        f'%{output} = slice(%{x}) {{"starts":[{starts}],"sizes":[{sizes}],"steps":[{steps}]}}'
        f" -> {type}\n"
    )


X = "input %x: float32[2,6]\n"
XYZ = X + "input %y: float32[2,3]\ninput %z: float32[2,1]\n"


@pytest.mark.parametrize(
    "line",
    [
        reshape("a", "x", "2,6", "float32[2,6]"),
        transpose("a", "x", "0,1", "float32[2,6]"),
        concat("a", "%x", "float32[2,6]"),
        cut("a", "x", "0,0", "2,6", "float32[2,6]"),
        '%a = expand(%x) {"shape":[2,6]} -> float32[2,6]\n',
        '%a = pad(%x) {"before":[0,0],"after":[0,0]} -> float32[2,6]\n',
        pointwise("a", "%x", "i0", "float32[2,6]"),
    ],
)
def test_layers_that_do_nothing_go_away(line: str) -> None:
    source = X + pointwise("p", "%x", "exp(i0)", "float32[2,6]") + line.replace("%x", "%p")
    check_fires(RemoveIdentity(), source + "output y = %a\n", kinds=["pointwise"])


@pytest.mark.parametrize(
    "line",
    [
        pointwise("a", "%x", "i0", "float16[2,6]"),
        transpose("a", "sq", "1,0", "float32[2,2]"),
        cut("a", "sq", "1,0", "2,2", "float32[2,2]", "-1,1"),
        '%a = roll(%sq) {"shifts":[1],"axes":[0]} -> float32[2,2]\n',
    ],
)
def test_layers_that_do_something_stay(line: str) -> None:
    source = X + "input %sq: float32[2,2]\n" + line + "output y = %a\n"
    check_refused(RemoveIdentity(), source, reason="")


def test_an_identity_between_input_and_output_goes_away() -> None:
    source = X + reshape("a", "x", "2,6", "float32[2,6]") + "output y = %a\n"
    network = network_of(source)
    run_twice(Fuse("test", (RemoveIdentity(),)), network)
    assert network.outputs["y"] is network.inputs["x"]


FIRES: list[tuple[Fusion[object], str, list[str]]] = [
    (MergeReshapes(),
     reshape("a", "x", "3,4", "float32[3,4]") + reshape("b", "a", "12", "float32[12]")
     + "output y = %b\n", ["reshape"]),
    (MergeReshapes(),
     reshape("a", "x", "3,4", "float32[3,4]") + reshape("b", "a", "12", "float32[12]")
     + "output y = %b\noutput z = %a\n", ["reshape", "reshape"]),
    (MergeTransposes(),
     "input %t: float32[2,3,4]\n" + transpose("a", "t", "2,0,1", "float32[4,2,3]")
     + transpose("b", "a", "0,2,1", "float32[4,3,2]") + "output y = %b\n", ["transpose"]),
    (MergeTransposes(),
     transpose("a", "x", "1,0", "float32[6,2]") + transpose("b", "a", "1,0", "float32[2,6]")
     + "output y = %b\noutput z = %a\n", ["transpose", "transpose"]),
    (TransposeAsReshape(),
     "input %t: float32[2,1,1,5]\n" + transpose("a", "t", "0,3,1,2", "float32[2,5,1,1]")
     + "output y = %a\n", ["reshape"]),
    (TransposeAsReshape(),
     "symbol s0 in 1..9\ninput %t: float32[s0,1,5]\n"
     + transpose("a", "t", "1,0,2", "float32[1,s0,5]") + "output y = %a\n", ["reshape"]),
    (TransposeIntoMatmul(),
     "input %w: float32[3,6]\n" + transpose("a", "w", "1,0", "float32[6,3]")
     + "%b = matmul(%x, %a) -> float32[2,3]\noutput y = %b\noutput z = %a\n",
     ["transpose", "matmul"]),
    (TransposeIntoMatmul(),
     "input %q: float32[2,3,4,5]\ninput %k: float32[2,6,3,5]\n"
     + transpose("a", "k", "0,2,3,1", "float32[2,3,5,6]")
     + "%b = matmul(%q, %a) -> float32[2,3,4,6]\noutput y = %b\n", ["transpose", "matmul"]),
    (TransposeIntoMatmul(),
     "input %w: float32[2,3]\n" + transpose("a", "x", "1,0", "float32[6,2]")
     + "%b = matmul(%a, %w) -> float32[6,3]\noutput y = %b\n", ["matmul"]),
    (ExpandIntoPointwise(),
     'input %c: float32[1,6]\n%e = expand(%c) {"shape":[2,6]} -> float32[2,6]\n'
     + pointwise("a", "%x, %e", "add(i0,i1)", "float32[2,6]") + "output y = %a\n", ["pointwise"]),
    (ExpandAfterPointwise(),
     'input %c: float32[1,6]\ninput %d: float32[6]\n%e = expand(%c) {"shape":[2,6]} -> '
     "float32[2,6]\n" + pointwise("a", "%e, %d", "add(i0,i1)", "float32[2,6]")
     + "output y = %a\n", ["pointwise", "expand"]),
    (ExpandIntoAttention(),
     "input %q: float32[2,3,4]\ninput %k: float32[2,5,4]\ninput %v: float32[2,5,6]\n"
     'input %m: float32[1,1,5]\n%e = expand(%m) {"shape":[2,3,5]} -> float32[2,3,5]\n'
     '%a = attention(%q, %k, %v, %e) {"scale":0.5,"has_mask":true} -> float32[2,3,6]\n'
     "output y = %a\n", ["attention"]),
    (MergeSlices(),
     cut("a", "x", "0,1", "2,4", "float32[2,4]")
     + cut("b", "a", "1,0", "1,2", "float32[1,2]", "1,2")
     + "output y = %b\n", ["slice"]),
    (FlattenConcat(),
     concat("a", "%x, %y", "float32[2,9]") + concat("b", "%z, %a, %z", "float32[2,11]")
     + "output y = %b\n", ["concat"]),
    (SliceOfConcat(),
     concat("a", "%x, %y", "float32[2,9]") + cut("b", "a", "0,7", "2,2", "float32[2,2]")
     + "output y = %b\noutput z = %a\n", ["concat", "slice"]),
    (MatmulWithoutFlatten(),
     "input %t: float32[2,3,6]\nconstant @w: float32[6,4]\nconstant @c: float32[4]\n"
     + reshape("a", "t", "6,6", "float32[6,6]")
     + "%b = matmul(%a, @w, @c) epilogue relu(add(i0,i1)) -> float32[6,4]\n"
     + reshape("d", "b", "2,3,4", "float32[2,3,4]") + "output y = %d\n", ["matmul"]),
    (MatmulWithoutFlatten(),
     "symbol s0 in 1..9\ninput %t: float32[s0,3,2,3]\nconstant @w: float32[6,4]\n"
     + reshape("a", "t", "-1,6", "float32[3*s0,6]")
     + "%b = matmul(%a, @w) -> float32[3*s0,4]\n"
     + reshape("d", "b", "-1,3,4", "float32[s0,3,4]") + "output y = %d\n",
     ["reshape", "matmul"]),
]


@pytest.mark.parametrize(("fusion", "body", "kinds"), FIRES)
def test_fires(fusion: Fusion[object], body: str, kinds: list[str]) -> None:
    declarations = [line for line in body.splitlines() if line.startswith(("symbol", "input"))]
    rest = [line for line in body.splitlines() if line not in declarations]
    check_fires(fusion, "\n".join([*declarations, XYZ, *rest]), kinds=kinds)


REFUSED: list[tuple[Fusion[object], str, str]] = [
    (MergeTransposes(),
     "input %t: float32[2,3,4]\n" + transpose("a", "t", "2,0,1", "float32[4,2,3]")
     + transpose("b", "a", "0,2,1", "float32[4,3,2]") + "output y = %b\noutput z = %a\n",
     "other readers"),
    (TransposeAsReshape(),
     "symbol s0 in 1..9\nsymbol s1 in 1..9\ninput %t: float32[s0,1,s1]\n"
     + transpose("a", "t", "1,0,2", "float32[1,s0,s1]") + "output y = %a\n", "symbolic"),
    (TransposeAsReshape(), transpose("a", "x", "1,0", "float32[6,2]") + "output y = %a\n", ""),
    (TransposeIntoMatmul(),
     "input %q: float32[2,3,4,5]\ninput %k: float32[2,6,3,5]\n"
     + transpose("a", "k", "0,2,3,1", "float32[2,3,5,6]")
     + "%b = matmul(%q, %a) -> float32[2,3,4,6]\noutput y = %b\noutput z = %a\n", "other readers"),
    (ExpandIntoPointwise(),
     'input %c: float32[1,6]\n%e = expand(%c) {"shape":[2,6]} -> float32[2,6]\n'
     + pointwise("a", "%e", "exp(i0)", "float32[2,6]") + "output y = %a\n", "gives the result"),
    (ExpandAfterPointwise(),
     'input %c: float32[1,6]\n%e = expand(%c) {"shape":[2,6]} -> float32[2,6]\n'
     + pointwise("a", "%e", "exp(i0)", "float32[2,6]") + "output y = %a\noutput z = %e\n",
     "other readers"),
    (MergeSlices(),
     cut("a", "x", "1,0", "2,6", "float32[2,6]", "-1,1")
     + cut("b", "a", "1,0", "1,2", "float32[1,2]") + "output y = %b\n", "backwards"),
    (FlattenConcat(),
     concat("a", "%x, %y", "float32[2,9]") + concat("b", "%a, %z", "float32[2,10]")
     + "output y = %b\noutput z = %a\n", "other readers"),
    (FlattenConcat(),
     concat("a", "%x, %x", "float32[4,6]", axis=0) + concat("b", "%a, %a", "float32[4,12]")
     + "output y = %b\n", ""),
    (SliceOfConcat(),
     concat("a", "%x, %y", "float32[2,9]") + cut("b", "a", "0,5", "2,2", "float32[2,2]")
     + "output y = %b\n", ""),
    (ReuseConcat(),
     concat("b", "%x, %y, %z", "float32[2,10]") + concat("a", "%x, %y", "float32[2,9]")
     + "output y = %b\noutput z = %a\n", "later"),
    (MatmulWithoutFlatten(),
     "input %t: float32[2,3,6]\ninput %r: float32[6,4]\nconstant @w: float32[6,4]\n"
     + reshape("a", "t", "6,6", "float32[6,6]")
     + "%b = matmul(%a, @w, %r) epilogue add(i0,i1) -> float32[6,4]\n"
     + reshape("d", "b", "2,3,4", "float32[2,3,4]") + "output y = %d\n", "per row"),
    (MatmulWithoutFlatten(),
     "input %t: float32[2,3,6]\nconstant @w: float32[6,4]\n"
     + reshape("a", "t", "6,6", "float32[6,6]") + "%b = matmul(%a, @w) -> float32[6,4]\n"
     + reshape("d", "b", "3,4,2", "float32[3,4,2]") + "output y = %d\n", ""),
]


@pytest.mark.parametrize(("fusion", "body", "reason"), REFUSED)
def test_refused(fusion: Fusion[object], body: str, reason: str) -> None:
    declarations = [line for line in body.splitlines() if line.startswith(("symbol", "input"))]
    rest = [line for line in body.splitlines() if line not in declarations]
    check_refused(fusion, "\n".join([*declarations, XYZ, *rest]), reason=reason)


def test_a_dense_block_becomes_a_chain() -> None:
    source = (
        "".join(f"input %f{index}: float32[1,{index + 1}]\n" for index in range(4))
        + concat("a", "%f0, %f1", "float32[1,3]") + concat("b", "%f0, %f1, %f2", "float32[1,6]")
        + concat("c", "%f0, %f1, %f2, %f3", "float32[1,10]")
        + "output a = %a\noutput b = %b\noutput c = %c\n"
    )
    check_fires(ReuseConcat(), source, lines=["concat(%a, %f2)", "concat(%b, %f3)"])


PAD = "input %i: float32[1,3,5,5]\nconstant @w: float32[4,3,3,3]\n"


def pad(before: str, after: str, type: str, more: str = "") -> str:
    return f'%p = pad(%i) {{"before":[{before}],"after":[{after}]{more}}} -> {type}\n'


def pool(type: str, mode: str, padding: int = 0, more: str = "") -> str:
    return (
        f'%a = pool(%p) {{"mode":"{mode}","kernel":[3,3],"stride":[2,2],'
        f'"padding_before":[{padding},{padding}],"padding_after":[{padding},{padding}],'
        f'"dilation":[1,1]{more}}} -> {type}\noutput y = %a\n'
    )


SAME = pad("0,0,0,1", "0,0,1,0", "float32[1,3,6,6]")


@pytest.mark.parametrize(
    "body",
    [
        SAME + convolution("a", "%p, @w", "float32[1,4,6,6]", padding=1) + "output y = %a\n",
        SAME + pool("float32[1,3,2,2]", "mean"),
        SAME + pool("float32[1,3,3,3]", "mean", 1, ',"count_padding":true'),
        pad("0,0,1,1", "0,0,1,1", "float32[1,3,7,7]", ',"value":{"float":"-inf"}')
        + pool("float32[1,3,3,3]", "max"),
    ],
)
def test_a_pad_before_a_window(body: str) -> None:
    network = check_fires(PadIntoWindow(), PAD + body)
    assert len(network.layers) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (pad("0,1,0,0", "0,0,0,0", "float32[1,4,5,5]")
         + convolution("a", "%p, @v", "float32[1,4,3,3]") + "output y = %a\n", "channels"),
        (pad("0,0,1,1", "0,0,0,0", "float32[1,3,6,6]", ',"value":1.0')
         + convolution("a", "%p, @w", "float32[1,4,4,4]") + "output y = %a\n", "constant 1.0"),
        (pad("0,0,1,1", "0,0,0,0", "float32[1,3,6,6]", ',"mode":"reflect"')
         + convolution("a", "%p, @w", "float32[1,4,4,4]") + "output y = %a\n", "reflect"),
        (SAME + pool("float32[1,3,2,2]", "max"), "pads with constant 0"),
        (SAME + pool("float32[1,3,3,3]", "mean", 1), "does not count"),
        (pad("0,0,3,0", "0,0,0,0", "float32[1,3,8,5]") + pool("float32[1,3,3,2]", "mean"),
         "inside the padding"),
    ],
)
def test_pads_that_stay(body: str, reason: str) -> None:
    check_refused(PadIntoWindow(), PAD + "constant @v: float32[4,4,3,3]\n" + body, reason=reason)
