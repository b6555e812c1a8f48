"""Masks of attention lose what does nothing; an index that moves nothing is a reshape."""

import numpy as np
import pytest
from fusion_testing import check_fires, check_refused

from torch2rt.fusions.index_as_reshape import IndexAsReshape
from torch2rt.fusions.mask_without_true import MaskWithoutTrue

QKV = "input %q: float32[s0,2,8,4]\ninput %k: float32[s0,2,8,4]\n"
HEAD = "symbol s0 in 1..100\n"
TRUE = {"t": np.ones((1, 1, 8, 1), np.bool_)}


def masked(operands, op="bitwise_and", shape="s0,1,1,8"):
    return (
        HEAD + QKV + f"input %p: bool[{shape}]\nconstant @t: bool[1,1,8,1]\n"
        f'%m = pointwise({operands}) {{"expression":{{"expression":"{op}(i0,i1)"}},'
        '"dtype":{"dtype":"bool"}} -> bool[s0,1,8,8]\n'
        '%y = attention(%q, %k, %k, %m) {"scale":0.5,"has_mask":true} -> float32[s0,2,8,4]\n'
        "output y = %y\n"
    )


@pytest.mark.parametrize("op", ["bitwise_and", "logical_and"])
@pytest.mark.parametrize("operands", ["@t, %p", "%p, @t"])
def test_a_constant_that_is_true_leaves_the_mask(operands, op):
    check_fires(
        MaskWithoutTrue(), masked(operands, op), kinds=["attention"],
        lines=["attention(%q, %k, %k, %p)"], constants=TRUE,
    )


def test_all_readers_of_a_mask_leave_it():
    source = masked("@t, %p") + (
        '%z = attention(%k, %q, %q, %m) {"scale":0.5,"has_mask":true} -> float32[s0,2,8,4]\n'
        "output z = %z\n"
    )
    check_fires(MaskWithoutTrue(), source, kinds=["attention", "attention"], constants=TRUE)


def test_a_constant_that_hides_something_stays():
    some = {"t": np.arange(8).reshape(1, 1, 8, 1) > 2}
    check_refused(MaskWithoutTrue(), masked("@t, %p"), reason="t hides keys", constants=some)
    check_refused(MaskWithoutTrue(), masked("@t, %p", "bitwise_or"), reason="", constants=TRUE)


def indexed(rows, columns, result, axes="[0,1]", x="bool[s0,8]"):
    return (
        HEAD + f"input %x: {x}\n"
        '%a = arange() {"start":0,"step":1,"count":{"dim":"s0"},"dtype":{"dtype":"int64"}}'
        " -> int64[s0]\n"
        f"{rows}{columns}"
        f'%y = index(%x, %i, @j) {{"axes":{axes}}} -> {result}\noutput y = %y\n'
    )


ROWS = '%i = reshape(%a) {"shape":[-1,1,1,1]} -> int64[s0,1,1,1]\n'
COLUMNS = "constant @j: int64[1,1,1,8]\n"
COUNT = {"j": np.arange(8).reshape(1, 1, 1, 8)}


def test_an_index_that_counts_is_a_reshape():
    network = check_fires(
        IndexAsReshape(), indexed(ROWS, COLUMNS, "bool[s0,1,1,8]"), kinds=["reshape"],
        constants=COUNT,
    )
    assert "[s0,1,1,8]" in str(network.layers[0].output)


def test_axes_behind_stay():
    check_fires(
        IndexAsReshape(),
        indexed(ROWS, COLUMNS, "float32[s0,1,1,8,5]", x="float32[s0,8,5]"),
        kinds=["reshape"], constants=COUNT,
    )


def test_axes_of_one_element_are_counted_too():
    source = (
        "input %x: float32[1,8]\nconstant @i: int64[1]\nconstant @j: int64[8]\n"
        '%y = index(%x, @i, @j) {"axes":[0,1]} -> float32[8]\noutput y = %y\n'
    )
    constants = {"i": np.zeros(1, np.int64), "j": np.arange(8)}
    check_fires(IndexAsReshape(), source, kinds=["reshape"], constants=constants)


@pytest.mark.parametrize(
    ("j", "name"),
    [
        (np.arange(8)[::-1].reshape(1, 1, 1, 8).copy(), "backwards"),
        (np.zeros((1, 1, 1, 8), np.int64), "one column"),
        (np.arange(4).reshape(1, 1, 1, 4), "a part"),
    ],
)
def test_other_indices_stay(j, name):
    columns = f"constant @j: int64[1,1,1,{j.shape[-1]}]\n"
    source = indexed(ROWS, columns, f"bool[s0,1,1,{j.shape[-1]}]")
    check_refused(IndexAsReshape(), source, reason="", constants={"j": j})


def test_a_diagonal_and_a_transpose_stay():
    diagonal = (
        "input %x: float32[8,8]\nconstant @j: int64[8]\n"
        '%y = index(%x, @j, @j) {"axes":[0,1]} -> float32[8]\noutput y = %y\n'
    )
    check_refused(IndexAsReshape(), diagonal, reason="", constants={"j": np.arange(8)})
    turned = (
        "input %x: float32[4,8]\nconstant @i: int64[1,4]\nconstant @j: int64[8,1]\n"
        '%y = index(%x, @i, @j) {"axes":[0,1]} -> float32[8,4]\noutput y = %y\n'
    )
    constants = {"i": np.arange(4).reshape(1, 4), "j": np.arange(8).reshape(8, 1)}
    check_refused(IndexAsReshape(), turned, reason="", constants=constants)


def test_rows_that_start_late_stay():
    source = indexed(ROWS, COLUMNS, "bool[s0,1,1,8]").replace('"start":0', '"start":-1')
    check_refused(IndexAsReshape(), source, reason="", constants=COUNT)
