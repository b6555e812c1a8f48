"""Contractions of 8-bit integers by oneDNN: each epilogue that quantization leaves, exactly."""

import pytest
import torch
from needs import ONEDNN
from tactic_testing import check_tactic

from torch2rt.backends.cpu.backend import onednn_unavailable
from torch2rt.backends.cpu.onednn import effective_isa
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

if onednn_unavailable() is not None:
    pytest.skip(ONEDNN, allow_module_level=True)

needs_vnni = pytest.mark.skipif(
    not effective_isa().startswith("avx512_core_") and "vnni" not in effective_isa(),
    reason="the CPU multiplies bytes in pairs of 16 bits",
)
# Of values rounded to 8 bits so many may fall to the other side of a boundary.
FLIPS = 2e-3
UNSIGNED, SIGNED = "to_uint8(clamp(round({}),0.0,255.0))", "to_int8(clamp(round({}),-128.0,127.0))"
STORED = {DType.UINT8: UNSIGNED, DType.INT8: SIGNED}


def stored(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape, dtype=torch.int64).to(dtype)


def weight(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int64).to(torch.int8)


def window(size: int, stride: int = 1, groups: int = 1) -> Convolution:
    half = (size // 2, size // 2)
    return Convolution((stride, stride), half, half, (1, 1), groups)


def scales(k: int, terms: int) -> torch.Tensor:
    return torch.rand(k, 1, 1) * 0.012 / terms**0.5 + 0.001 / terms**0.5


EPILOGUES = {
    "scale": "mul(to_float32(i0),i1)",
    "scale and bias": "add(mul(to_float32(i0),i1),i2)",
    "relu": "relu(add(mul(to_float32(i0),i1),i2))",
    "relu6 in few steps": "clamp(add(mul(to_float32(i0),i1),i2),0.0,100.25)",
    "hardswish": "mul(hardswish(mul(add(mul(to_float32(i0),i1),i2),0.04)),20.0)",
    "residual": "relu(add(add(mul(to_float32(i0),i1),i2),mul(to_float32(i3),0.731)))",
    "residual of one step": "add(add(mul(to_float32(i0),i1),i2),to_float32(i3))",
    "residual behind relu": "add(relu(add(mul(to_float32(i0),i1),i2)),mul(to_float32(i3),1.7))",
    "one scale": "add(mul(to_float32(i0),0.0007),i1)",
}


@pytest.mark.parametrize("target", [DType.UINT8, DType.INT8, DType.FLOAT32])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(epilogue: str, target: DType) -> None:
    expression = EPILOGUES[epilogue]
    constants = [scales(32, 144), torch.randn(32, 1, 1) * 20]
    if epilogue == "one scale":
        constants = constants[1:]
    residuals = [stored(torch.int8, 2, 32, 9, 7)] if "i3" in expression else []
    count = max(int(part[0]) for part in expression.split("i")[1:] if part[:1].isdigit())
    operands = [*constants, *residuals][:count]
    check_tactic(
        "convolution.onednn.direct", window(3), [stored(torch.uint8, 2, 16, 9, 7),
                                                weight(32, 16, 3, 3), *operands],
        STORED.get(target, "{}").format(expression), out_dtype=target,
        constants=[1, *range(2, 2 + min(len(constants), count))],
        tolerance=FLIPS if not target.is_float else None,
    )


def test_a_zero_point_is_added_behind_the_rounding() -> None:
    check_tactic(
        "convolution.onednn.direct", window(3),
        [stored(torch.uint8, 2, 16, 9, 7), weight(32, 16, 3, 3), scales(32, 144),
         torch.randn(32, 1, 1) * 20],
        "to_uint8(clamp(add(round(add(mul(to_float32(i0),i1),i2)),61.0),0.0,127.0))",
        out_dtype=DType.UINT8, constants=[1, 2, 3], tolerance=FLIPS,
    )


def test_what_is_added_to_a_rounded_value_must_be_whole() -> None:
    inputs = [stored(torch.uint8, 1, 16, 4, 4), weight(16, 16, 1, 1)]
    with pytest.raises(AssertionError, match="uint8 that is not rounded and clamped"):
        check_tactic(
            "convolution.onednn.direct", window(1), inputs,
            "to_uint8(clamp(add(round(mul(to_float32(i0),0.01)),0.5),0.0,255.0))",
            out_dtype=DType.UINT8, constants=[1],
        )


SHAPES = [
    (64, 64, 1, 1, 1), (64, 128, 1, 2, 1), (3, 32, 7, 2, 1), (40, 24, 3, 1, 1),
    (32, 32, 3, 1, 32), (48, 48, 5, 2, 48), (32, 48, 3, 1, 2), (20, 30, 3, 1, 5),
]


@pytest.mark.parametrize("source", [torch.uint8, torch.int8])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(source: torch.dtype, shape: tuple[int, ...]) -> None:
    check_shape("convolution.onednn.direct", source, *shape)


@needs_vnni
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[3], SHAPES[4]])
def test_second_implementations(shape: tuple[int, ...]) -> None:
    check_shape("convolution.onednn.second", torch.uint8, *shape)


def check_shape(
    name: str, source: torch.dtype, channels: int, k: int, size: int, stride: int, groups: int
) -> None:
    w = weight(k, channels // groups, size, size)
    inputs = [stored(source, 1, channels, 14, 15), w, scales(k, w[0].numel()), torch.randn(k, 1, 1)]
    check_tactic(
        name, window(size, stride, groups), inputs, SIGNED.format(EPILOGUES["scale and bias"]),
        constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=FLIPS,
    )


@needs_vnni
def test_a_second_implementation_that_saturates_is_refused() -> None:
    with pytest.raises(AssertionError, match="sums pairs of bytes in 16 bits"):
        check_shape("convolution.onednn.second", torch.int8, *SHAPES[4])


@pytest.mark.parametrize("residual", [torch.uint8, torch.int8])
def test_a_residual_is_added_in_place(residual: torch.dtype) -> None:
    inputs = [
        stored(torch.uint8, 1, 64, 8, 8), weight(64, 64, 1, 1), scales(64, 64),
        torch.randn(64, 1, 1), stored(residual, 1, 64, 8, 8),
    ]
    made = check_tactic(
        "convolution.onednn.direct", window(1), inputs, UNSIGNED.format(EPILOGUES["residual"]),
        constants=[1, 2, 3], out_dtype=DType.UINT8, tolerance=FLIPS,
    )
    assert made[0].may_overwrite == (4,)
    assert len(made[0].steps) == 1


@pytest.mark.parametrize("name", ["matmul.onednn.packed", "matmul.onednn.inner_product"])
@pytest.mark.parametrize("source", [torch.uint8, torch.int8])
@pytest.mark.parametrize("shape", [(1, 512), (3, 40), (2, 5, 48)])
def test_products(name: str, source: torch.dtype, shape: tuple[int, ...]) -> None:
    k = shape[-1]
    inputs = [
        stored(source, *shape), weight(70, k), scales(70, k).reshape(70), torch.randn(70) * 20,
    ]
    for target in (DType.FLOAT32, DType.INT8):
        check_tactic(
            name, Matmul(transpose_b=True), inputs,
            STORED.get(target, "{}").format(EPILOGUES["scale and bias"]),
            constants=[1, 2, 3], out_dtype=target, tolerance=None if target.is_float else FLIPS,
        )


def test_sums_are_stored_as_they_are() -> None:
    inputs = [stored(torch.uint8, 1, 24, 6, 6), weight(16, 24, 3, 3)]
    check_tactic("convolution.onednn.direct", window(3), inputs, constants=[1], exact=True)


def test_unsigned_weights_are_refused() -> None:
    with pytest.raises(AssertionError, match="weights of 8 bits are signed"):
        check_tactic(
            "convolution.onednn.direct", window(1),
            [stored(torch.int8, 1, 8, 4, 4), stored(torch.uint8, 8, 8, 1, 1)], constants=[1],
        )
