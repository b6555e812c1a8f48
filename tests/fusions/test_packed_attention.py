"""Packed projections of attention: followed through what rearranges them, read by slices."""

import pytest
from fusion_testing import check_fires, check_refused

from torch2rt.fusions.axis_map import Part, trace
from torch2rt.fusions.matmul_without_transposes import MatmulWithoutTransposes
from torch2rt.fusions.packed_attention import PackedAttention
from torch2rt.fusions.reshape_before_transpose import ReshapeBeforeTranspose
from torch2rt.fusions.transpose_into_attention import TransposeIntoAttention
from torch2rt.network.text import parse


def sequence_first(batch: str = "2", minus: str = "-1") -> str:
    """torch.nn.MultiheadAttention: x [b,5,6], packed projection of 3 times 3 heads of 4."""
    b = batch
    joined = {"2": "6", "s0": "3*s0"}[b]
    size = '{"dim":"s0"}' if b == "s0" else b
    text = "symbol s0 in 1..64\n" if b == "s0" else ""
    text += (
        f"input %x: float32[{b},5,6]\n"
        "constant @w: float32[36,6]\nconstant @o: float32[6,12]\n"
        f'%t = transpose(%x) {{"permutation":[1,0,2]}} -> float32[5,{b},6]\n'
        f'%p = matmul(%t, @w) {{"transpose_b":true}} -> float32[5,{b},36]\n'
        f'%r = reshape(%p) {{"shape":[1,5,{minus},3,12]}} -> float32[1,5,{b},3,12]\n'
        f'%s = transpose(%r) {{"permutation":[3,1,2,0,4]}} -> float32[3,5,{b},1,12]\n'
        f'%c = reshape(%s) {{"shape":[3,5,{minus},12]}} -> float32[3,5,{b},12]\n'
    )
    for index, name in enumerate("qkv"):
        text += (
            f'%{name}0 = slice(%c) {{"starts":[{index},0,0,0],"sizes":[1,5,{size},12],'
            f'"steps":[1,1,1,1]}} -> float32[1,5,{b},12]\n'
            f'%{name}1 = reshape(%{name}0) {{"shape":[5,-1,4]}} -> float32[5,{joined},4]\n'
            f'%{name}2 = transpose(%{name}1) {{"permutation":[1,0,2]}} '
            f"-> float32[{joined},5,4]\n"
            f'%{name}3 = reshape(%{name}2) {{"shape":[{minus},3,5,4]}} -> float32[{b},3,5,4]\n'
        )
    return text + (
        f'%a = attention(%q3, %k3, %v3) {{"scale":0.5}} -> float32[{b},3,5,4]\n'
        f'%m = transpose(%a) {{"permutation":[2,0,1,3]}} -> float32[5,{b},3,4]\n'
        f'%n = reshape(%m) {{"shape":[5,{minus},12]}} -> float32[5,{b},12]\n'
        f'%d = matmul(%n, @o) {{"transpose_b":true}} -> float32[5,{b},6]\n'
        f'%y = transpose(%d) {{"permutation":[1,0,2]}} -> float32[{b},5,6]\n'
        "output y = %y\n"
    )


ALL = (
    ReshapeBeforeTranspose(), MatmulWithoutTransposes(), TransposeIntoAttention(),
    PackedAttention(),
)
READ_IN_PLACE = ["matmul", "reshape", *["slice"] * 3, "attention", "reshape", "matmul"]


@pytest.mark.parametrize("batch", ["2", "s0"])
def test_a_sequence_first_attention_moves_nothing(batch: str) -> None:
    check_fires(ALL, sequence_first(batch), kinds=READ_IN_PLACE)


def test_heads_packed_as_timm_does() -> None:
    """qkv = linear(x).reshape(b, l, 3, h, e).permute(2, 0, 3, 1, 4).unbind(0)."""
    source = (
        "input %p: float32[2,5,36]\n"
        '%r = reshape(%p) {"shape":[2,5,3,3,4]} -> float32[2,5,3,3,4]\n'
        '%t = transpose(%r) {"permutation":[2,0,3,1,4]} -> float32[3,2,3,5,4]\n'
    )
    for index, name in enumerate("qkv"):
        source += (
            f'%{name}0 = slice(%t) {{"starts":[{index},0,0,0,0],"sizes":[1,2,3,5,4],'
            f'"steps":[1,1,1,1,1]}} -> float32[1,2,3,5,4]\n'
            f'%{name} = reshape(%{name}0) {{"shape":[2,3,5,4]}} -> float32[2,3,5,4]\n'
        )
    source += '%a = attention(%q, %k, %v) {"scale":0.5} -> float32[2,3,5,4]\noutput a = %a\n'
    check_fires(PackedAttention(), source, kinds=["reshape", *["slice"] * 3, "attention"])


def test_slices_before_they_are_cut_into_heads() -> None:
    """What merged projections of query, key and value leave."""
    source = "input %p: float32[2,5,36]\n"
    for index, name in enumerate("qkv"):
        source += (
            f'%{name}0 = slice(%p) {{"starts":[0,0,{12 * index}],"sizes":[2,5,12],'
            f'"steps":[1,1,1]}} -> float32[2,5,12]\n'
            f'%{name} = reshape(%{name}0) {{"shape":[2,5,3,4]}} -> float32[2,5,3,4]\n'
        )
    source += (
        '%a = attention(%q, %k, %v) {"scale":0.5,"query_heads_last":true,"key_heads_last":true,'
        '"value_heads_last":true} -> float32[2,3,5,4]\noutput a = %a\n'
    )
    check_fires(PackedAttention(), source, kinds=["reshape", *["slice"] * 3, "attention"])


def test_projections_apart_stay() -> None:
    source = "".join(f"input %{name}0: float32[2,5,12]\n" for name in "qkv")
    for name in "qkv":
        source += f'%{name} = reshape(%{name}0) {{"shape":[2,5,3,4]}} -> float32[2,5,3,4]\n'
    source += (
        '%a = attention(%q, %k, %v) {"scale":0.5,"query_heads_last":true,"key_heads_last":true,'
        '"value_heads_last":true} -> float32[2,3,5,4]\noutput a = %a\n'
    )
    check_refused(PackedAttention(), source, reason="no more than they must be")


def test_windows_are_left_alone() -> None:
    """Rows that are parts of two axes, as in windowed attention."""
    source = (
        "input %p: float32[1,16,4]\n"
        '%r = reshape(%p) {"shape":[2,2,2,2,4]} -> float32[2,2,2,2,4]\n'
        '%t = transpose(%r) {"permutation":[0,2,1,3,4]} -> float32[2,2,2,2,4]\n'
        '%q = reshape(%t) {"shape":[4,1,4,4]} -> float32[4,1,4,4]\n'
        '%a = attention(%q, %q, %q) {"scale":0.5} -> float32[4,1,4,4]\noutput a = %a\n'
    )
    check_refused(PackedAttention(), source, reason="")


def test_a_joined_symbolic_axis_is_followed_from_where_it_was_joined() -> None:
    network = parse(
        "network n\nsymbol s0 in 1..8\ninput %x: float32[s0,12]\n"
        '%a = reshape(%x) {"shape":[-1,4]} -> float32[3*s0,4]\n'
        '%b = transpose(%a) {"permutation":[1,0]} -> float32[4,3*s0]\n'
        '%c = reshape(%b) {"shape":[4,-1,3]} -> float32[4,s0,3]\n'
        "output y = %c\n", {},
    )
    found, chain = trace(network.outputs["y"])
    assert found.base is network.inputs["x"] or found.base.name == "x"
    assert [layer.name for layer in chain] == ["c", "b", "a"]
    batch = network.inputs["x"].shape[0] if hasattr(network.inputs["x"], "shape") else None
    assert found.axes[0] == (Part(1, 4, 1),)
    assert found.axes[1] == (Part(0, batch, 1),)
    assert found.axes[2] == (Part(1, 3, 4),)


def test_a_slice_across_parts_cannot_be_followed() -> None:
    network = parse(
        "network n\ninput %x: float32[6,4]\n"
        '%a = reshape(%x) {"shape":[24]} -> float32[24]\n'
        '%b = slice(%a) {"starts":[2],"sizes":[8],"steps":[1]} -> float32[8]\n'
        "output y = %b\n", {},
    )
    found, chain = trace(network.outputs["y"])
    assert [layer.name for layer in chain] == ["b"]
    assert found.offsets == (2,)


MATMUL = (
    "input %x: float32[2,5,6]\nconstant @w: float32[6,4]\nconstant @b: float32[{bias}]\n"
    '%t = transpose(%x) {{"permutation":[1,0,2]}} -> float32[5,2,6]\n'
    "%m = matmul(%t, @w, @b) epilogue add(i0,i1) -> float32[5,2,4]\n"
    '%y = transpose(%m) {{"permutation":[{back}]}} -> float32[{shape}]\noutput y = %y\n'
)


def test_transposes_around_a_matmul_cancel() -> None:
    source = MATMUL.format(bias="4", back="1,0,2", shape="2,5,4")
    check_fires(MatmulWithoutTransposes(), source, kinds=["matmul"])


def test_an_epilogue_per_row_keeps_the_transposes() -> None:
    source = MATMUL.format(bias="5,1,4", back="1,0,2", shape="2,5,4")
    check_refused(MatmulWithoutTransposes(), source, reason="one value per row")


def test_transposes_that_do_not_cancel_stay() -> None:
    source = MATMUL.format(bias="4", back="0,2,1", shape="5,4,2")
    check_refused(MatmulWithoutTransposes(), source, reason="")


def test_a_matmul_with_other_readers_keeps_its_transposes() -> None:
    source = MATMUL.format(bias="4", back="1,0,2", shape="2,5,4") + "output m = %m\n"
    check_refused(MatmulWithoutTransposes(), source, reason="other readers")


def test_a_reshape_that_joins_what_moved_stays_behind() -> None:
    source = (
        "input %x: float32[2,5,3,4]\n"
        '%t = transpose(%x) {"permutation":[0,2,1,3]} -> float32[2,3,5,4]\n'
        '%y = reshape(%t) {"shape":[2,3,20]} -> float32[2,3,20]\noutput y = %y\n'
    )
    check_refused(ReshapeBeforeTranspose(), source, reason="")


def test_a_transpose_with_other_readers_stays_before_its_reshape() -> None:
    source = (
        "input %x: float32[2,5,3,4]\n"
        '%t = transpose(%x) {"permutation":[1,0,2,3]} -> float32[5,2,3,4]\n'
        '%y = reshape(%t) {"shape":[5,2,12]} -> float32[5,2,12]\noutput y = %y\noutput t = %t\n'
    )
    check_refused(ReshapeBeforeTranspose(), source, reason="other readers")
