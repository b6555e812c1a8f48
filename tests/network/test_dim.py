"""Symbolic dims: a unique normal form that agrees with plain arithmetic."""

import operator
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.network import dim as d
from torch2rt.network.dim import Dim, parse_dim, substitute, symbol

VALUES = {"s0": 3, "s1": 7, "s2": 12}

Built = tuple[Dim, Callable[[dict[str, int]], int]]


def _combine(left: Built, right: Built, op: Callable[..., object]) -> Built:
    value = {
        d.floordiv: operator.floordiv, d.maximum: max, d.minimum: min,
    }.get(op, op)
    combined: Dim = op(left[0], right[0])  # type: ignore[assignment]
    return combined, lambda s: value(left[1](s), right[1](s))  # type: ignore[return-value]


leaves: st.SearchStrategy[Built] = st.one_of(
    st.integers(-9, 9).map(lambda n: (n, lambda s: n)),
    st.sampled_from(sorted(VALUES)).map(lambda name: (symbol(name), lambda s: s[name])),
)
dims = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.tuples(
            children, children,
            st.sampled_from([operator.add, operator.sub, operator.mul, d.maximum, d.minimum]),
        ).map(lambda t: _combine(*t)),
        st.tuples(children, st.integers(1, 6).map(lambda n: (n, lambda s: n)),
                  st.sampled_from([d.floordiv, operator.mod])).map(lambda t: _combine(*t)),
    ),
    max_leaves=6,
)


@given(dims)
def test_value_is_that_of_plain_arithmetic(built: Built) -> None:
    assert substitute(built[0], VALUES) == built[1](VALUES)


@given(dims)
def test_text_round_trips(built: Built) -> None:
    assert parse_dim(str(built[0])) == built[0]
    assert hash(parse_dim(str(built[0]))) == hash(built[0])


@given(dims, dims, dims)
def test_equal_polynomials_have_one_form(a: Built, b: Built, c: Built) -> None:
    x, y, z = a[0], b[0], c[0]
    assert x + y == y + x
    assert x * y == y * x
    assert str((x + y) * z) == str(x * z + y * z)
    assert x - x == 0
    assert (x + y) - y == x


@given(dims, dims.filter(lambda b: b[0] != 0))
def test_products_divide_exactly(a: Built, b: Built) -> None:
    if isinstance(b[0], int) or len(b[0].terms) == 1:
        assert d.floordiv(a[0] * b[0], b[0]) == a[0]


@settings(max_examples=300)
@given(st.one_of(st.text(), st.text(alphabet="s01+-*(),floordivmax ", max_size=40)))
def test_hostile_text_is_an_error_or_a_dim(text: str) -> None:
    try:
        dim = parse_dim(text)
    except ValueError:
        return
    assert parse_dim(str(dim)) == dim


@pytest.mark.parametrize(
    "text",
    ["", "1.5", "True", "s0/2", "s0**2", "f(s0,1)", "floordiv(s0)", "floordiv(1,0)", "mod(3,0)",
     "floordiv(s0,0)", "s0.x", "[s0]", "max(a,b,c)", "-" * 5000 + "1", "(" * 500 + "1" + ")" * 500],
)
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a dim"):
        parse_dim(text)


def test_examples() -> None:
    s0, s1 = symbol("s0"), symbol("s1")
    assert str(2 * s0 + 1 - s1) == "2*s0-1*s1+1"
    assert str((s0 + 1) // 2) == "floordiv(s0+1,2)"
    assert (4 * s0 + 2) // 2 == 2 * s0 + 1
    assert (s0 * s1 * 6) // (s0 * 2) == 3 * s1
    assert s0 // s0 == 1
    assert str(7 % s0) == "mod(7,s0)"
    assert str(9 // s0) == "floordiv(9,s0)"
    assert d.symbols_of((s0 + 1) // 2 * s1) == {"s0", "s1"}
    assert d.product((2, s0, 3)) == 6 * s0
    assert d.is_static(1, 2)
    assert not d.is_static(1, s0)


def test_a_missing_symbol_is_named() -> None:
    with pytest.raises(KeyError, match="s1"):
        substitute(symbol("s0") * symbol("s1"), {"s0": 2})
