"""Rows of a product that become an image: what follows is computed on the rows."""

import pytest
from fusion_testing import check_fires, check_refused, pointwise

from torch2rt.fusions.base import all_fusions
from torch2rt.fusions.epilogue import FuseEpilogue
from torch2rt.fusions.merge_transposes import MergeTransposes
from torch2rt.fusions.pointwise_before_transpose import PointwiseBeforeTranspose
from torch2rt.fusions.remove_identity import RemoveIdentity
from torch2rt.passes.base import Log
from torch2rt.passes.eliminate_dead import EliminateDead

HEAD = "symbol s0 in 1..100\ninput %x: float32[s0,2,4,5]\nconstant @w: float32[6,5]\n"
ROWS = (
    '%m = matmul(%x, @w) {"transpose_b":true} -> float32[s0,2,4,6]\n'
    '%t = transpose(%m) {"permutation":[0,3,1,2]} -> float32[s0,6,2,4]\n'
)
SCALED = (
    HEAD + "input %r: float32[s0,6,2,4]\nconstant @c: float32[6,1,1]\n" + ROWS
    + pointwise("y", "%t, @c, %r", "add(mul(i0,i1),i2)", "float32[s0,6,2,4]") + "output y = %y\n"
)


def test_scale_and_residual_move_to_the_rows():
    check_fires(
        PointwiseBeforeTranspose(), SCALED,
        kinds=["matmul", "transpose", "pointwise", "transpose"],
        lines=['transpose(%r) {"permutation":[0,2,3,1]} -> float32[s0,2,4,6]'],
    )


def test_the_product_takes_them_then():
    fusions = (PointwiseBeforeTranspose(), FuseEpilogue())
    check_fires(fusions, SCALED, kinds=["transpose", "matmul", "transpose"])


def test_between_two_in_a_row_nothing_is_transposed():
    second = (
        '%n = matmul(%z, @w) {"transpose_b":true} -> float32[s0,2,4,6]\n'
        '%u = transpose(%n) {"permutation":[0,3,1,2]} -> float32[s0,6,2,4]\n'
        + pointwise("o", "%u, %y", "add(i0,i1)", "float32[s0,6,2,4]") + "output o = %o\n"
    )
    source = SCALED.replace("output y = %y\n", "") + "input %z: float32[s0,2,4,5]\n" + second
    fusions = (PointwiseBeforeTranspose(), FuseEpilogue(), MergeTransposes(), RemoveIdentity())
    network = check_fires(fusions, source)
    EliminateDead().run(network, Log())
    kinds = [layer.kind.name for layer in network.layers]
    assert kinds == ["transpose", "matmul", "matmul", "transpose"]


@pytest.mark.parametrize("shape", ["1", "6,1,1", "6,2,4", "1,6,1,1", "2,4", "1,1,4"])
def test_constants_of_every_shape(shape):
    source = (
        HEAD + f"constant @c: float32[{shape}]\n" + ROWS
        + pointwise("y", "%t, @c", "mul(i0,i1)", "float32[s0,6,2,4]") + "output y = %y\n"
    )
    check_fires(PointwiseBeforeTranspose(), source, kinds=["matmul", "pointwise", "transpose"])


def test_one_tensor_twice():
    source = HEAD + ROWS + pointwise("y", "%t, %t", "mul(i0,i1)", "float32[s0,6,2,4]")
    check_fires(
        PointwiseBeforeTranspose(), source + "output y = %y\n",
        kinds=["matmul", "pointwise", "transpose"],
    )


def test_what_stays():
    fusion = PointwiseBeforeTranspose()
    check_refused(fusion, SCALED + "output t = %t\n", reason="t has other readers")
    check_refused(fusion, SCALED + "output m = %m\n", reason="m has other readers")
    smaller = SCALED.replace("%r: float32[s0,6,2,4]", "%r: float32[s0,6,1,1]")
    check_refused(fusion, smaller, reason="")
    other = SCALED.replace("[0,3,1,2]", "[0,3,2,1]").replace("[s0,6,2,4]", "[s0,6,4,2]")
    check_refused(fusion, other, reason="")
    no_epilogue = SCALED.replace(
        '%m = matmul(%x, @w) {"transpose_b":true}', '%m = expand(@v) {"shape":[{"dim":"s0"},2,4,6]}'
    ).replace("constant @w: float32[6,5]", "constant @v: float32[1,2,4,6]")
    check_refused(fusion, no_epilogue, reason="")
    check_refused(PointwiseBeforeTranspose(is_enabled=False), SCALED, reason="")


def test_it_is_for_gpus_alone():
    for target in ("cpu", "cuda"):
        (found,) = [f for f in all_fusions(target) if isinstance(f, PointwiseBeforeTranspose)]
        assert found.is_enabled == (target == "cuda")
