"""Expressions: the op table, text, substitution, and both evaluators."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt import expression as ex
from torch2rt.network.dtype import DType

# Ops whose arguments must stay inside the domain (or are whole numbers).
_DOMAIN: dict[str, tuple[float, float]] = {
    "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atanh": (-0.9, 0.9), "acosh": (1.1, 5),
    "log": (0.1, 5), "log2": (0.1, 5), "log10": (0.1, 5), "log1p": (-0.5, 5), "sqrt": (0.1, 5),
    "rsqrt": (0.1, 5), "pow": (0.1, 3), "reciprocal": (0.1, 5),
}
_WHOLE = {"bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"}


def operands(op: str, generator: np.random.Generator) -> list[Any]:
    low, high = _DOMAIN.get(op, (-4.0, 4.0))
    values = [generator.uniform(low, high, 64) for _ in range(ex.OPS[op].arity)]
    if op in _WHOLE:
        return [value.astype(np.int64) for value in values]
    if op in ("leaky_relu", "elu"):
        values[1] = np.float64(0.3)
    if op == "clamp":
        values[1:] = [np.full(64, -1.0), np.full(64, 1.5)]
    return values


@pytest.mark.parametrize("op", sorted(ex.OPS))
def test_numpy_computes_what_torch_computes(op: str) -> None:
    if ex.OPS[op].numpy_function is None:
        pytest.skip("numpy has none")
    values = operands(op, np.random.default_rng(0))
    expression = ex.apply(op, *(ex.Input(index) for index in range(len(values))))
    if op in ("leaky_relu", "elu"):
        expression = ex.apply(op, ex.Input(0), float(values.pop()))
    if op in ("where", "to_uint8"):
        values[0] = np.abs(values[0]) // 2
    got = np.asarray(ex.evaluate_numpy(expression, values))
    want = ex.evaluate_torch(expression, [torch.from_numpy(value) for value in values])
    assert str(got.dtype) == str(want.dtype).removeprefix("torch.")
    tolerance = 1e-8 if op in ("softplus", "mish") else 1e-12  # torch is linear above 20
    np.testing.assert_allclose(got, want.numpy(), rtol=tolerance, atol=tolerance)


leaves = st.one_of(
    st.integers(0, 4).map(ex.Input),
    st.booleans().map(ex.Constant),
    st.integers(-(10**9), 10**9).map(ex.Constant),
    st.floats().map(ex.Constant),
)


def _applied(children: st.SearchStrategy[ex.Expression]) -> st.SearchStrategy[ex.Expression]:
    return st.sampled_from(sorted(ex.OPS)).flatmap(
        lambda op: st.tuples(*[children] * ex.OPS[op].arity).map(lambda a: ex.Apply(op, a))
    )


expressions = st.recursive(leaves, _applied, max_leaves=12)


@given(expressions)
def test_text_round_trips(expression: ex.Expression) -> None:
    assert ex.parse_expression(expression.text) == expression


@given(expressions, expressions)
def test_equality_is_that_of_the_text(left: ex.Expression, right: ex.Expression) -> None:
    assert (left == right) == (left.text == right.text)
    if left == right:
        assert hash(left) == hash(right)


@given(expressions, st.integers(0, 3), st.integers(0, 3))
def test_shifted_inputs_shift_back(expression: ex.Expression, first: int, by: int) -> None:
    shifted = ex.shift_inputs(expression, first, by)
    back = ex.substitute_inputs(
        shifted, {index + by: ex.Input(index) for index in range(first, ex.arity(expression))}
    )
    assert back == expression
    assert ex.size(shifted) == ex.size(expression)


@settings(max_examples=300)
@given(st.one_of(st.text(), st.text(alphabet="i01.-+e(),addrelunif", max_size=40)))
def test_hostile_text_is_an_error_or_an_expression(text: str) -> None:
    try:
        expression = ex.parse_expression(text)
    except ValueError:
        return
    assert ex.parse_expression(expression.text) == expression


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends too early"),
        ("frob(i0)", "unknown pointwise op 'frob'"),
        ("add(i0)", "add takes 2 arguments"),
        ("add(i0,i1", "is expected"),
        ("add(i0;i1)", "not an expression at"),
        ("relu(i0) i1", "goes on after its end"),
        ("1.2.3", "'1.2.3'"),
        ("neg(" * 300 + "i0" + ")" * 300, "nests too deeply"),
    ],
)
def test_bad_text_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ex.parse_expression(text)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 1e-320, True, -3])
def test_odd_literals_round_trip(value: float) -> None:
    text = ex.Constant(value).text
    parsed = ex.parse_expression(text)
    assert parsed == ex.Constant(value)
    assert parsed.text == text


def test_numbers_of_different_types_are_different() -> None:
    assert len({ex.Constant(1), ex.Constant(1.0), ex.Constant(True)}) == 3
    assert ex.parse_expression("add(i0,1)") != ex.parse_expression("add(i0,1.0)")


def test_literals_take_the_dtype_torch_would_give_them() -> None:
    x = torch.tensor([1.0], dtype=torch.float64)
    assert ex.evaluate_torch(ex.parse_expression("mul(i0,0.1)"), [x]).item() == 0.1
    n = torch.tensor([2**53 + 1])
    assert ex.evaluate_torch(ex.parse_expression("sub(i0,1)"), [n]).item() == 2**53
    assert ex.evaluate_torch(ex.parse_expression("truncdiv(7,i0)"), [n - n - 2]).item() == -3
    assert ex.evaluate_torch(ex.parse_expression("add(i0,0.5)"), [n]).dtype == torch.float32


def test_casts() -> None:
    assert ex.cast(DType.INT32, ex.Input(0)).text == "to_int32(i0)"
    x = torch.tensor([1.7, -1.7])
    got = ex.evaluate_torch(ex.cast(DType.BFLOAT16, ex.Input(0)), [x])
    assert got.dtype == torch.bfloat16
    assert not ex.has_numpy(ex.cast(DType.BFLOAT16, ex.Input(0)))
    assert not ex.has_numpy(ex.parse_expression("add(erf(i0),1.0)"))
    with pytest.raises(ValueError, match="numpy has no erf"):
        ex.evaluate_numpy(ex.parse_expression("erf(i0)"), [x.numpy()])


def test_arity_and_walk() -> None:
    expression = ex.parse_expression("relu(add(mul(i0,0.5),i3))")
    assert ex.arity(expression) == 4
    assert ex.arity(ex.Constant(1)) == 0
    assert ex.size(expression) == 6
    assert next(node.text for node in ex.walk(expression)) == "i0"
