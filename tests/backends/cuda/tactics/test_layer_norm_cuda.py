"""Layer norm and RMS norm by our kernel against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import assert_refused, check_cuda_tactic
from strided_cases import with_dtypes

from torch2rt.kernels.cuda.layer_norm import LayerNormProblem, layer_norm_source
from torch2rt.kernels.cuda.operands import Epilogue
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.usefixtures("cuda_device")
WARP, BLOCK = "layer_norm.cuda.warp", "layer_norm.cuda.block"


def inputs(shape, dtype, affine=torch.float32, axis_count=1):
    sizes = shape[-axis_count:]
    x = torch.randn(shape).to(dtype) * 2 + 3
    return [x, torch.randn(sizes).to(affine), torch.randn(sizes).to(affine)]


@pytest.mark.parametrize(("shape", "dtype"), with_dtypes([
    ((5, 768),), ((2, 3, 64),), ((9, 40),), ((3, 17),), ((1, 1024),), ((7, 8),), ((3, 1),),
    ((2, 2048),),
]))
def test_warp(shape, dtype):
    kind = LayerNorm(1, 1e-5, True, True, True)
    check_cuda_tactic(WARP, kind, inputs(shape, dtype), constants=[1, 2])


@pytest.mark.parametrize(("shape", "dtype"), with_dtypes([
    ((3, 768),), ((2, 1000),), ((2, 8192),), ((1, 2, 555),),
]))
def test_block(shape, dtype):
    kind = LayerNorm(1, 1e-5, True, True, True)
    check_cuda_tactic(BLOCK, kind, inputs(shape, dtype), constants=[1, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_no_block_holds(dtype):
    kind = LayerNorm(1, 1e-5, True, True, True)
    check_cuda_tactic(BLOCK, kind, inputs((2, 70001), dtype, dtype))


@pytest.mark.parametrize("name", [WARP, BLOCK])
@pytest.mark.parametrize(("is_centered", "has_weight", "has_bias"), [
    (True, False, False), (True, True, False), (True, False, True), (False, False, False),
    (False, True, False), (False, True, True),
])
def test_attributes(name, is_centered, has_weight, has_bias):
    x, weight, bias = inputs((2, 3, 512), torch.float32, axis_count=1)
    terms = [weight] * has_weight + [bias] * has_bias
    kind = LayerNorm(1, 1e-3, is_centered, has_weight, has_bias)
    check_cuda_tactic(name, kind, [x, *terms])
    check_cuda_tactic(name, kind, [x.half(), *[term.half() for term in terms]],
                      constants=range(1, len(terms) + 1))


@pytest.mark.parametrize("name", [WARP, BLOCK])
def test_several_axes(name):
    kind = LayerNorm(3, 1e-5, True, True, True)
    check_cuda_tactic(name, kind, inputs((2, 3, 4, 8, 16), torch.half, axis_count=3))


@pytest.mark.parametrize("name", [WARP, BLOCK])
def test_more_rows_than_threads(name, monkeypatch, cuda_device):
    monkeypatch.setattr(cuda_device.device, "multiprocessors", 1)
    kind = LayerNorm(1, 1e-5, True, True, True)
    check_cuda_tactic(name, kind, inputs((43, 512), torch.half), constants=[1, 2])


def test_parts_of_a_warp_go_from_row_to_row(monkeypatch, cuda_device):
    monkeypatch.setattr(cuda_device.device, "multiprocessors", 1)
    kind = LayerNorm(1, 1e-5, True, True, True)
    check_cuda_tactic(WARP, kind, inputs((139, 64), torch.half), constants=[1, 2])


@pytest.mark.parametrize("name", [WARP, BLOCK])
def test_pitched_operands(name):
    kind = LayerNorm(1, 1e-5, True, True, True)
    x = inputs((3, 5, 512), torch.half)
    check_cuda_tactic(name, kind, x, pitched={"i0": 1}, constants=[1, 2])
    check_cuda_tactic(name, kind, x, pitched={"o0": 2}, constants=[1, 2])


def test_a_mean_far_from_zero():
    x = torch.randn(4, 256) + 1000
    check_cuda_tactic(WARP, LayerNorm(1, 1e-5), [x], tolerance=2e-4)


def test_nan_and_infinity():
    x = torch.randn(4, 64)
    x[0, 3], x[1, 5] = math.nan, math.inf
    check_cuda_tactic(WARP, LayerNorm(1, 1e-5), [x])


def test_refusals():
    assert_refused(WARP, LayerNorm(1, 1e-5), [torch.randn(1, 4096)], reason="do not fit a warp")
    assert_refused(BLOCK, LayerNorm(1, 1e-5), [torch.randn(1, 64)], reason="shorter")


def test_every_architecture_compiles():
    for kind, vector in (("bf16", 8), ("double", 2)):
        accumulator = "double" if kind == "double" else "float"
        for length, lanes, threads in ((768, 32, 128), (768, 96, 96), (262144, 256, 256)):
            problem = LayerNormProblem(
                kind, accumulator, (Axis(64, (length, length)),), length, vector, lanes, threads,
                1e-5, True, accumulator, accumulator, True,
            )
            compile_for_all(layer_norm_source(problem), "layer_norm")


@pytest.mark.parametrize(("y_type", "result"), [("i8", "i8"), ("f8", "float")])
def test_every_architecture_writes_8_bits(y_type, result):
    problem = LayerNormProblem(
        "f16", "float", (Axis(64, (768, 768)),), 768, 8, 32, 128, 1e-5, True, "float", "float",
        True, y_type=y_type, epilogue=Epilogue("fminf(fmaxf(i0 * 60.0f, -100.0f), 100.0f)", result),
    )
    compile_for_all(layer_norm_source(problem), "layer_norm")


@pytest.mark.parametrize("columns", [24, 64, 100, 8])
def test_many_short_rows(columns, monkeypatch, cuda_device):
    monkeypatch.setattr(cuda_device.device, "multiprocessors", 1)
    kind = LayerNorm(1, 1e-5, True, True, True)
    check_cuda_tactic(WARP, kind, inputs((77, columns), torch.half), constants=[1, 2])


INT8 = "to_int8(clamp(round(mul(i0,30.0)),-128.0,127.0))"
FLOAT8 = "clamp(mul(i0,60.0),-448.0,448.0)"


@pytest.mark.parametrize(("name", "shape"), [
    (WARP, (5, 768)), (WARP, (9, 40)), (WARP, (3, 17)), (BLOCK, (2, 3, 1000)),
])
@pytest.mark.parametrize("dtype", [torch.half, torch.float32])
def test_results_in_8_bits(name, shape, dtype):
    kind = LayerNorm(1, 1e-5, True, True, True)
    x = inputs(shape, dtype)
    check_cuda_tactic(name, kind, x, INT8, constants=[1, 2], out_dtype=DType.INT8, tolerance=2e-3)
    # A number that falls to the other side of a boundary is a step off, 32 at 448.
    check_cuda_tactic(name, kind, x, FLOAT8, constants=[1, 2], out_dtype=DType.FLOAT8_E4M3,
                      tolerance=32 / 448)


def test_results_in_8_bits_inside_a_wider_tensor():
    kind = LayerNorm(1, 1e-5)
    check_cuda_tactic(WARP, kind, inputs((3, 5, 512), torch.half)[:1], INT8,
                      out_dtype=DType.INT8, pitched={"o0": 2}, tolerance=2e-3)


def test_epilogues_with_operands_are_refused():
    x = [*inputs((2, 64), torch.half), torch.randn(64)]
    assert_refused(WARP, LayerNorm(1, 1e-5, True, True, True), x, "add(i0,i1)",
                   reason="an epilogue with operands")
