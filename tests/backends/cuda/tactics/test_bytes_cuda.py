"""Our CUDA C++ kernels over bytes, and those that write bytes, against the reference."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic

from torch2rt.backends.cuda.cpp.convolution import depthwise, patch
from torch2rt.expression import parse_expression
from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.pool import Pool
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.usefixtures("cuda_device")
# So many bytes may be one off on a GPU, which joins products and sums.
FLIPS = 2e-3
SUM = "add(mul(to_float32(i0),i1),i2)"
RESIDUAL = f"relu(add({SUM},mul(to_float32(i3),0.02)))"


def bytes_of(x: str) -> str:
    return f"to_int8(clamp(round(mul({x},30.0)),-128.0,127.0))"


@pytest.fixture(autouse=True)
def _any_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "_FEW_BLOCKS", 0)
    monkeypatch.setattr(depthwise, "_FEW_THREADS", 0)


def window(size: int, stride: int = 1, groups: int = 1) -> Convolution:
    return Convolution((stride,) * 2, (size // 2,) * 2, (size // 2,) * 2, (1, 1), groups)


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def whole(*shape: int, low: int = -128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, 128, shape, generator=generator, dtype=torch.int8)


def operands(
    x: Sequence[int], w: Sequence[int], residual: Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Image, weight, scales, bias and, with its shape, a residual."""
    terms = w[1] * w[2] * w[3]
    scale = (0.5 + floats(w[0], 1, 1).abs()) / (terms**0.5 * 74 * 74)
    inputs = [whole(*x), whole(*w, low=-127), scale, floats(w[0], 1, 1)]
    return inputs if residual is None else [*inputs, whole(*residual)]


def test_stems_of_floats_write_bytes() -> None:
    weight = floats(64, 3, 7, 7, dtype=torch.float16) / 12
    check_cuda_tactic(
        "convolution.cuda.stem_64", window(7, 2),
        [floats(2, 3, 24, 32, dtype=torch.float16), weight, floats(64, 1, 1)],
        bytes_of("relu(add(i0,i1))"), constants=[1, 2], out_dtype=DType.INT8, layouts=2,
        tolerance=FLIPS,
    )


@pytest.mark.parametrize("name", ["stem_128"])
def test_stems_of_bytes(name: str) -> None:
    check_cuda_tactic(
        f"convolution.cuda.{name}", window(3, 2), operands((2, 3, 24, 32), (24, 3, 3, 3)),
        bytes_of(f"relu({SUM})"), constants=[1, 2, 3], out_dtype=DType.INT8, layouts=2,
        tolerance=FLIPS,
    )


@pytest.mark.parametrize(("channels", "size", "stride", "filters"), [
    (1, 5, 1, 16), (3, 7, 2, 64), (6, 3, 2, 40),
])
def test_windows_of_stems_of_bytes(channels: int, size: int, stride: int, filters: int) -> None:
    inputs = operands((1, channels, 18, 24), (filters, channels, size, size))
    check_cuda_tactic(
        "convolution.cuda.stem_64", window(size, stride), inputs, bytes_of(SUM),
        constants=[1, 2, 3], out_dtype=DType.INT8, layouts=2, tolerance=FLIPS,
    )


def test_grouped_bytes() -> None:
    check_cuda_tactic(
        "convolution.cuda.grouped_64", window(3, groups=2),
        operands((1, 32, 9, 8), (32, 16, 3, 3), (1, 32, 9, 8)), bytes_of(RESIDUAL),
        constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=FLIPS,
    )


def test_small_groups_of_bytes() -> None:
    check_cuda_tactic(
        "convolution.cuda.grouped", window(3, groups=4),
        operands((1, 16, 6, 8), (16, 4, 3, 3)), bytes_of(f"relu({SUM})"),
        constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=FLIPS,
    )


@pytest.mark.parametrize(("tile", "stride"), [
    ("1x1", 1), ("2x2", 2), ("2x4", 1), ("4x4", 2), ("2x7", 1),
])
def test_depthwise_bytes(tile: str, stride: int) -> None:
    check_cuda_tactic(
        f"convolution.cuda.depthwise_{tile}", window(3, stride, 24),
        operands((2, 24, 13, 14), (24, 1, 3, 3)), bytes_of(f"clamp({SUM},0.0,6.0)"),
        constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=FLIPS,
    )


def test_depthwise_bytes_to_halves() -> None:
    check_cuda_tactic(
        "convolution.cuda.depthwise_2x2", window(5, 1, 20),
        operands((1, 20, 6, 7), (20, 1, 5, 5), (1, 20, 6, 7)), RESIDUAL, constants=[1, 2, 3],
        out_dtype=DType.FLOAT16,
    )


@pytest.mark.parametrize("channels", [3, 10])
def test_any_convolution_of_bytes(channels: int) -> None:
    check_cuda_tactic(
        "convolution.cuda.direct", window(3), operands((1, channels, 5, 6), (7, channels, 3, 3)),
        bytes_of(SUM), constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=FLIPS,
    )


def test_long_sums_of_bytes_are_refused() -> None:
    assert_refused(
        "convolution.cuda.direct", window(3), operands((1, 128, 5, 6), (7, 128, 3, 3)), SUM,
        constants=[1, 2, 3], out_dtype=DType.FLOAT16, reason="sums of bytes that float32 rounds",
    )


@pytest.mark.parametrize(("epilogue", "out", "reason"), [
    ("to_float16(mul(i0,2))", DType.FLOAT16, "integers in"),
    (f"to_int8({SUM})", DType.INT8, "not rounded and clamped"),
])
def test_integers_that_are_no_floats_are_refused(epilogue: str, out: DType, reason: str) -> None:
    inputs = operands((1, 3, 5, 6), (7, 3, 3, 3))[: 4 if "i1" in epilogue else 2]
    constants = range(1, len(inputs))
    assert_refused("convolution.cuda.direct", window(3), inputs, epilogue,
                   constants=constants, out_dtype=out, reason=reason)


@pytest.mark.parametrize(("kernel", "stride", "before", "shape"), [
    (3, 2, 1, (2, 64, 9, 11)), (2, 2, 0, (1, 24, 6, 8)), (3, 1, 1, (1, 7, 5, 6)),
])
def test_max_pools_of_bytes(
    kernel: int, stride: int, before: int, shape: tuple[int, ...]
) -> None:
    kind = Pool("max", *((v,) * 2 for v in (kernel, stride, before, before, 1)))
    check_cuda_tactic("pool.cuda.direct", kind, [whole(*shape)], exact=True)


def test_means_that_are_written_as_bytes() -> None:
    check_cuda_tactic(
        "adaptive_pool.cuda.direct", AdaptivePool("mean", (1, 1)),
        [floats(2, 32, 7, 7, dtype=torch.float16)], bytes_of("mul(i0,4.0)"),
        out_dtype=DType.INT8, tolerance=0.05,
    )


@pytest.mark.parametrize("shape", [(2, 32, 6, 5), (3, 7, 5, 3), (2, 64)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_floats_become_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = floats(*shape, dtype=dtype) * 3
    kind = Pointwise(parse_expression(bytes_of("to_float32(i0)")), DType.INT8)
    check_cuda_tactic("pointwise.cuda.vector", kind, [x], tolerance=FLIPS)


def test_bytes_become_halves() -> None:
    kind = Pointwise(parse_expression("relu(add(mul(to_float32(i0),0.1),i1))"), DType.FLOAT16)
    check_cuda_tactic("pointwise.cuda.vector", kind, [whole(2, 48, 6, 5), floats(48, 1, 1)])


def test_sums_of_bytes() -> None:
    text = bytes_of("relu(add(mul(to_float32(i0),0.01),mul(to_float32(i1),0.02)))")
    kind = Pointwise(parse_expression(text), DType.INT8)
    inputs = [whole(2, 48, 6, 5), whole(2, 48, 6, 5).flip(0)]
    check_cuda_tactic("pointwise.cuda.vector", kind, inputs, tolerance=FLIPS)


def test_images_become_bytes_with_channels_last() -> None:
    kind = Pointwise(parse_expression(bytes_of("to_float32(i0)")), DType.INT8)
    check_cuda_tactic("pointwise.cuda.transpose", kind, [floats(2, 24, 9, 10)], tolerance=FLIPS)


def test_every_float8_is_read() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    for dtype in (DType.FLOAT32, DType.FLOAT16):
        kind = Pointwise(parse_expression("mul(i0,1.0)"), dtype)
        check_cuda_tactic("pointwise.cuda.vector", kind, [x], tolerance=0.0)


def test_floats_become_float8_as_torch_rounds_them() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = every[every.isfinite()].sort().values
    between = (every[1:] + every[:-1]) / 2
    beside = [between.nextafter(torch.tensor(v)) for v in (-torch.inf, torch.inf)]
    special = torch.tensor([448.0, 463.9, 464.0, 464.1, 1e30, torch.inf, torch.nan, 1e-9])
    x = torch.cat([every, between, *beside, special, -special, floats(1001)])
    kind = Pointwise(parse_expression("mul(i0,1.0)"), DType.FLOAT8_E4M3)
    check_cuda_tactic("pointwise.cuda.vector", kind, [x], tolerance=0.0)


def test_halves_are_quantized_to_float8() -> None:
    text = "to_float8_e4m3fn(clamp(mul(gelu(i0),20.0),-448.0,448.0))"
    kind = Pointwise(parse_expression(text), DType.FLOAT8_E4M3)
    check_cuda_tactic(
        "pointwise.cuda.vector", kind, [floats(3, 40, 24, dtype=torch.float16)], tolerance=0.07
    )
