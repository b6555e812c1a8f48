"""Contractions of 8-bit integers: exact int32 sums, against int64 arithmetic of numpy."""

import numpy as np
import pytest
import torch

from torch2rt.layers.accumulator import accumulator_dtype
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType
from torch2rt.network.text import parse, text

WINDOW = Convolution((2, 2), (1, 1), (1, 0), (1, 1), 2)


def full_range(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape, dtype=torch.int64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("k", [5, 5000])
def test_products_are_exact(dtype: torch.dtype, k: int) -> None:
    a, b = full_range(dtype, 2, 3, k), full_range(torch.int8, 4, k)
    (got,) = Matmul(transpose_b=True).reference([a, b])
    assert got.dtype == torch.int32
    np.testing.assert_array_equal(got.numpy(), a.long().numpy() @ b.long().numpy().T)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_largest_sums_are_exact(dtype: torch.dtype) -> None:
    most = 255 if dtype == torch.uint8 else -128
    a = torch.full((1, 4099), most, dtype=torch.int64).to(dtype)
    a[0, 0] = 1  # an odd sum, which a float32 beyond 2^24 does not hold
    b = torch.full((4099, 1), -127, dtype=torch.int8)
    (got,) = Matmul().reference([a, b])
    assert got.item() == (most * 4098 + 1) * -127


@pytest.mark.parametrize("channels", [4, 600])
def test_convolutions_are_exact(channels: int) -> None:
    x = full_range(torch.uint8, 1, channels, 5, 6)
    w = full_range(torch.int8, 6, channels // 2, 3, 3)
    (got,) = WINDOW.reference([x, w])
    (want,) = WINDOW.reference([x.double(), w.double()])
    assert got.dtype == torch.int32
    torch.testing.assert_close(got, want.to(torch.int32), rtol=0, atol=0)
    types = [TensorType(tuple(t.shape), DType(str(t.dtype)[6:])) for t in (x, w)]
    assert WINDOW.infer(types) == (TensorType(tuple(got.shape), DType.INT32),)


def test_accumulators() -> None:
    assert accumulator_dtype(DType.UINT8, DType.INT8) is DType.INT32
    assert accumulator_dtype(DType.INT8, DType.INT8) is DType.INT32
    assert accumulator_dtype(DType.FLOAT8_E4M3, DType.FLOAT8_E4M3) is DType.FLOAT32
    assert accumulator_dtype(DType.FLOAT16, DType.FLOAT16) is DType.FLOAT16
    assert accumulator_dtype(DType.INT64, DType.INT64) is DType.INT64
    with pytest.raises(ValueError, match="dtypes int8 and float16 differ"):
        accumulator_dtype(DType.INT8, DType.FLOAT16)


def test_text_of_a_folded_layer_is_read_back() -> None:
    network = Network("folded")
    x = network.add_input("x", TensorType((symbol("s0"), 4, 5, 6), DType.INT8))
    network.symbols["s0"] = (1, 8)
    w = network.add_constant("w", np.ones((6, 2, 3, 3), np.int8))
    s = network.add_constant("s", np.ones((6, 1, 1), np.float32))
    folded = parse(
        text(network) + '%y = convolution(%x, @w, @s) {"stride":[2,2],"padding_before":[1,1],'
        '"padding_after":[1,0],"dilation":[1,1],"groups":2} epilogue '
        "to_int8(clamp(round(mul(to_float32(i0),i1)),-128.0,127.0)) -> int8[s0,6,3,3]\n"
        "output y = %y\n", {"w": w.data, "s": s.data},
    )
    assert x.name in folded.inputs
    assert text(parse(text(folded), {"w": w.data, "s": s.data})) == text(folded)
    assert folded.outputs["y"].type == TensorType((symbol("s0"), 6, 3, 3), DType.INT8)
