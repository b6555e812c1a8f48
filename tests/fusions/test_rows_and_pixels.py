"""What image transformers begin with: pixels to rows, a class token, positions; and tables."""

import numpy as np
from fusion_testing import check_fires, check_refused, pointwise

from torch2rt.fusions.base import all_fusions
from torch2rt.fusions.expand_after_take import ExpandAfterTake
from torch2rt.fusions.pointwise_into_concat import PointwiseIntoConcat
from torch2rt.fusions.reshape_after_transpose import ReshapeAfterTranspose
from torch2rt.fusions.transpose_after_reshape import TransposeAfterReshape

HEAD = "symbol s0 in 1..100\n"
TO_ROWS = (
    HEAD + "input %x: float32[s0,6,2,4]\n"
    '%r = reshape(%x) {"shape":[-1,6,8]} -> float32[s0,6,8]\n'
    '%y = transpose(%r) {"permutation":[0,2,1]} -> float32[s0,8,6]\noutput y = %y\n'
)
TO_PIXELS = (
    HEAD + "input %x: float32[s0,8,6]\n"
    '%t = transpose(%x) {"permutation":[0,2,1]} -> float32[s0,6,8]\n'
    '%y = reshape(%t) {"shape":[-1,6,2,4]} -> float32[s0,6,2,4]\noutput y = %y\n'
)


def test_pixels_become_rows():
    line = '{"permutation":[0,2,3,1]} -> float32[s0,2,4,6]'
    check_fires(ReshapeAfterTranspose(), TO_ROWS, kinds=["transpose", "reshape"], lines=[line])


def test_rows_become_pixels():
    line = '{"permutation":[0,3,1,2]} -> float32[s0,6,2,4]'
    check_fires(TransposeAfterReshape(), TO_PIXELS, kinds=["reshape", "transpose"], lines=[line])


def test_they_do_not_undo_each_other():
    both = (ReshapeAfterTranspose(), TransposeAfterReshape())
    check_fires(both, TO_ROWS, kinds=["transpose", "reshape"])
    check_fires(both, TO_PIXELS, kinds=["reshape", "transpose"])


def test_other_readers_and_other_shapes_are_left():
    check_refused(ReshapeAfterTranspose(), TO_ROWS + "output r = %r\n", reason="other readers")
    check_refused(TransposeAfterReshape(), TO_PIXELS + "output t = %t\n", reason="other readers")
    split = TO_ROWS.replace("[-1,6,8]", "[-1,2,24]").replace("[s0,6,8]", "[s0,2,24]")
    split = split.replace("[s0,8,6]", "[s0,24,2]")
    check_refused(ReshapeAfterTranspose(), split, reason="")
    joined = TO_PIXELS.replace("[-1,6,2,4]", "[-1,3,4,4]").replace("[s0,6,2,4]", "[s0,3,4,4]")
    check_refused(TransposeAfterReshape(), joined, reason="")


def with_token(first="%e", position="1,5,8"):
    return (
        HEAD + "input %x: float32[s0,4,8]\nconstant @t: float32[1,1,8]\n"
        f"constant @p: float32[{position}]\n"
        '%e = expand(@t) {"shape":[{"dim":"s0"},1,8]} -> float32[s0,1,8]\n'
        f'%c = concat({first}, %x) {{"axis":1}} -> float32[s0,5,8]\n'
        + pointwise("y", "%c, @p", "add(i0,i1)", "float32[s0,5,8]") + "output y = %y\n"
    )


def test_positions_are_added_before_the_token_is_joined():
    network = check_fires(
        PointwiseIntoConcat(), with_token(), kinds=["expand", "pointwise", "pointwise", "concat"]
    )
    shapes = {t.shape for t in network.constants}
    assert {(1, 1, 8), (1, 4, 8)} <= shapes


def test_a_constant_that_is_the_same_for_all_parts_is_not_cut():
    for position in ("8", "1,1,8", "1"):
        check_fires(PointwiseIntoConcat(), with_token(position=position))


def test_a_concat_of_what_varies_stays():
    source = with_token().replace("concat(%e, %x)", "concat(%f, %x)").replace(
        "%e = expand(@t)", "input %g: float32[1,1,8]\n%f = expand(%g)"
    )
    check_refused(PointwiseIntoConcat(), source, reason="")
    check_refused(PointwiseIntoConcat(), with_token() + "output c = %c\n", reason="other readers")


def test_these_are_for_gpus_alone():
    for fusion in (ReshapeAfterTranspose, TransposeAfterReshape, PointwiseIntoConcat):
        by_target = {
            target: next(f for f in all_fusions(target) if isinstance(f, fusion))
            for target in ("cpu", "cuda")
        }
        assert by_target["cuda"].is_enabled
        assert not by_target["cpu"].is_enabled
    check_refused(ReshapeAfterTranspose(is_enabled=False), TO_ROWS, reason="")


TABLE = (
    HEAD + "constant @t: float32[3,6]\nconstant @i: int64[1,4]\n"
    '%e = expand(@i) {"shape":[{"dim":"s0"},4]} -> int64[s0,4]\ninput %x: float32[s0,4]\n'
    '%y = take(@t, %e) {"axis":0} -> float32[s0,4,6]\noutput y = %y\noutput x = %x\n'
)


def test_rows_are_taken_once():
    network = check_fires(ExpandAfterTake(), TABLE, kinds=["take", "expand"])
    assert network.layers[0].output.shape == (1, 4, 6)


def test_new_axes_in_front_are_fine_for_the_first_axis_only():
    wider = TABLE.replace("@i: int64[1,4]", "@i: int64[4]")
    check_fires(ExpandAfterTake(), wider, kinds=["take", "expand"])
    inner = wider.replace("@t: float32[3,6]", "@t: float32[6,3]").replace(
        '"axis":0', '"axis":1'
    ).replace("float32[s0,4,6]", "float32[6,s0,4]")
    check_refused(ExpandAfterTake(), inner, reason="adds axes")


def test_an_inner_axis_with_as_many_axes():
    constants = {"i": np.array([[2, 0, 1, 2]])}
    source = TABLE.replace("@t: float32[3,6]", "@t: float32[6,3]").replace(
        '"axis":0', '"axis":1'
    ).replace("float32[s0,4,6]", "float32[6,s0,4]")
    check_fires(ExpandAfterTake(), source, kinds=["take", "expand"], constants=constants)
