"""Every op that has vector code, against torch in float64."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from torch2rt import expression as ex
from torch2rt.backends.cpu.jit import Function, address_of_kernel, jit_unavailable
from torch2rt.backends.cpu.jit.print_vector import missing_op, print_vector, vector_declarations

pytestmark = pytest.mark.skipif(jit_unavailable() is not None, reason=str(jit_unavailable()))
LANES = 8
# Around zero, where polynomials change, and where e^x ends.
X = torch.cat([
    torch.linspace(-12, 12, 4000), torch.linspace(-1.2, 1.2, 2001), torch.logspace(-30, 2, 600),
    -torch.logspace(-30, 2, 600), torch.tensor([0.625, -0.625, 1.0, -1.0, 0.0, 88.7, -87.4, 3e38]),
])
X = X[: len(X) // LANES * LANES]
TRANSCENDENTAL = ("sigmoid", "silu", "tanh", "erf", "gelu", "gelu_tanh")


def evaluate(text: str, x: torch.Tensor) -> torch.Tensor:
    """The expression of i0 by compiled code."""
    name = "printed_" + "".join(c if c.isalnum() else "_" for c in text)

    def write() -> str:
        f = Function(name, [("ptr", "x"), ("ptr", "y"), ("i64", "count")], LANES)
        with f.loop(0, "%count") as loop:
            place = f.integer("mul", loop.counter, LANES)
            value = f.load(f.vector, f.at("%x", place))
            f.store(f.vector, print_vector(f, ex.parse_expression(text), {0: value}),
                    f.at("%y", place))
        return vector_declarations(LANES) + f.text

    given, result = x.numpy().astype(np.float32), np.empty(len(x), np.float32)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    run(address_of_kernel(name, write))(given.ctypes.data, result.ctypes.data, len(x) // LANES)
    return torch.from_numpy(result)


@pytest.mark.parametrize("op", TRANSCENDENTAL)
def test_values_are_near(op: str) -> None:
    got = evaluate(f"{op}(i0)", X).double()
    want = ex.evaluate_torch(ex.parse_expression(f"{op}(i0)"), [X.double()])
    allowed = 4e-7 * want.abs() + (3e-7 * X.double().abs() if "gelu" in op else 3e-7)
    assert bool(((got - want).abs() <= allowed).all())


@pytest.mark.parametrize("op", ["tanh", "erf", "gelu", "silu", "gelu_tanh"])
def test_small_numbers_keep_their_digits(op: str) -> None:
    x = torch.logspace(-30, -3, 64)
    want = ex.evaluate_torch(ex.parse_expression(f"{op}(i0)"), [x.double()])
    assert bool((evaluate(f"{op}(i0)", x).double() / want - 1).abs().max() < 1e-6)


@pytest.mark.parametrize("op", TRANSCENDENTAL)
def test_not_a_number_stays_so(op: str) -> None:
    assert bool(evaluate(f"{op}(i0)", torch.full((LANES,), torch.nan)).isnan().all())


@pytest.mark.parametrize("text", [
    "relu(i0)", "clamp(i0,-1.5,2.5)", "leaky_relu(i0,0.1)", "neg(i0)", "abs(i0)", "square(i0)",
    "sqrt(abs(i0))", "hardsigmoid(i0)", "hardswish(i0)", "max(i0,0.3)", "min(i0,mul(i0,i0))",
    "sub(add(i0,1.0),div(i0,3.0))",
])
def test_arithmetic(text: str) -> None:
    x = torch.linspace(-9, 9, 800)
    want = ex.evaluate_torch(ex.parse_expression(text), [x.double()])
    torch.testing.assert_close(evaluate(text, x).double(), want, rtol=1e-6, atol=1e-6)


def test_other_ops_are_named() -> None:
    assert missing_op(ex.parse_expression("relu(sin(add(i0,i1)))")) == "sin"
    assert missing_op(ex.parse_expression("gelu(add(i0,i1))")) is None
