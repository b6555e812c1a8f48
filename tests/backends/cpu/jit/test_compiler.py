"""Functions written as text, compiled and called."""

import ctypes
import itertools
import sys

import numpy as np
import pytest

from torch2rt.backends.cpu.jit import Function, address_of_kernel, compiler, jit_unavailable

pytestmark = pytest.mark.skipif(jit_unavailable() is not None, reason=str(jit_unavailable()))
_names = itertools.count()


def compiled(parameters, write, lanes=8):
    """A callable of the function that ``write`` fills."""
    name = f"tested_{next(_names)}"

    def text():
        function = Function(name, parameters, lanes)
        write(function)
        vector = f"<{lanes} x float>"
        declared = f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})\n"
        return declared + function.text

    kinds = [ctypes.c_void_p if kind == "ptr" else ctypes.c_int64 for kind, _ in parameters]
    return ctypes.CFUNCTYPE(None, *kinds)(address_of_kernel(name, text))


def at(array):
    return array.ctypes.data


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_vectors(lanes):
    def write(f):
        x = f.load(f.vector, "%x")
        scalar = f.broadcast(f.load("float", "%x"))
        total = f.intrinsic("fma", x, scalar, f.constant(0.1))
        f.store(f.vector, f.select("ogt", total, f.constant(2.0), total, x), "%y")

    x, y = np.arange(1, lanes + 1, dtype=np.float32), np.zeros(lanes, np.float32)
    compiled([("ptr", "x"), ("ptr", "y")], write, lanes)(at(x), at(y))
    total = x * x[0] + np.float32(0.1)
    np.testing.assert_array_equal(y, np.where(total > 2, total, x))


def test_nested_loops_carry_values():
    def write(f):
        zero = [(f.vector, "zeroinitializer")]
        with f.loop(0, "%rows", zero) as row, f.loop(0, "%columns", row_start(row)) as column:
            place = f.integer("mul", row.counter, "%columns")
            place = f.integer("mul", f.integer("add", place, column.counter), f.lanes)
            value = f.load(f.vector, f.at("%x", place))
            column.updates = [f.math("fadd", column.carried[0], value)]
            row.updates = column.updates
        f.store(f.vector, row.results[0], "%y")

    def row_start(row):
        return [("<8 x float>", row.carried[0])]

    x = np.random.default_rng(0).integers(0, 9, (3, 5, 8)).astype(np.float32)
    y = np.zeros(8, np.float32)
    parameters = [("ptr", "x"), ("ptr", "y"), ("i64", "rows"), ("i64", "columns")]
    compiled(parameters, write)(at(x), at(y), 3, 5)
    np.testing.assert_array_equal(y, x.sum((0, 1)))


def test_conditions():
    def write(f):
        with f.when(f.compare("slt", "%n", 3)):
            f.store("i64", "%n", "%y", 8)

    y = np.array([7], np.int64)
    function = compiled([("ptr", "y"), ("i64", "n")], write)
    function(at(y), 3)
    assert y[0] == 7
    function(at(y), -2)
    assert y[0] == -2


@pytest.mark.parametrize("number", [0.0, -1.5, 1e30, 1e300, float("inf"), 1 / 3])
def test_constants_are_rounded_to_f32(number):
    y = np.zeros(8, np.float32)
    function = compiled(
        [("ptr", "y")], lambda f: f.store(f.vector, f.constant(number), "%y")
    )
    function(at(y))
    with np.errstate(over="ignore"):
        assert (y == np.float32(number)).all()


def test_a_function_is_written_once():
    texts = []

    def text():
        texts.append(1)
        return "define void @written_once() {\n  ret void\n}\n"

    assert address_of_kernel("written_once", text) == address_of_kernel("written_once", text)
    assert len(texts) == 1


def test_a_missing_compiler_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    with pytest.raises(compiler.JitUnavailable, match="pip install 'llvmlite"):
        compiler._llvm.__wrapped__()
