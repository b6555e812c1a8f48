"""Maxima of bytes, means as one pooling, and reorders that quantize."""

import pytest
import torch
from tactic_testing import check_tactic

from torch2rt.backends.cpu.jit import jit_unavailable
from torch2rt.expression import parse_expression
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.pool import Pool
from torch2rt.layers.reduce import Reduce
from torch2rt.network.dtype import DType

needs_jit = pytest.mark.skipif(jit_unavailable() is not None, reason="llvmlite is missing")
QUANTIZE = {
    DType.INT8: "to_int8(clamp(round(mul(i0,31.3)),-128.0,127.0))",
    DType.UINT8: "to_uint8(clamp(round(mul(i0,31.3)),0.0,255.0))",
}


def stored(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape, dtype=torch.int64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("channels", [16, 13])
def test_maxima_of_bytes(dtype: torch.dtype, channels: int) -> None:
    kind = Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    check_tactic("pool.onednn.direct", kind, [stored(dtype, 2, channels, 9, 8)], layouts=2)


WINDOWS = {
    "3x3 by 2": Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    "2x2": Pool("max", (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),
    "3x3 of one size": Pool("max", (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "ceil mode": Pool("max", (3, 2), (2, 2), (0, 0), (1, 1), (1, 1)),
}


@needs_jit
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("channels", [16, 48, 128])
@pytest.mark.parametrize("window", WINDOWS)
def test_maxima_of_our_own(dtype: torch.dtype, channels: int, window: str) -> None:
    check_tactic("pool.jit.bytes", WINDOWS[window], [stored(dtype, 2, channels, 9, 8)])


@needs_jit
@pytest.mark.parametrize(
    ("kind", "channels", "reason"),
    [
        (Pool("max", (2, 2), (1, 1), (0, 0), (0, 0), (2, 2)), 16, "a dilation"),
        (Pool("max", (6, 6), (1, 1), (0, 0), (0, 0), (1, 1)), 16, "more than 25 values"),
        (Pool("max", (2, 2), (1, 1), (0, 0), (0, 0), (1, 1)), 24, "no multiple of 16"),
        (Pool("max", (1, 1), (1, 1), (0, 0), (1, 0), (1, 1)), 16, "in the padding alone"),
    ],
)
def test_maxima_that_are_refused(kind: Pool, channels: int, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_tactic("pool.jit.bytes", kind, [stored(torch.int8, 1, channels, 8, 8)])


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("channels", [48, 13])
@pytest.mark.parametrize("epilogue", [None, "relu(mul(i0,2.0))", QUANTIZE[DType.UINT8]])
def test_means_over_images(keepdim: bool, channels: int, epilogue: str | None) -> None:
    stores = epilogue is not None and "uint8" in epilogue
    check_tactic(
        "reduce.onednn.pool", Reduce("mean", (2, 3), keepdim), [torch.randn(2, channels, 7, 6)],
        epilogue, out_dtype=DType.UINT8 if stores else None, tolerance=0.01 if stores else None,
        layouts=2,
    )


def test_means_over_other_axes_are_refused() -> None:
    with pytest.raises(AssertionError, match="not a mean over all spatial axes"):
        check_tactic("reduce.onednn.pool", Reduce("mean", (1, 2), True), [torch.randn(2, 3, 4, 5)])


@pytest.mark.parametrize("dtype", list(QUANTIZE))
@pytest.mark.parametrize("name", ["pointwise.onednn.scale", "pointwise.onednn.chains"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (4, 32)])
def test_quantizing(dtype: DType, name: str, shape: tuple[int, ...]) -> None:
    kind = Pointwise(parse_expression(QUANTIZE[dtype]), dtype)
    check_tactic(name, kind, [torch.randn(shape) * 4], tolerance=0.01)


@needs_jit
@pytest.mark.parametrize("dtype", list(QUANTIZE))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [16, 21])
def test_quantizing_images(dtype: DType, channels: int, width: int) -> None:
    kind = Pointwise(parse_expression(QUANTIZE[dtype]), dtype)
    x = torch.randn(2, channels, 3, width) * 4
    x[0, 0, 0, :4] = torch.tensor([torch.inf, -torch.inf, 2.5 / 31.3, 0.0])
    check_tactic("pointwise.jit.quantize", kind, [x])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("name", ["pointwise.onednn.scale", "pointwise.onednn.chains"])
def test_dequantizing(dtype: torch.dtype, name: str) -> None:
    kind = Pointwise(parse_expression("mul(to_float32(i0),0.037)"), DType.FLOAT32)
    check_tactic(name, kind, [stored(dtype, 2, 20, 5, 6)])


def test_bytes_are_read_and_written_in_one_expression() -> None:
    value = "relu(add(mul(to_float32(i0),0.7),mul(to_float32(i1),0.4)))"
    text = f"to_int8(clamp(round({value}),-128.0,127.0))"
    kind = Pointwise(parse_expression(text), DType.INT8)
    inputs = [stored(torch.int8, 2, 16, 5, 6), stored(torch.uint8, 2, 16, 5, 6)]
    check_tactic("pointwise.onednn.chains", kind, inputs, tolerance=0.01)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("to_int8(mul(to_float32(i0),0.5))", "not rounded and clamped"),
        ("to_int8(i0)", "to_int8 of int8"),
        ("add(i0,3)", "add of int8"),
    ],
)
def test_arithmetic_of_integers_is_refused(text: str, reason: str) -> None:
    kind = Pointwise(parse_expression(text), DType.INT8)
    with pytest.raises(AssertionError, match=reason):
        check_tactic("pointwise.onednn.chains", kind, [stored(torch.int8, 2, 16, 5, 6)])
