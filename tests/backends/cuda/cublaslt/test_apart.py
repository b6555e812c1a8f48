"""Products whose epilogue the library lacks: the product, then a pointwise kernel in place."""

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic, cuda_spec

from torch2rt.backends.cuda.cublaslt.apart import find_apart
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul

TACTIC = "matmul.cublaslt.apart0"
KIND = Matmul(transpose_b=True)


def randn(*shape, dtype=torch.float16):
    return (torch.randn(shape) / 4).to(dtype)


def operands(dtype=torch.float16):
    return [randn(2, 9, 32, dtype=dtype), randn(16, 32, dtype=dtype)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_activations_that_the_library_lacks(dtype, library):
    bias, residual = randn(16, dtype=dtype).float(), randn(2, 9, 16, dtype=dtype)
    scale = randn(2, 9, 1, dtype=dtype)
    for epilogue, extra, constants in (
        ("gelu(add(i0,i1))", [bias], [1, 2]),
        ("relu(i0)", [], [1]),
        ("silu(add(i0,i1))", [bias], [1, 2]),
        ("add(gelu(add(i0,i1)),i2)", [bias, residual], [1, 2]),
        ("add(gelu(add(i0,i2)),i1)", [residual, bias], [1, 3]),
        ("mul(i1,tanh(mul(i0,0.5)))", [scale], [1]),
    ):
        check_cuda_tactic(TACTIC, KIND, [*operands(dtype), *extra], epilogue, constants=constants)


def test_pitched_operands(library):
    bias = randn(16).float()
    check_cuda_tactic(
        TACTIC, KIND, [*operands(), bias], "gelu(add(i0,i1))", constants=[1, 2],
        pitched={"i0": 1, "o0": 1},
    )


@pytest.mark.parametrize(
    ("epilogue", "extra", "reason"),
    [
        (None, 0, "no second step"),
        ("add(i0,i1)", 1, "no second step"),
        ("mul(i0,sigmoid(mul(i0,2.0)))", 0, "in several places"),
    ],
)
def test_what_is_left_to_others(epilogue, extra, reason, library):
    inputs = [*operands(), *[randn(16).float()] * extra]
    constants = [1, 2][: 1 + extra]
    found = find_apart(cuda_spec(KIND, inputs, epilogue, constants))
    assert isinstance(found, Refusal)
    assert reason in found.reason
    assert_refused(TACTIC, KIND, inputs, epilogue, reason=reason, constants=constants)


def test_the_product_takes_as_much_of_the_epilogue_as_it_can(library):
    bias, residual = randn(16).float(), randn(2, 9, 16)
    spec = cuda_spec(
        KIND, [*operands(), residual, bias], "mul(gelu(add(mul(i0,0.5),i2)),i1)", [1, 3]
    )
    apart = find_apart(spec)
    assert not isinstance(apart, Refusal)
    assert apart.head.epilogue.text == "add(mul(i0,0.5),i1)"
    assert apart.head_inputs == (0, 1, 3)
    assert apart.tail.kind.expression.text == "mul(gelu(i0),i1)"
    assert apart.tail_inputs == (2,)
