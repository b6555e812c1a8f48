"""Our kernels over bytes compile for every architecture, at the sizes of known networks."""

from __future__ import annotations

import pytest
import torch
from cuda_compile import compile_for_all, tactic_source
from cuda_testing import cuda_spec

from torch2rt.backends.spec import LayerSpec
from torch2rt.expression import parse_expression
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.pool import Pool
from torch2rt.network.dtype import DType
from torch2rt.torch_values import constant_from_torch

SUM = "relu(add(mul(to_float32(i0),i1),i2))"


def requantized(text: str) -> str:
    return f"to_int8(clamp(round(mul({text},20.0)),-128.0,127.0))"


def compiles(name: str, spec: LayerSpec, inputs: list[torch.Tensor]) -> None:
    arrays = {
        constant: constant_from_torch(inputs[index])[0]
        for index, constant in enumerate(spec.constants) if constant is not None
    }
    compile_for_all(tactic_source(name, spec, arrays), name)


@pytest.mark.parametrize(("name", "x", "filters", "size", "stride", "groups"), [
    ("stem_64", (1, 3, 224, 224), 64, 7, 2, 1),
    ("grouped_64", (1, 512, 14, 14), 512, 3, 1, 32),
    ("depthwise_1x1", (1, 960, 7, 7), 960, 3, 1, 960),
    ("direct", (8, 7, 14, 14), 24, 3, 1, 1),
])
def test_convolutions_of_bytes_compile(
    name: str, x: tuple[int, ...], filters: int, size: int, stride: int, groups: int
) -> None:
    kind = Convolution((stride,) * 2, (size // 2,) * 2, (size // 2,) * 2, (1, 1), groups)
    inputs = [torch.empty(x, dtype=torch.int8, device="meta"),
              torch.ones(filters, x[1] // groups, size, size, dtype=torch.int8),
              torch.ones(filters, 1, 1), torch.ones(filters, 1, 1)]
    spec = cuda_spec(kind, inputs, requantized(SUM), [1, 2, 3], DType.INT8)
    compiles(f"convolution.cuda.{name}", spec, inputs)


def test_stems_that_write_bytes_compile() -> None:
    kind = Convolution((2, 2), (3, 3), (3, 3), (1, 1))
    inputs = [torch.empty(1, 3, 224, 224, dtype=torch.float16, device="meta"),
              torch.ones(64, 3, 7, 7, dtype=torch.float16), torch.ones(64, 1, 1)]
    spec = cuda_spec(kind, inputs, requantized("relu(add(i0,i1))"), [1, 2], DType.INT8)
    compiles("convolution.cuda.stem_64", spec, inputs)


def test_max_pools_of_bytes_compile() -> None:
    kind = Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    inputs = [torch.empty(64, 64, 112, 112, dtype=torch.int8, device="meta")]
    compiles("pool.cuda.direct", cuda_spec(kind, inputs), inputs)


def test_quantizing_an_image_compiles() -> None:
    kind = Pointwise(parse_expression(requantized("to_float32(i0)")), DType.INT8)
    inputs = [torch.empty(8, 16, 64, 64, dtype=torch.float16, device="meta")]
    compiles("pointwise.cuda.vector", cuda_spec(kind, inputs), inputs)


@pytest.mark.parametrize(("text", "source", "dtype"), [
    ("to_float8_e4m3fn(mul(i0,2.0))", torch.float16, DType.FLOAT8_E4M3),
    ("mul(i0,2.0)", torch.float8_e4m3fn, DType.FLOAT16),
])
def test_float8_compiles(text: str, source: torch.dtype, dtype: DType) -> None:
    inputs = [torch.empty(64, 64, dtype=source, device="meta")]
    kind = Pointwise(parse_expression(text), dtype)
    compiles("pointwise.cuda.vector", cuda_spec(kind, inputs), inputs)
