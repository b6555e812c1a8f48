"""Every op printed as C++ against torch, over special values; texts of a few."""

import math

import numpy as np
import pytest
import torch
from cuda_compile import compile_for_all
from kernel_testing import run_kernel
from layer_testing import as_double

from torch2rt import expression as ex
from torch2rt.backends.cuda.cpp.print_cpp import compute_type, missing_op, print_cpp
from torch2rt.expression import OPS, parse_expression
from torch2rt.kernels.cuda.prelude import PRELUDE, c_type
from torch2rt.network.dtype import DType
from torch2rt.torch_values import constant_from_torch, constant_to_torch, dtype_from_torch

SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2.0, -3.0, 6.5, -7.25, 20.5, -21.0, 88.0,
    -89.0, 1e-3, -1e-3, 1e-10, 1e-40, -1e-40, 3e38, -3e38, 1e30, math.inf, -math.inf, math.nan,
]
# Of the last place: expression functions of CUDA are within a few; products of them within more.
RELATIVE = {torch.float32: 3e-6, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}
CASTS = [name for name in OPS if name.startswith("to_") and "float8" not in name]
FLOAT_OPS = [
    name for name in OPS if not name.startswith(("to_", "bitwise"))
]
UNDEFINED = {
    # Differences of large terms that cancel, where one rounding more or less decides.
    "floordiv": lambda x, y, *_: (x / y).abs() > 1e7, "tan": lambda x, *_: x.abs() > 1e6,
    "remainder": lambda x, y, *_: (x / y).abs() > 1e30,
}


def kernel_of(expression, inputs, out):
    """A kernel that applies an expression to arrays of equal length."""
    dtypes = [dtype_from_torch(x.dtype) for x in inputs]
    parameters = "".join(f"const {c_type(d)}* x{i}, " for i, d in enumerate(dtypes))
    loads = "".join(
        f"const {compute_type(d)} v{i} = "
        + (f"to_float(x{i}[k]);" if d.is_low_precision else f"x{i}[k];")
        for i, d in enumerate(dtypes)
    )
    value = print_cpp(expression, [f"v{i}" for i in range(len(inputs))], dtypes, out)
    stored = f"from_float<{c_type(out)}>({value})" if out.is_low_precision else value
    return f"""{PRELUDE}
extern "C" __global__ void evaluate({parameters}{c_type(out)}* y, int count) {{
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    {loads}
    y[k] = {stored};
}}
"""


def evaluate(expression, inputs, out):
    count = inputs[0].numel()
    arrays = [constant_from_torch(x.contiguous())[0] for x in inputs]
    result = run_kernel(
        kernel_of(expression, inputs, out), "evaluate", (-(-count // 128), 1, 1), (128, 1, 1),
        [*arrays, np.zeros(count, out.numpy), count],
    )[len(inputs)]
    return constant_to_torch(result, out)


def operands(count, dtype):
    """All tuples of special values."""
    values = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    if count == 1:
        return [torch.cat([values, torch.randn(200).to(dtype) * 3])]
    grids = torch.meshgrid(*[values] * min(count, 2), indexing="ij")
    grids = [grid.reshape(-1) for grid in grids]
    return grids if count == 2 else [(grids[0] > 0.5), *grids]


def assert_same(got, want, ignored=None):
    if ignored is not None:
        got, want = got[~ignored], want[~ignored]
    if not want.is_floating_point():
        wrong = got != want
        assert not wrong.any(), (got[wrong], want[wrong])
        return
    # Results that only just are subnormal may be flushed.
    torch.testing.assert_close(
        got, want, rtol=RELATIVE[want.dtype], atol=1e-36 if want.dtype.itemsize >= 4 else 1e-6,
        equal_nan=True,
    )


def expression_of(op):
    """The op applied to inputs, with a number where torch wants one."""
    text = {
        "clamp": "clamp(i0,-0.5,1.5)", "leaky_relu": "leaky_relu(i0,0.1)", "elu": "elu(i0,1.5)"
    }.get(op)
    if text is None:
        text = f"{op}({','.join(f'i{i}' for i in range(OPS[op].arity))})"
    return parse_expression(text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", FLOAT_OPS)
def test_ops_on_floats(cuda_device, op, dtype):
    expression = expression_of(op)
    inputs = operands(ex.arity(expression), dtype)
    want = ex.evaluate_torch(expression, inputs)
    if dtype is torch.float32 and op not in ("floordiv", "truncdiv") and want.is_floating_point():
        # Torch's own float32 functions overflow early and its fmod is off for small divisors.
        want = ex.evaluate_torch(expression, [as_double(x) for x in inputs]).float()
    got = evaluate(expression, inputs, dtype_from_torch(want.dtype))
    if op.startswith("gelu"):  # 1 + erf cancels
        torch.testing.assert_close(
            got[~inputs[0].isinf()], want[~inputs[0].isinf()], rtol=RELATIVE[dtype], atol=4e-7,
            equal_nan=True,
        )
        return
    assert_same(got, want, UNDEFINED[op](*inputs) if op in UNDEFINED else None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("op", ["silu", "gelu", "tanh", "relu", "hardswish", "exp", "neg"])
def test_ops_on_16_bit_floats(cuda_device, op, dtype):
    x = torch.randn(500).to(dtype)
    want = ex.evaluate_torch(expression_of(op), [x.float()]).to(dtype)
    assert_same(evaluate(expression_of(op), [x], dtype_from_torch(dtype)), want)


def test_gelu_for_16_bits_is_exact_to_its_rounding(cuda_device):
    x = torch.cat([torch.linspace(-30, 30, 20001), torch.tensor([torch.inf, torch.nan, 65504.0])])
    x = x.half().float()
    exact = torch.nn.functional.gelu(x.double())
    # Evaluated for a float16 result but read before the rounding: the polynomial's own error.
    text = "mul(to_float32(gelu(i0)),1.0)"
    got = evaluate(parse_expression(text), [x], DType.FLOAT16).double()
    is_number = exact.isfinite()
    assert torch.equal(got[~is_number].nan_to_num(7.0), exact[~is_number].nan_to_num(7.0))
    rounding = exact.abs() * 2.0**-11 + 2.0**-25
    assert ((got - exact).abs() - rounding)[is_number].max() < 2.4e-6
    assert evaluate(parse_expression("gelu(i0)"), [-x[-3:-2]], DType.FLOAT16).isnan().all()


INTEGER_OPS = [
    "add", "sub", "mul", "div", "floordiv", "truncdiv", "remainder", "fmod", "max", "min", "eq",
    "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "where", "neg", "abs", "sign",
    "square", "relu", "clamp", "floor", "ceil", "round", "trunc", "isnan", "isinf", "sqrt", "exp2",
    "atan2", "sigmoid", "reciprocal",
]
NUMBERS = [0, 1, -1, 2, -2, 3, -3, 7, -7, 10, 100, -100, 127, -128]
DIVISIONS = ("floordiv", "truncdiv", "remainder", "fmod")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
)
@pytest.mark.parametrize("op", INTEGER_OPS)
def test_ops_on_integers(cuda_device, op, dtype):
    expression = parse_expression("clamp(i0,-3,7)") if op == "clamp" else expression_of(op)
    if dtype is torch.uint8 and op == "clamp":
        expression = parse_expression("clamp(i0,3,7)")
    values = torch.tensor(NUMBERS).to(dtype)
    x, y = (grid.reshape(-1) for grid in torch.meshgrid(values, values, indexing="ij"))
    if op in DIVISIONS:
        x, y = x[y != 0], y[y != 0]
    inputs = {1: [x], 2: [x, y], 3: [x > 2, x, y]}[ex.arity(expression)]
    want = ex.evaluate_torch(expression, inputs)
    assert_same(evaluate(expression, inputs, dtype_from_torch(want.dtype)), want)


def test_division_of_integers_by_zero_ends(cuda_device):
    x = torch.tensor([1, -5, 0, -(2**63)])
    for op in DIVISIONS:
        assert not evaluate(expression_of(op), [x, x * 0], DType.INT64).any()
    least = torch.tensor([-(2**63)])
    assert evaluate(expression_of("floordiv"), [least, least * 0 - 1], DType.INT64) == least


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_powers(cuda_device, dtype):
    x = torch.tensor([0, 1, -1, 2, -2, 3, 7, -9, 10]).to(dtype)
    x, y = (grid.reshape(-1) for grid in torch.meshgrid(x, x.abs(), indexing="ij"))
    expression = parse_expression("pow(i0,i1)")
    assert_same(
        evaluate(expression, [x, y], dtype_from_torch(dtype)), ex.evaluate_torch(expression, [x, y])
    )


@pytest.mark.parametrize(
    "op", ["add", "mul", "max", "min", "eq", "ne", "logical_and", "logical_or", "logical_xor",
           "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "div", "lt"]
)
def test_ops_on_booleans(cuda_device, op):
    x, y = torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True])
    inputs = [x, y][: OPS[op].arity]
    want = ex.evaluate_torch(expression_of(op), inputs)
    assert_same(evaluate(expression_of(op), inputs, dtype_from_torch(want.dtype)), want)


@pytest.mark.parametrize(
    "source",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
     torch.int16, torch.int8, torch.uint8, torch.bool],
)
@pytest.mark.parametrize("op", CASTS)
def test_casts(cuda_device, op, source):
    values = torch.tensor([0.0, 1.0, -1.0, 2.6, -2.6, 100.7, 126.0, 3.1e-5, 0.1, -77.25])
    x = values.to(source)
    expression = expression_of(op)
    want = ex.evaluate_torch(expression, [x])
    got = evaluate(expression, [x], dtype_from_torch(want.dtype))
    assert got.dtype == want.dtype
    assert torch.equal(got, want)


def test_casts_inside_round(cuda_device):
    x = torch.randn(1000)
    for name in ("float16", "bfloat16"):
        expression = parse_expression(f"to_float32(to_{name}(i0))")
        want = ex.evaluate_torch(expression, [x])
        assert torch.equal(evaluate(expression, [x], DType.FLOAT32), want)
    special = torch.tensor([math.nan, math.inf, 1e30, -0.0])
    got = evaluate(parse_expression("to_bool(i0)"), [special], DType.BOOL)
    assert got.tolist() == [True, True, True, False]


MIXED = [
    ("add(i0,i1)", torch.int64, torch.float32),
    ("mul(i0,0.5)", torch.int32, torch.int32),
    ("add(i0,1)", torch.bool, torch.bool),
    ("add(i0,i1)", torch.int8, torch.uint8),
    ("add(i0,i1)", torch.int32, torch.int64),
    ("mul(i0,i1)", torch.float32, torch.float64),
    ("where(gt(i0,0),i1,-inf)", torch.int64, torch.float32),
    ("where(i0,1.0,0.0)", torch.bool, torch.bool),
    ("where(i0,2,i1)", torch.bool, torch.int64),
    ("add(mul(tanh(i1),tanh(i1)),exp(tanh(i1)))", torch.bool, torch.float32),
    ("to_int64(add(gt(i1,0.0),lt(i0,2)))", torch.int64, torch.float32),
    ("pow(i1,2)", torch.bool, torch.float32),
    ("pow(i1,3.0)", torch.bool, torch.float32),
    ("pow(i0,2)", torch.int64, torch.float32),
    ("sub(2,i0)", torch.uint8, torch.uint8),
    ("add(1.5,2)", torch.uint8, torch.uint8),
]


@pytest.mark.parametrize(("text", "first", "second"), MIXED)
def test_promotion(cuda_device, text, first, second):
    inputs = [(torch.randn(300) * 3).to(dtype) for dtype in (first, second)]
    expression = parse_expression(text)
    want = ex.evaluate_torch(expression, inputs)
    got = evaluate(expression, inputs, dtype_from_torch(want.dtype))
    assert_same(got, want.expand(got.shape))


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("relu(add(i0,i1))", "t2r_relu((a + b))"),
        ("clamp(mul(i0,0.25),-inf,6)", "t2r_clamp((a * 0.25f), (-t2r_infinity()), 6.0f)"),
        ("where(gt(i0,0),i1,-1.5)", "((a > 0.0f) ? b : (-1.5f))"),
        ("mul(exp(i0),add(exp(i0),1))",
         "[&] { const float t2r_0 = exp(a); return (t2r_0 * (t2r_0 + 1.0f)); }()"),
        ("gt(i0,1e39)", "(float)((a > t2r_infinity()))"),
    ],
)
def test_text(text, printed):
    assert print_cpp(parse_expression(text), ["a", "b"]) == printed


def test_text_of_integers():
    dtypes = [DType.INT64, DType.UINT8]
    text = print_cpp(parse_expression("add(i0,mul(i1,3))"), ["a", "b"], dtypes, DType.INT64)
    assert text == "(a + (i64)((u8)(b * (u8)3LL)))"


def test_all_ops_are_printed():
    assert not {op for op in OPS if missing_op(expression_of(op)) is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_nvrtc_takes_all(dtype):
    names = (FLOAT_OPS if dtype.is_floating_point else INTEGER_OPS) + CASTS
    lines = []
    for number, op in enumerate(names):
        expression = parse_expression("clamp(i0,3,7)") if op == "clamp" else expression_of(op)
        count = OPS[op].arity
        dtypes = [dtype_from_torch(dtype)] * max(count, 1)
        text = print_cpp(expression, ["a", "b", "c"][:count], dtypes, DType.FLOAT32)
        lines.append(f"    if (which == {number}) y[k] = {text};")
    kind = c_type(dtype_from_torch(dtype))
    compile_for_all(
        PRELUDE + f'extern "C" __global__ void all(const {kind}* x, float* y, int which) {{\n'
        f"    const int k = threadIdx.x;\n    const {kind} a = x[k], b = x[k + 1], c = x[k + 2];\n"
        + "\n".join(lines) + "\n}\n",
        "all",
    )


@pytest.mark.parametrize(("text", "printed"), [
    ("to_int8(clamp(round(mul(i0,i1)),-128.0,127.0))", "t2r_round_i8((a * b), (-128.0f), 127.0f)"),
    ("to_int8(clamp(round(mul(relu(i0),2.0)),-128.0,127.0))",
     "t2r_round_i8((t2r_relu(a) * 2.0f), 127.0f)"),
    ("to_int8(clamp(round(i0),-127.0,127.0))", "t2r_round_i8(a, (-127.0f), 127.0f)"),
])
def test_bytes_are_rounded_and_cut_at_once(text: str, printed: str) -> None:
    assert print_cpp(parse_expression(text), ["a", "b"], dtype=DType.INT8) == printed


@pytest.mark.parametrize("text", [
    "to_int8(clamp(round(i0),-128.0,128.0))", "to_int8(clamp(round(i0),-0.5,127.0))",
    "to_int8(clamp(i0,-128.0,127.0))",
])
def test_other_bytes_are_cut(text: str) -> None:
    assert "t2r_round_i8" not in print_cpp(parse_expression(text), ["a"], dtype=DType.INT8)
