import pytest
import torch
import torch.nn.functional as F
from needs import needs_onednn

from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    Binary,
    Eltwise,
    FpMath,
    Sum,
    inner_product,
    matmul,
    post_op_arg,
    scale_arg,
)

pytestmark = needs_onednn


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((5, 7), (7, 3)),
        ((128, 64), (64, 48)),
        ((2, 3, 9, 16), (2, 3, 16, 9)),
        ((2, 9, 16), (1, 16, 9)),
    ],
)
def test_matmul_equals_torch(execute, assert_near, any_desc, plain_desc, dtype, left, right):
    a, b = torch.randn(left).to(dtype), torch.randn(right).to(dtype)
    expected = a.double() @ b.double()
    result = expected.to(dtype)
    desc = matmul(plain_desc(a), any_desc(b), None, plain_desc(result))
    assert_near(execute(desc, {Arg.src: a, Arg.weights: b}), expected)


def test_linear_with_bias_gelu_and_residual(execute, assert_near, any_desc, plain_desc):
    x, w, b = torch.randn(9, 32), torch.randn(24, 32), torch.randn(1, 24)
    residual = torch.randn(9, 24)
    expected = F.gelu(x.double() @ w.double().T + b) + residual
    attributes = Attributes(
        [Eltwise(Algorithm.gelu_erf), Binary(Algorithm.add, plain_desc(residual))]
    )
    desc = matmul(
        plain_desc(x), any_desc(w.T), plain_desc(b), plain_desc(residual), attributes=attributes
    )
    tensors = {Arg.src: x, Arg.weights: w.T, Arg.bias: b, post_op_arg(1): residual}
    assert_near(execute(desc, tensors), expected)


def test_transposed_operands_are_read_in_place(execute, assert_near, plain_desc):
    """A strided descriptor stands for a transpose: no copy is made."""
    a, b = torch.randn(2, 8, 5), torch.randn(2, 6, 8)
    expected = a.mT.double() @ b.mT.double()
    desc = matmul(
        plain_desc(a).permute((0, 2, 1)),
        plain_desc(b).permute((0, 2, 1)),
        None,
        plain_desc(expected.float()),
    )
    assert desc.src.strides == (40, 1, 5)
    assert_near(execute(desc, {Arg.src: a.mT, Arg.weights: b.mT}), expected)


def test_every_matmul_implementation_agrees(execute, assert_near, plain_desc):
    a, b = torch.randn(16, 32), torch.randn(32, 16)
    desc = matmul(plain_desc(a), plain_desc(b), None, plain_desc(a @ b))
    names = [choice.implementation for choice in desc.implementations()]
    assert len(names) >= 2
    for choice in desc.implementations():
        assert_near(execute(choice, {Arg.src: a, Arg.weights: b}), a.double() @ b.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inner_product_equals_torch(execute, assert_near, any_desc, plain_desc, dtype):
    x, w = torch.randn(3, 8, 4, 4).to(dtype), torch.randn(10, 8, 4, 4).to(dtype)
    b = torch.randn(10)
    expected = F.linear(x.flatten(1).double(), w.flatten(1).double(), b.double()).relu()
    desc = inner_product(
        any_desc(x),
        any_desc(w),
        plain_desc(b),
        any_desc(expected.to(dtype)),
        attributes=Attributes([Eltwise(Algorithm.relu)]),
    )
    assert_near(execute(desc, {Arg.src: x, Arg.weights: w, Arg.bias: b}), expected)


def test_inner_product_sum_keeps_dst(execute, assert_near, any_desc):
    x, w, held = torch.randn(4, 16), torch.randn(8, 16), torch.randn(4, 8)
    desc = inner_product(
        any_desc(x), any_desc(w), None, any_desc(held), attributes=Attributes([Sum(2.0)])
    )
    expected = F.linear(x.double(), w.double()) + 2 * held.double()
    assert_near(execute(desc, {Arg.src: x, Arg.weights: w}, initial_dst=held), expected)


def test_int8_matmul_with_scales(execute, any_desc, plain_desc):
    a = torch.randint(-127, 127, (6, 32), dtype=torch.int8)
    b = torch.randint(-127, 127, (32, 16), dtype=torch.int8)
    scale_a, scale_b = torch.tensor([0.03]), torch.rand(16) / 40
    expected = ((a.double() * 0.03) @ (b.double() * scale_b)).float()
    desc = matmul(
        plain_desc(a),
        any_desc(b),
        None,
        plain_desc(expected),
        attributes=Attributes(scales={Arg.src: 0, Arg.weights: 1 << 1}),
    )
    actual = execute(
        desc,
        {Arg.src: a, Arg.weights: b},
        others={scale_arg(Arg.src): scale_a, scale_arg(Arg.weights): scale_b},
    )
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_fpmath_mode_may_lower_f32_to_bf16(execute, any_desc, plain_desc):
    """The mode is a permission: the result is within bf16's rounding, and need not be worse."""
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    desc = matmul(
        plain_desc(a), any_desc(b), None, plain_desc(a), attributes=Attributes(fpmath=FpMath.bf16)
    )
    error = execute(desc, {Arg.src: a, Arg.weights: b}).double() - a.double() @ b.double()
    assert error.norm() / (a.double() @ b.double()).norm() < 2.0**-7
