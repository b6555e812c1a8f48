"""Matrix products by oneDNN against the reference."""

import pytest
import torch
from tactic_testing import check_tactic, make_spec, tactic_named

from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul

FLOATS = [torch.float32, torch.bfloat16]
BOTH = ["matmul.onednn.packed", "matmul.onednn.inner_product"]


def tensors(dtype, *shapes):
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("rows", [(1,), (5,), (2, 7), (2, 3, 4)])
def test_one_weight(name, rows, transpose, dtype):
    w = (24, 40) if transpose else (40, 24)
    inputs = tensors(dtype, (*rows, 40), w, (24,), (*rows, 24))
    kind = Matmul(transpose_b=transpose)
    check_tactic(name, kind, inputs[:2], constants=[1])
    check_tactic(name, kind, inputs[:3], "gelu(add(i0,i1))", constants=[1, 2])
    made = check_tactic(name, kind, inputs, "add(add(i0,i1),i2)", constants=[1, 2])
    assert all(prepared.may_overwrite == (3,) for prepared in made)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("a", "b", "transpose_a", "transpose_b"), [
    ((2, 3, 5, 8), (2, 3, 8, 6), False, False),
    ((2, 3, 5, 8), (2, 3, 6, 8), False, True),
    ((2, 8, 5), (2, 8, 6), True, False),
    ((2, 1, 5, 8), (1, 3, 8, 6), False, False),
    ((5, 8), (3, 8, 6), False, False),
    ((8, 5), (6, 8), True, True),
])
def test_two_activations(a, b, transpose_a, transpose_b, dtype):
    kind = Matmul(transpose_a, transpose_b)
    inputs = tensors(dtype, a, b, (1, 6), (5, 1))
    check_tactic(BOTH[0], kind, inputs[:2])
    check_tactic(BOTH[0], kind, inputs, "add(mul(i0,0.125),add(i1,i2))")


@pytest.mark.parametrize("dtype", FLOATS)
def test_batch_of_constant_weights(dtype):
    inputs = tensors(dtype, (3, 5, 8), (3, 6, 8), (6,))
    check_tactic(BOTH[0], Matmul(transpose_b=True), inputs, "relu(add(i0,i1))", constants=[1, 2])


@pytest.mark.parametrize("name", BOTH)
def test_epilogue_with_the_accumulator_twice(name):
    inputs = tensors(torch.bfloat16, (5, 16), (16, 24), (24,))
    check_tactic(name, Matmul(), inputs, "mul(add(i0,i1),tanh(i0))", constants=[1, 2])


def test_inner_product_wants_one_constant_weight():
    spec = make_spec(Matmul(), tensors(torch.float32, (5, 16), (16, 24)))
    assert isinstance(tactic_named(BOTH[1]).supports(spec), Refusal)
