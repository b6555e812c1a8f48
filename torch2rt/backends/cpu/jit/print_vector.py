"""Expressions as vector instructions of a compiled function, values in f32 registers.

exp, erf and tanh are the usual polynomials (Cephes; Abramowitz and Stegun 7.1.26), within a few
units in the last place of f32, 2e-7 for erf. NaN stays NaN, but `max` and `min` may drop it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch2rt import expression as ex
from torch2rt.backends.cpu.jit.function import Function

_MATH = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTRINSICS = (("fma", 3), ("sqrt", 1), ("fabs", 1), ("rint", 1), ("copysign", 2))
# e^x is a number of f32 between these.
_EXP_LOW, _EXP_HIGH = -87.0, 88.0
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
_EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
    5.0000001201e-1,
)
# erf(x) / x over x^2, for |x| <= 1; 1 - erf(x) = t P(t) e^(-x^2) with t = 1 / (1 + p x) beyond.
_ERF_SMALL = (
    7.853861353153693e-5, -8.010193625184903e-4, 5.188327685732524e-3, -2.685381193529856e-2,
    1.128358514861418e-1, -3.761262582423300e-1, 1.128379165726710,
)
_ERF_P = 0.3275911
_ERF_LARGE = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
# (tanh(x) / x - 1) / x^2 over x^2, for |x| < 0.625.
_TANH_SMALL = (
    -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1,
)


def missing_op(expression: ex.Expression) -> str | None:
    """The first op of an expression that has no vector code here, or None."""
    for node in ex.walk(expression):
        if isinstance(node, ex.Apply) and node.op not in _MATH and node.op not in _PRINTERS:
            return node.op
    return None


def vector_declarations(lanes: int) -> str:
    """The intrinsics that printed expressions call, for vectors of so many numbers."""
    kind = f"<{lanes} x float>"
    return "".join(
        f"declare {kind} @llvm.{name}.v{lanes}f32({', '.join([kind] * count)})\n"
        for name, count in _INTRINSICS
    )


def print_vector(f: Function, root: ex.Expression, inputs: Mapping[int, str]) -> str:
    """Add the instructions of an expression; the name of its value. Common parts once."""
    known: dict[ex.Expression, str] = {}

    def value(node: ex.Expression) -> str:
        if isinstance(node, ex.Input):
            return inputs[node.index]
        if isinstance(node, ex.Constant):
            return f.constant(float(node.value))
        if node not in known:
            arguments = [value(argument) for argument in node.arguments]
            if node.op in _MATH:
                known[node] = f.math(_MATH[node.op], arguments[0], arguments[1])
            else:
                known[node] = _PRINTERS[node.op](f, *arguments)
        return known[node]

    return value(root)


def _maximum(f: Function, left: str, right: str) -> str:
    return f.select("ogt", left, right, left, right)


def _minimum(f: Function, left: str, right: str) -> str:
    return f.select("olt", left, right, left, right)


def _hardsigmoid(f: Function, x: str) -> str:
    shifted = f.math("fadd", x, f.constant(3.0))
    clipped = _minimum(f, _maximum(f, shifted, f.constant(0.0)), f.constant(6.0))
    return f.math("fmul", clipped, f.constant(1 / 6))


def _polynomial(f: Function, x: str, coefficients: Sequence[float]) -> str:
    """The first coefficient is that of the highest power."""
    value = f.constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = f.intrinsic("fma", value, x, f.constant(coefficient))
    return value


def _exp(f: Function, x: str) -> str:
    """e^x for x in [-87, 88], the values at the ends outside."""
    x = _minimum(f, f.constant(_EXP_HIGH), _maximum(f, f.constant(_EXP_LOW), x))
    n = f.intrinsic("rint", f.math("fmul", x, f.constant(_LOG2E)))
    rest = f.intrinsic("fma", n, f.constant(-_LN2_HIGH), x)
    rest = f.intrinsic("fma", n, f.constant(-_LN2_LOW), rest)
    square = f.math("fmul", rest, rest)
    value = f.intrinsic("fma", _polynomial(f, rest, _EXP), square, rest)
    value = f.math("fadd", value, f.constant(1.0))
    wide = f"<{f.lanes} x i32>"
    power = f.value(f"fptosi {f.vector} {n} to {wide}")
    power = f.value(f"add {wide} {power}, splat (i32 127)")
    power = f.value(f"shl {wide} {power}, splat (i32 23)")
    return f.math("fmul", value, f.value(f"bitcast {wide} {power} to {f.vector}"))


def _sigmoid(f: Function, x: str) -> str:
    beside = f.math("fadd", f.constant(1.0), _exp(f, f.math("fsub", f.constant(-0.0), x)))
    return f.math("fdiv", f.constant(1.0), beside)


def _tanh(f: Function, x: str) -> str:
    size = f.intrinsic("fabs", x)
    square = f.math("fmul", x, x)
    small = f.math("fmul", _polynomial(f, square, _TANH_SMALL), square)
    small = f.intrinsic("fma", small, x, x)
    power = _exp(f, f.math("fmul", size, f.constant(-2.0)))
    large = f.math(
        "fdiv", f.math("fsub", f.constant(1.0), power), f.math("fadd", f.constant(1.0), power)
    )
    large = f.intrinsic("copysign", large, x)
    return f.select("olt", size, f.constant(0.625), small, large)


def _erf(f: Function, x: str) -> str:
    size = f.intrinsic("fabs", x)
    square = f.math("fmul", x, x)
    small = f.math("fmul", _polynomial(f, square, _ERF_SMALL), x)
    t = f.intrinsic("fma", size, f.constant(_ERF_P), f.constant(1.0))
    t = f.math("fdiv", f.constant(1.0), t)
    tail = f.math("fmul", _polynomial(f, t, _ERF_LARGE), t)
    tail = f.math("fmul", tail, _exp(f, f.math("fsub", f.constant(-0.0), square)))
    large = f.intrinsic("copysign", f.math("fsub", f.constant(1.0), tail), x)
    return f.select("olt", size, f.constant(1.0), small, large)


def _gelu(f: Function, x: str) -> str:
    beside = f.math("fadd", _erf(f, f.math("fmul", x, f.constant(0.7071067811865476))),
                    f.constant(1.0))
    return f.math("fmul", f.math("fmul", x, f.constant(0.5)), beside)


def _gelu_tanh(f: Function, x: str) -> str:
    """Of x / 2 (1 + tanh(u)) = x sigmoid(2 u) the right-hand side."""
    cube = f.math("fmul", f.math("fmul", x, x), x)
    u = f.intrinsic("fma", cube, f.constant(0.044715), x)
    twice = f.math("fmul", u, f.constant(2 * 0.7978845608028654))
    return f.math("fmul", x, _sigmoid(f, twice))


_PRINTERS: dict[str, Callable[..., str]] = {
    "max": _maximum,
    "min": _minimum,
    "relu": lambda f, x: _maximum(f, x, f.constant(0.0)),
    "clamp": lambda f, x, low, high: _minimum(f, _maximum(f, x, low), high),
    "leaky_relu": lambda f, x, slope: f.select(
        "ogt", x, f.constant(0.0), x, f.math("fmul", x, slope)
    ),
    "neg": lambda f, x: f.math("fsub", f.constant(-0.0), x),
    "abs": lambda f, x: f.intrinsic("fabs", x),
    "sqrt": lambda f, x: f.intrinsic("sqrt", x),
    "square": lambda f, x: f.math("fmul", x, x),
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda f, x: f.math("fmul", x, _hardsigmoid(f, x)),
    "sigmoid": _sigmoid,
    "silu": lambda f, x: f.math("fmul", x, _sigmoid(f, x)),
    "tanh": _tanh,
    "erf": _erf,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "to_float32": lambda f, x: x,
}
