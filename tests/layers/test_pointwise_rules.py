"""Pointwise rules against eager: values, dtypes by torch's promotion, literals."""

import math
from collections.abc import Callable

import pytest
import torch
from layer_testing import as_module, check_rule, lower_model, run_and_compare
from torch import Tensor

from torch2rt import expression as ex
from torch2rt.layers.pointwise_rules import literal, promote_operands
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor as NetworkTensor
from torch2rt.network.tensor import TensorType

Functions = list[Callable[..., Tensor]]


def all_of(functions: Functions) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *inputs: tuple(function(*inputs) for function in functions)


def signed(*shape: int) -> Tensor:
    """Both signs, zero, and nothing near a step of floor or round."""
    x = torch.randn(*shape) * 2
    x.view(-1)[0] = 0.0
    return x


def check_float32(functions: Functions, *inputs: Tensor) -> None:
    """Without the float64 run of `check_rule`, for models that name a dtype themselves."""
    model = all_of(functions)
    run_and_compare(lower_model(model, *inputs), as_module(model), list(inputs), 1e-6)


UNARY: Functions = [
    torch.abs, torch.neg, torch.sign, torch.floor, torch.ceil, torch.round, torch.trunc,
    torch.exp, torch.exp2, torch.expm1, torch.square, torch.sin, torch.cos, torch.tan,
    torch.atan, torch.sinh, torch.cosh, torch.asinh, torch.erf, torch.relu, torch.sigmoid,
    torch.tanh, torch.negative, torch.absolute, torch.fix, torch.sgn, torch.arctan,
    torch.special.expit, torch.isnan, torch.isinf, torch.isfinite, torch.logical_not,
    torch.positive, torch.nn.functional.silu, torch.nn.functional.mish,
    torch.nn.functional.hardswish, torch.nn.functional.hardsigmoid,
]
POSITIVE: Functions = [
    torch.log, torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.rsqrt, torch.reciprocal,
    lambda x: torch.acosh(x + 1),
]
INSIDE_ONE: Functions = [torch.asin, torch.acos, torch.atanh, torch.arcsin, torch.logit]


def test_unary_ops() -> None:
    check_rule(all_of(UNARY), signed(3, 5), kinds={"pointwise"})
    check_rule(all_of(POSITIVE), torch.rand(3, 5) + 0.1)
    check_rule(all_of(INSIDE_ONE), torch.rand(3, 5) * 0.8 + 0.1)


def test_unary_ops_of_integers_give_what_torch_gives() -> None:
    floats: Functions = [torch.exp, torch.sqrt, torch.sigmoid, torch.sin, torch.reciprocal]
    same: Functions = [torch.abs, torch.neg, torch.square, torch.relu, torch.bitwise_not]
    check_rule(all_of(floats + same), torch.tensor([[1, 2, 30], [4, 5, 6]]), tolerance=1e-6)
    check_rule(all_of([torch.logical_not, torch.bitwise_not]), torch.tensor([True, False, True]))


BINARY: Functions = [
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.fmod,
    torch.remainder, torch.atan2, torch.floor_divide, torch.logaddexp, torch.eq, torch.ne,
    torch.lt, torch.le, torch.gt, torch.ge, torch.logical_and, torch.logical_or,
    torch.logical_xor, torch.max, torch.min, torch.true_divide, torch.multiply, torch.subtract,
    lambda a, b: torch.add(a, b, alpha=2.5),
    lambda a, b: torch.sub(a, b, alpha=0.3),
    lambda a, b: torch.rsub(a, b, alpha=2),
    lambda a, b: torch.div(a, b, rounding_mode="floor"),
    lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    lambda a, b: torch.pow(a.abs() + 0.1, b),
    lambda a, b: torch.clamp(a, b, b + 1),
    lambda a, b: torch.clamp(a, min=b),
    lambda a, b: torch.clamp_max(a, b),
    lambda a, b: torch.lerp(a, b, 0.3),
    lambda a, b: torch.lerp(a, b, b),
    lambda a, b: torch.addcmul(a, a, b, value=0.5),
    lambda a, b: torch.addcdiv(a, a, b),
    lambda a, b: torch.where(a > b, a, b),
    lambda a, b: a.masked_fill(b > 0, -math.inf),
]


def test_binary_ops_broadcast() -> None:
    check_rule(all_of(BINARY), signed(3, 1, 5), torch.randn(4, 5) + 0.01, kinds={"pointwise"})


SCALARS: Functions = [
    lambda x: x + 2, lambda x: x + 0.1, lambda x: 2 - x, lambda x: 0.1 - x, lambda x: x * 3,
    lambda x: x * 0.1, lambda x: x / 3, lambda x: 1.5 / (x + 10), lambda x: x // 2,
    lambda x: x % 3, lambda x: torch.fmod(x, 3), lambda x: x == 1, lambda x: x != 0.5,
    lambda x: x < 0.5, lambda x: x >= 1, lambda x: torch.add(x, 3, alpha=2),
    lambda x: torch.div(x, 3, rounding_mode="floor"),
    lambda x: torch.div(x, 3, rounding_mode="trunc"), lambda x: torch.clamp(x, -1, 1),
    lambda x: torch.clamp(x, min=0), lambda x: torch.clamp(x, max=0.5),
    lambda x: torch.clamp_min(x, 1), lambda x: x**2, lambda x: x**3, lambda x: x**1,
    lambda x: torch.where(x > 0, x, 0), lambda x: torch.where(x > 0, 1.5, x),
    lambda x: torch.where(x > 0, 1, 2), lambda x: torch.where(x > 0, 0.25, 2.0),
    lambda x: x.masked_fill(x > 1, 7), lambda x: x.masked_fill(x > 1, torch.tensor(3)),
    lambda x: x & 3 if not x.is_floating_point() else x,
    lambda x: x | 4 if not x.is_floating_point() else x,
    lambda x: (x > 0) & (x < 2), lambda x: (x > 0) ^ (x < 2), lambda x: ~(x > 0),
]
FLOAT_POWERS: Functions = [
    lambda x: x**0.5, lambda x: x**-0.5, lambda x: x**-1, lambda x: x**2.7, lambda x: 2**x,
    lambda x: x**4,
]


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([[-3, -1, 0], [1, 2, 9]]),
        torch.tensor([[-3, -1, 0], [1, 2, 9]], dtype=torch.int32),
        torch.tensor([[-3.0, -1.5, 0.5], [1.0, 2.25, 9.0]]),
    ],
    ids=["int64", "int32", "float32"],
)
def test_numbers_beside_tensors(x: Tensor) -> None:
    check_rule(all_of(SCALARS), x, tolerance=1e-10 if x.is_floating_point() else 1e-6)


def test_powers() -> None:
    check_rule(all_of(FLOAT_POWERS), torch.rand(3, 4) + 0.2)


def test_integers_beyond_the_floats_stay_exact() -> None:
    x = torch.tensor([2**53 + 1, -(2**62) - 3, 7])
    exact: Functions = [
        lambda x: x + 1, lambda x: x * 1, lambda x: x // 3, lambda x: x % 10, lambda x: -x,
        lambda x: x.clamp(-5, 2**60), lambda x: torch.where(x > 0, x, 5), lambda x: x - 2**53,
        lambda x: x**2, lambda x: torch.div(x, 7, rounding_mode="trunc"), lambda x: x == 2**53,
    ]
    check_rule(all_of(exact), x)


MIXED: Functions = [
    lambda f, i, b: f + i, lambda f, i, b: i * b, lambda f, i, b: i / i.abs().clamp(min=1),
    lambda f, i, b: f > i, lambda f, i, b: i == b, lambda f, i, b: torch.where(b, i, f),
    lambda f, i, b: torch.maximum(f, i), lambda f, i, b: f * b, lambda f, i, b: b + b,
    lambda f, i, b: f.half() + i, lambda f, i, b: i.to(torch.int16) + i.to(torch.uint8),
    lambda f, i, b: i.to(torch.int8) * i.to(torch.uint8), lambda f, i, b: b.float() - 1,
    lambda f, i, b: i.to(torch.int16) * torch.tensor(3), lambda f, i, b: b * 2,
    lambda f, i, b: i * torch.tensor(0.5), lambda f, i, b: b | (i > 0),
    lambda f, i, b: torch.logical_and(f, i), lambda f, i, b: b + 0.5,
    lambda f, i, b: (f.half() == 0.1), lambda f, i, b: (i.to(torch.int32) == 0.5),
]


def test_mixed_dtypes_promote_as_in_torch() -> None:
    f = torch.tensor([[0.5, -1.25, 3.0], [0.0, 2.0, -7.5]])
    i = torch.tensor([[1, -2, 3], [0, 2, 7]])
    check_float32(MIXED, f, i, f > 0)


CONVERSIONS: Functions = [
    lambda x: x.to(torch.int32), lambda x: x.long(), lambda x: x.bool(), lambda x: x.double(),
    lambda x: x.half(), lambda x: x.to(torch.bfloat16), lambda x: x.to(x.dtype),
    lambda x: x.type_as(torch.zeros(1, dtype=torch.int64)), lambda x: x.to("cpu"),
    lambda x: x.clone(), lambda x: x.contiguous(), lambda x: x.detach() * 1,
    lambda x: torch.nn.functional.dropout(x, 0.5, training=False) * 1,
    lambda x: torch.nn.functional.alpha_dropout(x, 0.5, training=False) * 1,
    lambda x: torch.nn.functional.dropout2d(x[None, None], 0.5, training=False) * 1,
    lambda x: torch.nan_to_num(x), lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0),
]


def test_conversions_and_identities() -> None:
    check_float32(CONVERSIONS, torch.randn(3, 4) * 3)


def test_conversions_of_operands_are_spelled_out() -> None:
    f, i = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64)
    (layer,) = lower_model(lambda f, i: f + i, f, i).network.layers
    assert layer.kind.expression.text == "add(i0,to_float32(i1))"  # type: ignore[attr-defined]


def test_odd_values_pass_through() -> None:
    odd = torch.tensor([[math.nan, math.inf, -math.inf], [0.0, -0.0, 1.0]])
    functions: Functions = [
        torch.isnan, torch.isinf, torch.isfinite, torch.relu, torch.sign, torch.abs,
        lambda x: x.clamp(-1, 1), lambda x: x.clamp(min=0), lambda x: torch.maximum(x, x * 0),
        torch.nn.functional.softplus, torch.nn.functional.leaky_relu,
        torch.nn.functional.hardtanh, torch.nn.functional.elu, torch.nn.functional.relu6,
        lambda x: torch.nan_to_num(x, 0.0, 5.0, -5.0),
        lambda x: torch.nn.functional.threshold(x, 0.5, 2.0),
        lambda x: torch.logaddexp(x, x),
    ]
    check_rule(all_of(functions), odd)


def test_sizes_as_numbers() -> None:
    functions: Functions = [
        lambda x: x * x.shape[0], lambda x: x / x.shape[0], lambda x: x + x.size(0) * 2,
    ]
    check_rule(all_of(functions), torch.randn(3, 4))


def test_one_hot_and_outer() -> None:
    check_rule(
        lambda x: torch.nn.functional.one_hot(x, 5), torch.tensor([[0, 4], [2, 2], [1, 0]])
    )
    check_rule(lambda x: torch.outer(x, x[:1] + 2), torch.randn(3), dynamic=False)


def test_one_tensor_read_twice_is_one_input() -> None:
    network = check_rule(lambda x: x * x, torch.randn(2, 3))
    (layer,) = network.layers
    assert len(layer.inputs) == 1
    assert layer.kind.expression == ex.parse_expression("mul(i0,i0)")  # type: ignore[attr-defined]


def test_random_dropout_falls_back_and_says_why() -> None:
    lowered = lower_model(lambda x: torch.nn.functional.dropout(x, 0.5, True), torch.ones(2, 3))
    assert [node.reason for node in lowered.fallbacks] == ["dropout in training mode"]


def test_assertions_leave_no_layer() -> None:
    def model(x: Tensor) -> Tensor:
        torch._assert(x.shape[0] < 100, "long")
        return x.to(torch.float64) + 1

    assert not lower_model(model, torch.ones(2, 3)).fallbacks


@pytest.mark.parametrize("dtype", [DType.BOOL, DType.INT32, DType.INT64, DType.FLOAT32])
@pytest.mark.parametrize("value", [True, 3, 2.5])
def test_promotion_of_numbers_is_torch_s(dtype: DType, value: float) -> None:
    tensor = NetworkTensor("x", TensorType((2,), dtype))
    want = torch.result_type(torch.zeros(2, dtype=getattr(torch, dtype.value)), value)
    assert promote_operands(tensor, value).value == str(want).removeprefix("torch.")


def test_literal_has_the_type_of_the_dtype() -> None:
    assert repr(literal(1, DType.FLOAT32)) == "1.0"
    assert repr(literal(2.0, DType.INT64)) == "2"
    assert repr(literal(1, DType.BOOL)) == "True"
