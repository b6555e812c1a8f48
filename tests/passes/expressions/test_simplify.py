"""Simplification of expressions: what becomes what, and that values and dtypes stay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt import expression as ex
from torch2rt.network.dtype import DType
from torch2rt.passes.expressions.dtypes import cast_between, natural_dtype
from torch2rt.passes.expressions.order import accumulator_first
from torch2rt.passes.expressions.simplify import simplify, without_final_cast

FLOATS = ((DType.FLOAT32, False),) * 3
INTS = ((DType.INT64, False),) * 3


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("add(i0,0)", "i0"),
        ("sub(i0,0.0)", "i0"),
        ("mul(1.0,i0)", "i0"),
        ("div(i0,1)", "i0"),
        ("pow(i0,1)", "i0"),
        ("add(2,mul(3,4))", "14"),
        ("mul(i0,add(1.5,0.5))", "mul(i0,2.0)"),
        ("add(add(i0,1.0),2.0)", "add(i0,3.0)"),
        ("mul(mul(i0,0.5),4)", "mul(i0,2.0)"),
        ("sub(i0,1.5)", "add(i0,-1.5)"),
        ("div(i0,4.0)", "mul(i0,0.25)"),
        ("div(1.0,i0)", "reciprocal(i0)"),
        ("div(1,sqrt(i0))", "rsqrt(i0)"),
        ("pow(i0,2)", "square(i0)"),
        ("pow(i0,0.5)", "sqrt(i0)"),
        ("mul(i0,i0)", "square(i0)"),
        ("neg(neg(i0))", "i0"),
        ("abs(neg(neg(abs(i0))))", "abs(i0)"),
        ("relu(relu(i0))", "relu(i0)"),
        ("relu(sigmoid(i0))", "sigmoid(i0)"),
        ("max(i0,0)", "relu(i0)"),
        ("max(0.0,i0)", "relu(i0)"),
        ("min(relu(i0),6)", "clamp(i0,0.0,6.0)"),
        ("relu(clamp(i0,-1,1))", "clamp(i0,0.0,1.0)"),
        ("clamp(relu(i0),-1,6)", "clamp(i0,0.0,6.0)"),
        ("clamp(clamp(i0,0,6),1,8)", "clamp(i0,1.0,6.0)"),
        ("clamp(i0,0,inf)", "relu(i0)"),
        ("clamp(i0,-inf,inf)", "i0"),
        ("min(i0,inf)", "i0"),
        ("lt(2.0,i0)", "gt(i0,2.0)"),
        ("to_float32(i0)", "i0"),
        ("to_float32(to_float32(i0))", "i0"),
        ("where(gt(i0,0),i1,i1)", "i1"),
        ("where(True,i0,i1)", "i0"),
        ("div(1,add(1,exp(neg(i0))))", "sigmoid(i0)"),
        ("mul(i0,sigmoid(i0))", "silu(i0)"),
        ("mul(sigmoid(add(i0,i1)),add(i0,i1))", "silu(add(i0,i1))"),
        ("mul(mul(i0,2.0),sigmoid(i0))", "mul(silu(i0),2.0)"),
        ("mul(i0,sigmoid(mul(i0,2.0)))", "mul(silu(mul(i0,2.0)),0.5)"),
        ("log(add(1,exp(i0)))", "softplus(i0)"),
        ("mul(i0,tanh(softplus(i0)))", "mish(i0)"),
        ("div(clamp(add(i0,3),0,6),6)", "hardsigmoid(i0)"),
        ("clamp(add(div(i0,6),0.5),0,1)", "hardsigmoid(i0)"),
        ("div(mul(i0,clamp(add(i0,3),0,6)),6)", "hardswish(i0)"),
        ("mul(i0,div(min(relu(add(i0,3)),6),6))", "hardswish(i0)"),
        ("mul(mul(i0,0.5),add(1,erf(div(i0,1.4142135623730951))))", "gelu(i0)"),
        ("mul(i0,mul(0.5,add(erf(mul(i0,0.7071067811865476)),1)))", "gelu(i0)"),
        ("mul(mul(0.5,i0),add(1,tanh(mul(0.7978845608028654,add(i0,mul(0.044715,pow(i0,3)))))))",
         "gelu_tanh(i0)"),
        ("mul(mul(i0,0.5),add(tanh(mul(mul(i0,0.7978845608),add(1,mul(mul(0.044715,i0),i0)))),1))",
         "gelu_tanh(i0)"),
        ("where(gt(i0,0),i0,mul(i0,0.01))", "leaky_relu(i0,0.01)"),
        ("max(i0,mul(i0,0.2))", "leaky_relu(i0,0.2)"),
    ],
)
def test_floats(source: str, want: str) -> None:
    assert simplify(ex.parse_expression(source), FLOATS).text == want


@pytest.mark.parametrize(
    "source",
    [
        "mul(i0,0.0)",  # NaN and infinity stay NaN
        "mul(i0,sigmoid(i1))",
        "max(i0,mul(i0,2.0))",
        "clamp(i0,3.0,1.0)",
        "mul(clamp(add(i0,3.0),0.0,5.0),0.5)",
        "add(i0,i1)",
        "sub(1.0,i0)",
        "to_float16(i0)",
        "to_int64(i0)",
    ],
)
def test_floats_left_alone(source: str) -> None:
    assert simplify(ex.parse_expression(source), FLOATS).text == source


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("mul(i0,1)", "i0"),
        ("mul(i0,1.0)", "mul(i0,1.0)"),
        ("add(i0,0.0)", "add(i0,0.0)"),
        ("pow(i0,2)", "pow(i0,2)"),
        ("add(i0,2)", "add(i0,2)"),
        ("max(i0,0)", "max(i0,0)"),
        ("to_float32(i0)", "to_float32(i0)"),
        ("floordiv(7,2)", "3"),
        ("mul(gt(i0,0),1)", "mul(gt(i0,0),1)"),
    ],
)
def test_integers_keep_their_meaning(source: str, want: str) -> None:
    assert simplify(ex.parse_expression(source), INTS).text == want


def test_a_final_cast_is_the_rounding_of_the_result() -> None:
    cast = ex.parse_expression("to_float16(relu(i0))")
    assert without_final_cast(cast, DType.FLOAT16).text == "relu(i0)"
    assert without_final_cast(cast, DType.FLOAT32) == cast
    assert without_final_cast(ex.parse_expression("to_int8(relu(i0))"), DType.INT8).text == (
        "to_int8(relu(i0))"
    )


@pytest.mark.parametrize(
    ("natural", "stored", "want"),
    [
        (DType.FLOAT32, DType.FLOAT32, "i0"),
        (DType.FLOAT32, DType.BFLOAT16, "i0"),
        (DType.FLOAT64, DType.FLOAT32, "to_float32(i0)"),
        (DType.INT64, DType.FLOAT16, "to_float32(i0)"),
        (DType.FLOAT32, DType.INT8, "to_int8(i0)"),
        (DType.FLOAT32, DType.FLOAT8_E4M3, "to_float32(to_float8_e4m3fn(i0))"),
    ],
)
def test_casts_between_layers(natural: DType, stored: DType, want: str) -> None:
    assert cast_between(ex.Input(0), natural, stored).text == want


def test_a_cast_to_16_bits_between_layers_is_left_out() -> None:
    cast = ex.parse_expression("to_bfloat16(i0)")
    inner = cast_between(cast, natural_dtype(cast, FLOATS), DType.BFLOAT16)
    assert simplify(inner, FLOATS).text == "i0"


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("add(i1,add(i0,i2))", "add(add(i0,i2),i1)"),
        ("add(add(i0,i1),i2)", "add(add(i0,i2),i1)"),
        ("relu(add(add(add(i0,i1),i3),i2))", "relu(add(add(add(i0,i2),i1),i3))"),
        ("mul(i1,i0)", "mul(i0,i1)"),
        ("mul(add(i0,i1),i2)", "mul(add(i0,i1),i2)"),
        ("sub(i1,i0)", "sub(i1,i0)"),
        ("add(i1,i3)", "add(i1,i3)"),
    ],
)
def test_the_accumulator_comes_first(source: str, want: str) -> None:
    """i2 is constant."""
    assert accumulator_first(ex.parse_expression(source), {2}).text == want


_UNARY = ["neg", "relu", "sigmoid", "square", "abs", "tanh", "to_float32", "hardswish"]
_BINARY = ["add", "sub", "mul", "max", "min", "div"]
_LEAF = st.one_of(
    st.integers(0, 2).map(ex.Input),
    st.sampled_from([0, 1, 2, 0.0, 1.0, 0.5, 3.0, 6.0, -1.0, 1 / 6]).map(ex.Constant),
)


def _grow(children: st.SearchStrategy[ex.Expression]) -> st.SearchStrategy[ex.Expression]:
    return st.one_of(
        st.builds(ex.apply, st.sampled_from(_UNARY), children),
        st.builds(ex.apply, st.sampled_from(_BINARY), children, children),
        st.builds(lambda a: ex.apply("clamp", a, 0.0, 6.0), children),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(_LEAF, _grow, max_leaves=12), st.sampled_from(["float", "int"]))
def test_any_expression_keeps_its_value_and_dtype(expression: ex.Expression, kind: str) -> None:
    operands = FLOATS if kind == "float" else INTS
    if natural_dtype(expression, operands) is None:
        return
    simple = simplify(expression, operands)
    assert natural_dtype(simple, operands) == natural_dtype(expression, operands)
    assert simplify(simple, operands) == simple
    values = [torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([1.5, -0.25, 2.0]), torch.ones(3) * 7]
    inputs = [x.double() if kind == "float" else x.long() for x in values]
    want = ex.evaluate_torch(expression, inputs).double().expand(3)
    got = ex.evaluate_torch(simple, inputs).double().expand(3)
    usable = want.isfinite() & (want.abs() < 1e6)
    torch.testing.assert_close(got[usable], want[usable], rtol=1e-4, atol=1e-4)
