"""What attention layers absorb: transposes and repeats of heads, factors, masks."""

import numpy as np
import pytest
from fusion_testing import check_fires, check_refused, pointwise

from torch2rt.fusions.remove_attention_mask import RemoveAttentionMask
from torch2rt.fusions.repeat_into_attention import RepeatIntoAttention
from torch2rt.fusions.scale_into_attention import ScaleIntoAttention
from torch2rt.fusions.transpose_into_attention import TransposeIntoAttention
from torch2rt.network.dtype import Array

QKV = (
    "input %q: float32[2,5,3,4]\ninput %k: float32[2,7,3,4]\ninput %v: float32[2,7,3,6]\n"
)
SWAP = '{"permutation":[0,2,1,3]}'
HEADS = (
    f"%r = transpose(%q) {SWAP} -> float32[2,3,5,4]\n"
    f"%s = transpose(%k) {SWAP} -> float32[2,3,7,4]\n"
    f"%t = transpose(%v) {SWAP} -> float32[2,3,7,6]\n"
)
ATTENTION = '%a = attention(%r, %s, %t) {"scale":0.5} -> float32[2,3,5,6]\n'
BEHIND = f"%y = transpose(%a) {SWAP} -> float32[2,5,3,6]\noutput y = %y\n"
ALL_FLAGS = (
    'attention(%q, %k, %v) {"scale":0.5,"query_heads_last":true,"key_heads_last":true,'
    '"value_heads_last":true,"output_heads_last":true} -> float32[2,5,3,6]'
)


def test_all_four_transposes_go() -> None:
    check_fires(
        TransposeIntoAttention(), QKV + HEADS + ATTENTION + BEHIND, kinds=["attention"],
        lines=[ALL_FLAGS],
    )


def test_heads_last_already_are_exchanged_back() -> None:
    source = (
        "input %q: float32[2,3,5,4]\ninput %k: float32[2,3,7,4]\n"
        f"%r = transpose(%q) {SWAP} -> float32[2,5,3,4]\n"
        '%a = attention(%r, %k, %k) {"scale":0.5,"query_heads_last":true,'
        '"output_heads_last":true} -> float32[2,5,3,4]\n'
        f"%y = transpose(%a) {SWAP} -> float32[2,3,5,4]\noutput y = %y\n"
    )
    line = 'attention(%q, %k, %k) {"scale":0.5} -> float32[2,3,5,4]'
    check_fires(TransposeIntoAttention(), source, kinds=["attention"], lines=[line])


def test_transposes_with_other_readers_stay_beside() -> None:
    source = QKV + HEADS + ATTENTION + "output y = %a\noutput r = %r\n"
    check_fires(TransposeIntoAttention(), source, kinds=["transpose", "attention"])


def test_one_tensor_as_key_and_value() -> None:
    source = (
        QKV + HEADS + '%a = attention(%r, %s, %s) {"scale":0.5} -> float32[2,3,5,4]\n'
        "output y = %a\n"
    )
    check_fires(TransposeIntoAttention(), source, kinds=["transpose", "attention"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (BEHIND + "output z = %a\n", "other readers"),
        (BEHIND.replace(SWAP, '{"permutation":[0,2,3,1]}').replace("5,3,6", "5,6,3"), ""),
        (BEHIND.replace(SWAP, '{"permutation":[1,0,2,3]}').replace("2,5,3,6", "3,2,5,6"), ""),
    ],
)
def test_transposes_behind_that_stay(body: str, reason: str) -> None:
    source = (
        "input %r: float32[2,3,5,4]\ninput %s: float32[2,3,7,4]\ninput %t: float32[2,3,7,6]\n"
        + ATTENTION + body
    )
    check_refused(TransposeIntoAttention(), source, reason=reason)


def test_an_epilogue_between_keeps_the_transpose() -> None:
    source = (
        "input %r: float32[2,3,5,4]\ninput %s: float32[2,3,7,4]\ninput %t: float32[2,3,7,6]\n"
        + ATTENTION.replace("->", "epilogue relu(i0) ->") + BEHIND
    )
    check_refused(TransposeIntoAttention(), source, reason="epilogue")


def masked(type: str, more: str = "") -> str:
    extra = f", {more}" if more else ""
    epilogue = " epilogue add(i0,i1)" if more else ""
    return (
        "input %q: float32[2,3,4]\ninput %k: float32[2,5,4]\ninput %v: float32[2,5,6]\n"
        f"input %r: float32[2,3,6]\nconstant @m: {type}\n"
        f'%y = attention(%q, %k, %v, @m{extra}) {{"scale":0.5,"has_mask":true}}{epilogue}'
        " -> float32[2,3,6]\noutput y = %y\n"
    )


@pytest.mark.parametrize(
    ("type", "mask"),
    [
        ("bool[1,3,5]", np.ones((1, 3, 5), bool)),
        ("bool[3,1]", np.ones((3, 1), bool)),
        ("float32[3,5]", -np.zeros((3, 5), np.float32)),
    ],
)
@pytest.mark.parametrize("more", ["", "%r"])
def test_masks_that_hide_nothing(type: str, mask: Array, more: str) -> None:
    network = check_fires(
        RemoveAttentionMask(), masked(type, more), constants={"m": mask}, kinds=["attention"],
        lines=['{"scale":0.5}'],
    )
    assert len(network.layers[0].inputs) == 3 + bool(more)


@pytest.mark.parametrize(
    ("type", "mask"),
    [
        ("bool[3,5]", np.arange(15).reshape(3, 5) != 7),
        ("float32[5]", np.array([0, 0, 0, 0, 1e-3], np.float32)),
        ("float32[1,5]", np.array([[0, 0, -np.inf, 0, 0]], np.float32)),
    ],
)
def test_masks_that_do_something(type: str, mask: Array) -> None:
    check_refused(RemoveAttentionMask(), masked(type), constants={"m": mask}, reason="hides keys")


def test_masks_given_at_run_time() -> None:
    source = masked("bool[3,5]").replace("constant @m", "input %m").replace("@m", "%m")
    check_refused(RemoveAttentionMask(), source, reason="")


ROWS = "input %q: float32[2,5,4]\ninput %k: float32[2,7,4]\ninput %v: float32[2,7,6]\n"


def attended(q: str = "%q", k: str = "%k") -> str:
    return f'%y = attention({q}, {k}, %v) {{"scale":0.5}} -> float32[2,5,6]\noutput y = %y\n'


@pytest.mark.parametrize(("index", "shape"), [(0, "2,5,4"), (1, "2,7,4")])
def test_a_factor_of_query_or_key_is_one_of_the_scores(index: int, shape: str) -> None:
    names = ["%q", "%k"]
    source = ROWS + pointwise("s", names[index], "mul(i0,0.25)", f"float32[{shape}]")
    names[index] = "%s"
    check_fires(
        ScaleIntoAttention(), source + attended(*names), kinds=["attention"],
        lines=['%y = attention(%q, %k, %v) {"scale":0.125}'],
    )


def test_both_factors_and_a_constant_of_one_element() -> None:
    source = ROWS + "constant @c: float32[1,1]\n" + pointwise(
        "s", "%q, @c", "mul(i0,i1)", "float32[2,5,4]"
    ) + pointwise("t", "%k", "mul(i0,2.0)", "float32[2,7,4]") + attended("%s", "%t")
    check_fires(
        ScaleIntoAttention(), source, kinds=["attention"],
        constants={"c": np.full((1, 1), 0.25, np.float32)},
        lines=['%y = attention(%q, %k, %v) {"scale":0.25}'],
    )


def test_what_others_read_scaled_stays_beside() -> None:
    source = ROWS + pointwise("s", "%q", "mul(i0,0.25)", "float32[2,5,4]") + attended("%s")
    check_fires(ScaleIntoAttention(), source + "output s = %s\n", kinds=["pointwise", "attention"])


@pytest.mark.parametrize(("inputs", "expression", "reason"), [
    ("%q, @c", "mul(i0,i1)", "not scaled by one finite number"),
    ("%q", "add(mul(i0,0.25),1.0)", "not scaled by one finite number"),
    ("%q", "mul(i0,inf)", "not scaled by one finite number"),
    ("%q", "relu(i0)", ""),
    ("%p, @u", "mul(i0,i1)", "it changes float32[5,4] to float32[1,5,4]"),
    ("%h", "mul(i0,0.25)", "it changes float16[2,5,4] to float32[2,5,4]"),
])
def test_other_changes_stay(inputs: str, expression: str, reason: str) -> None:
    source = (
        ROWS + "input %p: float32[5,4]\ninput %h: float16[2,5,4]\nconstant @c: float32[4]\n"
        "constant @u: float32[1,1,1]\n"
        + pointwise("s", inputs, expression, f"float32[{1 if 'p' in inputs else 2},5,4]")
        + attended("%s")
    )
    check_refused(ScaleIntoAttention(), source, reason=reason)


def test_values_are_not_scaled_by_scores() -> None:
    source = ROWS + pointwise("s", "%v", "mul(i0,0.25)", "float32[2,7,6]") + attended().replace(
        "%v)", "%s)"
    )
    check_refused(ScaleIntoAttention(), source, reason="")


def repeated(name: str, shape: str, heads: int, times: int, rest: str) -> str:
    """Lines that repeat each of the heads of %name, [shape, heads, 1, rest]."""
    return (
        f'%{name}e = expand(%{name}) {{"shape":[{shape}{heads},{times},{rest}]}} -> '
        f"float32[{shape}{heads},{times},{rest}]\n"
        f'%{name}r = reshape(%{name}e) {{"shape":[{shape}{heads * times},{rest}]}} -> '
        f"float32[{shape}{heads * times},{rest}]\n"
    )


def shared(shape: str = "2,", key_times: int = 3, value_times: int = 3) -> str:
    """Attention of six heads of queries over two or more of keys and values, all repeated."""
    keys, values = 6 // key_times, 6 // value_times
    return (
        f"input %q: float32[{shape}6,5,4]\ninput %k: float32[{shape}{keys},1,7,4]\n"
        f"input %v: float32[{shape}{values},1,7,8]\n"
        + repeated("k", shape, keys, key_times, "7,4")
        + repeated("v", shape, values, value_times, "7,8")
        + f'%y = attention(%q, %kr, %vr) {{"scale":0.5}} -> float32[{shape}6,5,8]\noutput y = %y\n'
    )


@pytest.mark.parametrize("times", [2, 3, 6])
@pytest.mark.parametrize("shape", ["2,", "3,2,", ""])
def test_repeated_heads_are_shared(shape: str, times: int) -> None:
    check_fires(
        RepeatIntoAttention(), shared(shape, times, times),
        kinds=["reshape", "reshape", "attention"], lines=['"is_grouped":true'],
    )


def test_repeated_heads_that_others_read_stay_beside() -> None:
    network = check_fires(
        RepeatIntoAttention(), shared() + "output k = %kr\n", lines=['"is_grouped":true']
    )
    kinds = [layer.kind.name for layer in network.layers]
    assert kinds.count("expand") == 1


def test_heads_repeated_differently_stay() -> None:
    check_refused(
        RepeatIntoAttention(), shared(key_times=2, value_times=3),
        reason="key and value are repeated 2 and 3 times",
    )


def test_a_value_that_is_not_repeated_stays() -> None:
    source = shared().replace("attention(%q, %kr, %vr)", "attention(%q, %kr, %w)").replace(
        "input %v:", "input %w: float32[2,6,7,8]\ninput %v:"
    ) + "output v = %vr\n"
    check_refused(
        RepeatIntoAttention(), source, reason="only one of key and value is repeated"
    )


def test_a_query_of_one_head_stays() -> None:
    source = shared().replace("%q: float32[2,6,5,4]", "%q: float32[2,1,5,4]")
    check_refused(RepeatIntoAttention(), source, reason="float32[2,1,5,4] has other heads than")


@pytest.mark.parametrize("key", ["2,2,1,1,4", "1,2,1,7,4"])
def test_other_expansions_stay(key: str) -> None:
    source = shared().replace("%k: float32[2,2,1,7,4]", f"%k: float32[{key}]").replace(
        "attention(%q, %kr, %vr)", "attention(%q, %kr, %w)"
    ).replace("input %v:", "input %w: float32[2,6,7,8]\ninput %v:") + "output v = %vr\n"
    check_refused(RepeatIntoAttention(), source, reason="")
