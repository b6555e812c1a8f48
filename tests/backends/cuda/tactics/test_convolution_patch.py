"""Convolutions from patches on Hopper's tensor cores, on the emulated device and on a GPU."""

from __future__ import annotations

import cuda_testing
import pytest
import torch
from cuda_emulator import EmulatedDevice
from cuda_testing import assert_refused, check_cuda_tactic, cuda_device, cuda_spec

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.nvrtc import compile_cubin
from torch2rt.backends.tactic import Refusal
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, Operand
from torch2rt.kernels.cuda.sm90_patch import NAME, sm90_patch_source
from torch2rt.kernels.cuda.sm90_patch_plan import plan_sm90_patch
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

__all__ = ["cuda_device"]

RESIDUAL = "relu(add(add(i0,i1),i2))"
QUANTIZED = (
    "to_int8(clamp(round(mul(relu(add(add(mul(to_float32(i0),i1),i2),"
    "mul(to_float32(i3),0.25))),0.5)),-128.0,127.0))"
)
STORED = "to_int8(clamp(round(relu(add(mul(to_float32(i0),i1),i2))),-128.0,127.0))"


def values(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)


def kind_of(stride: tuple[int, int], padding: tuple[int, int], dilation: int) -> Convolution:
    return Convolution(stride, padding, padding, (dilation,) * 2)


# x, filters, window, padding, dilation
DEEP = {
    "3x3": ((2, 64, 9, 13), 64, (3, 3), (1, 1), 1),
    "filters": ((1, 32, 8, 11), 24, (3, 3), (1, 1), 1),
    "rows": ((1, 32, 21, 5), 32, (1, 3), (0, 1), 1),
    "columns": ((1, 32, 7, 9), 40, (5, 1), (2, 0), 1),
    "dilated": ((1, 64, 12, 14), 32, (3, 3), (2, 2), 2),
    "valid": ((1, 96, 6, 8), 32, (2, 2), (0, 0), 1),
    "wide": ((1, 32, 5, 150), 32, (3, 3), (1, 1), 1),
}


@pytest.mark.parametrize(("case", "blocks"), [("3x3", 1), ("wide", 3), *((c, 2) for c in DEEP)])
def test_bytes(cuda_device, case: str, blocks: int) -> None:
    shape, filters, window, padding, dilation = DEEP[case]
    x, w = integers(*shape), integers(filters, shape[1], *window, seed=1)
    kind = kind_of((1, 1), padding, dilation)
    scale, bias = torch.rand(filters, 1, 1) * 2e-3, torch.randn(filters, 1, 1)
    y = torch.nn.functional.conv2d(x.float(), w.float(), None, 1, padding, dilation)
    check_cuda_tactic(
        f"convolution.patch.wgmma_{blocks}", kind,
        [x, w, scale, bias, integers(*y.shape, seed=2)], QUANTIZED,
        constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=2e-3,
    )


@pytest.mark.parametrize(
    ("case", "dtype"), [("3x3", torch.float16), ("3x3", torch.bfloat16), ("dilated", torch.float16)]
)
def test_floats(cuda_device, case: str, dtype: torch.dtype) -> None:
    shape, filters, window, padding, dilation = DEEP[case]
    x, w = values(*shape, dtype=dtype), values(filters, shape[1], *window, dtype=dtype, seed=1)
    x[0, 3, 2, 4] = torch.inf  # stays where it is
    bias = torch.randn(filters, 1, 1)
    y = torch.nn.functional.conv2d(x.float(), w.float(), None, 1, padding, dilation)
    residual = values(*y.shape, dtype=dtype, seed=2)
    check_cuda_tactic(
        "convolution.patch.wgmma_2", kind_of((1, 1), padding, dilation), [x, w, bias, residual],
        RESIDUAL, constants=[1, 2],
    )


# x, filters, window, stride, padding
STEMS = {
    "7x7": ((2, 3, 20, 24), 64, (7, 7), (2, 2), (3, 3)),
    "3x3": ((1, 3, 17, 28), 32, (3, 3), (2, 2), (1, 1)),
    "4-channels": ((1, 4, 9, 16), 24, (5, 5), (2, 2), (2, 2)),
    "1-channel": ((1, 1, 12, 20), 32, (3, 5), (1, 2), (0, 1)),
    "4x4": ((1, 3, 16, 32), 96, (4, 4), (4, 4), (0, 0)),
}


@pytest.mark.parametrize(("case", "blocks"), [("3x3", 3), *((c, 1) for c in STEMS)])
def test_stems_of_bytes(cuda_device, case: str, blocks: int) -> None:
    shape, filters, window, stride, padding = STEMS[case]
    x, w = integers(*shape), integers(filters, shape[1], *window, seed=1)
    scale, bias = torch.rand(filters, 1, 1) * 4e-3, torch.randn(filters, 1, 1)
    check_cuda_tactic(
        f"convolution.patch.wgmma_{blocks}", kind_of(stride, padding, 1), [x, w, scale, bias],
        STORED, constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=2e-3,
        layouts=2 if shape[1] in (3, 4) else 1,
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "blocks"), [  # three times 73 KB of weights do not fit
    (torch.float16, 1), (torch.float16, 2), (torch.int8, 1), (torch.int8, 2), (torch.int8, 3)
])
def test_many_tiles_on_a_gpu(dtype: torch.dtype, blocks: int) -> None:
    name, kind = f"convolution.patch.wgmma_{blocks}", kind_of((1, 1), (1, 1), 1)
    bias = torch.randn(64, 1, 1)
    with cuda_testing.testing_on(cuda_testing.real_gpu()):
        if dtype is torch.float16:
            inputs = [values(21, 64, 56, 56), values(64, 64, 3, 3, seed=1), bias]
            check_cuda_tactic(name, kind, inputs, "relu(add(i0,i1))", constants=[1, 2])
            return
        scale = torch.rand(64, 1, 1) * 2e-3
        check_cuda_tactic(
            name, kind, [integers(21, 64, 56, 56), integers(64, 64, 3, 3, seed=1), scale, bias],
            STORED, constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=1e-3,
        )
        check_cuda_tactic(
            name, kind_of((2, 2), (3, 3), 1),
            [integers(9, 3, 224, 224), integers(64, 3, 7, 7, seed=1), scale, bias],
            STORED, constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=1e-3, layouts=2,
        )


def shape_of(channels: int, size: int, window: int, stride: int, item: int) -> ConvolutionShape:
    result, type = size // stride, "i8" if item == 1 else "f16"
    x = (size * size * channels, 1, 0, size * channels, channels)
    y = (result * result * 64, 1, 0, result * 64, 64)
    return ConvolutionShape(
        64, channels, 64, 1, (1, size, size), (1, result, result), (1, window, window),
        (1, stride, stride), (0, window // 2, window // 2), (1, 1, 1), Operand(type, item, x),
        Operand(type, item, y), (), "t2r_relu(i0)",
    )


SHAPES = {
    "deep bytes": (shape_of(64, 56, 3, 1, 1), "i8"), "deep": (shape_of(64, 56, 3, 1, 2), "f16"),
    "stem": (shape_of(3, 224, 7, 2, 1), "i8"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_sources_compile(shape: str) -> None:
    plan = plan_sm90_patch(*SHAPES[shape], 227 * 1024, 1, 132)
    assert plan is not None
    assert compile_cubin(sm90_patch_source(plan), NAME, "sm_90a")


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_plans_waste_little_and_fit(shape: str, blocks: int) -> None:
    room = 228 * 1024 // blocks - 1024
    plan = plan_sm90_patch(*SHAPES[shape], room, blocks, 132)
    if plan is None:
        assert (shape, blocks) == ("deep", 3)  # the weights alone are 73 KB
        return
    assert plan.shared_bytes <= room
    pixels = plan.shape.result[1] * plan.shape.result[2] * plan.shape.batch
    made = plan.tiles[0] * plan.tiles[1] * plan.tiles[2] * plan.copies * plan.products * 64
    assert made <= 1.2 * pixels


def test_it_refuses_what_lies_apart(cuda_device) -> None:
    name, plain = "convolution.patch.wgmma_2", kind_of((1, 1), (1, 1), 1)
    strided = kind_of((2, 2), (1, 1), 1)
    stored = "to_int8(clamp(round(to_float32(i0)),-128.0,127.0))"
    for kind, x, w, reason in (
        (plain, integers(1, 64, 9, 9), integers(160, 64, 3, 3), "more than 128 filters"),
        (plain, integers(1, 40, 9, 9), integers(32, 40, 3, 3), "pixels of 40 bytes"),
        (plain, integers(1, 64, 9, 9), integers(32, 64, 1, 1), "window of one pixel"),
        (strided, integers(1, 64, 9, 9), integers(32, 64, 3, 3), "a stride"),
        (strided, integers(1, 3, 9, 9), integers(32, 3, 3, 3), "not in fours"),
        (plain, integers(1, 3, 8, 8), integers(32, 3, 3, 3), "a stride other than 2 and 4"),
    ):
        assert_refused(name, kind, [x, w], stored, reason=reason, constants=[1],
                       out_dtype=DType.INT8)
    assert_refused(
        name, strided, [values(1, 3, 8, 8), values(32, 3, 3, 3)], reason="other than bytes",
        constants=[1],
    )


class Ampere(EmulatedDevice):
    capability = (8, 0)


def test_other_gpus_are_refused() -> None:
    tactic = find_tactic(cuda_testing.TACTICS, "convolution.patch.wgmma_1")
    spec = cuda_spec(
        kind_of((1, 1), (1, 1), 1), [integers(1, 64, 9, 9), integers(32, 64, 3, 3)], None, [1]
    )
    with preparing_for(Ampere()):
        refusal = tactic.supports(spec)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "wgmma needs sm_90"
