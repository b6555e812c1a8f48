"""Products on Hopper's tensor cores: on a GPU against the reference, elsewhere compiled."""

from __future__ import annotations

import cuda_testing
import pytest
import torch
from cuda_emulator import EmulatedDevice
from cuda_testing import check_cuda_tactic, cuda_spec, real_gpu
from tactic_testing import DictWeights

from torch2rt.backends.backend import find_tactic, find_tactics
from torch2rt.backends.cuda.cpp import sm90_products
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.nvrtc import compile_cubin
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.kernels.cuda.sm90_product import product_source
from torch2rt.kernels.cuda.sm90_product_form import Operand, ProductForm, Taps
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType
from torch2rt.torch_values import constant_from_torch

WIDTHS = [f"tile_128x{width}" for width in sm90_products.WIDTHS]
BIAS, RESIDUAL = "gelu(add(i0,i1))", "relu(add(add(i0,i1),i2))"
POINTWISE = Convolution((1, 1), (0, 0), (0, 0), (1, 1))
FLOAT8_SUM = "add(mul(i0,i1),i2)"
# What is rounded to float8 may fall to either side: a step of the largest numbers, 32 of 448.
FLOAT8_STEP = 32 / 448 + 1e-3
QUANTIZED = "to_int8(clamp(round(mul(add(mul(to_float32(i0),i1),i2),0.5)),-128.0,127.0))"


def values(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)


SHAPES = {
    # rows, columns, k: whole tiles; odd tiles; parts of tiles; many rounds; one step; a k in parts.
    "even": (1024, 768, 256), "odd-tiles": (384, 384, 512), "parts": (1000, 584, 200),
    "rounds": (9000, 1536, 128), "short": (300, 200, 64), "thin": (70, 1000, 768),
    "long": (256, 384, 4096), "half-step": (500, 328, 32),
}


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(width: str, shape: str) -> None:
    m, n, k = SHAPES[shape]
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(
            f"matmul.wgmma.{width}", Matmul(transpose_b=True), [values(m, k), values(n, k, seed=1)],
            constants=[1],
        )


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_pitched", [False, True])
def test_epilogues(width: str, dtype: torch.dtype, is_pitched: bool) -> None:
    x, w = values(5, 197, 768, dtype=dtype), values(768, 1544, dtype=dtype, seed=1)
    bias, residual = torch.randn(1544), values(5, 197, 1544, dtype=dtype, seed=2)
    name = f"matmul.wgmma.{width}"
    pitched = {"i0": 1, "o0": 1} if is_pitched else None
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(name, Matmul(), [x, w, bias], BIAS, constants=[1, 2], pitched=pitched)
        check_cuda_tactic(
            name, Matmul(), [x, w, bias, residual], RESIDUAL, constants=[1, 2],
            pitched={**pitched, "i3": 1} if pitched else None,
        )
        check_cuda_tactic(
            name, Matmul(), [x, w, torch.tensor([0.5]).to(dtype)], "mul(i0,i1)", constants=[1]
        )


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
def test_convolutions(width: str) -> None:
    x, w = values(6, 256, 14, 14), values(520, 256, 1, 1, seed=1)
    bias, residual = torch.randn(520, 1, 1), values(6, 520, 14, 14, seed=2)
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(
            f"convolution.wgmma.{width}", POINTWISE, [x, w, bias, residual], RESIDUAL,
            constants=[1, 2], pitched={"i0": 1, "i3": 1, "o0": 1},
        )


WINDOWS = {
    # x, w, stride, padding, dilation
    "3x3": ((2, 64, 14, 14), (128, 64, 3, 3), 1, 1, 1),
    "many": ((20, 144, 28, 28), (272, 144, 3, 3), 1, 1, 1),
    "stride": ((3, 64, 27, 30), (192, 64, 3, 3), 2, 1, 1),
    "1x1-stride": ((3, 256, 28, 28), (512, 256, 1, 1), 2, 0, 1),
    "5x5": ((2, 48, 17, 13), (64, 48, 5, 5), 1, 2, 1),
    "dilated": ((2, 64, 20, 20), (96, 64, 3, 3), 1, 2, 2),
    "valid": ((2, 80, 16, 20), (64, 80, 3, 3), 1, 0, 1),
    "7x7": ((2, 16, 33, 31), (64, 16, 7, 7), 2, 3, 1),
    "narrow": ((9, 64, 30, 30), (64, 64, 3, 3), 1, 1, 1),
    "3-halves": ((3, 96, 15, 15), (80, 96, 3, 3), 1, 1, 1),
}


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_windows(width: str, window: str, dtype: torch.dtype) -> None:
    x_shape, w_shape, stride, padding, dilation = WINDOWS[window]
    kind = Convolution((stride,) * 2, (padding,) * 2, (padding,) * 2, (dilation,) * 2)
    name = f"convolution.wgmma.{width}"
    y = torch.nn.functional.conv2d(
        torch.empty(x_shape, device="meta"), torch.empty(w_shape, device="meta"), None, stride,
        padding, dilation,
    )
    bias = torch.randn(w_shape[0], 1, 1)
    with cuda_testing.testing_on(real_gpu()):
        if dtype is torch.float16:
            residual = values(*y.shape, seed=2)
            inputs = [values(*x_shape), values(*w_shape, seed=1), bias, residual]
            check_cuda_tactic(name, kind, inputs, RESIDUAL, constants=[1, 2])
            check_cuda_tactic(name, kind, inputs[:3], "relu(add(i0,i1))", constants=[1, 2],
                              pitched={"i0": 1, "o0": 1})
            return
        scale = torch.rand(w_shape[0], 1, 1) * 2e-3
        inputs = [integers(*x_shape), integers(*w_shape, seed=1), scale, bias]
        check_cuda_tactic(
            name, kind, [*inputs, integers(*y.shape, seed=2)],
            "to_int8(clamp(round(mul(relu(add(add(mul(to_float32(i0),i1),i2),"
            "mul(to_float32(i3),0.25))),0.5)),-128.0,127.0))",
            constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=1e-3,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", ["even", "parts", "rounds", "long", "half-step"])
def test_integers(width: str, shape: str) -> None:
    m, n, k = SHAPES[shape]
    k = k - k % 16
    n = n - n % 16
    x, w = integers(m, k), integers(n, k, seed=1)
    scale = torch.rand(n) * 40 / (127 * k**0.5 * 20)
    bias = torch.randn(n)
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(
            f"matmul.wgmma.{width}", Matmul(transpose_b=True), [x, w, scale, bias],
            "add(mul(to_float32(i0),i1),i2)", constants=[1, 2, 3], out_dtype=DType.FLOAT16,
        )
        check_cuda_tactic(
            f"matmul.wgmma.{width}", Matmul(transpose_b=True), [x, w, scale, bias], QUANTIZED,
            constants=[1, 2, 3], out_dtype=DType.INT8, tolerance=1e-3,
        )


def float8s(*shape: int, seed: int = 0) -> torch.Tensor:
    return (values(*shape, seed=seed).float() * 80).clamp(-448, 448).to(torch.float8_e4m3fn)


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", ["even", "parts", "rounds", "long", "half-step"])
def test_float8(width: str, shape: str) -> None:
    m, n, k = SHAPES[shape]
    n, k = n - n % 16, k - k % 16
    inputs = [float8s(m, k), float8s(n, k, seed=1), torch.rand(n) / k**0.5 / 1e4, torch.randn(n)]
    name, kind = f"matmul.wgmma.{width}", Matmul(transpose_b=True)
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(
            name, kind, [*inputs, values(m, n, seed=2)], f"add({FLOAT8_SUM},i3)",
            constants=[1, 2, 3], out_dtype=DType.FLOAT16, tolerance=6e-3,
        )
        check_cuda_tactic(
            name, kind, inputs, f"clamp(mul(gelu({FLOAT8_SUM}),100.0),-448.0,448.0)",
            constants=[1, 2, 3], out_dtype=DType.FLOAT8_E4M3, tolerance=FLOAT8_STEP,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("width", WIDTHS)
def test_float8_saturates(width: str) -> None:
    x, w = float8s(256, 64), float8s(64, 64, seed=1)
    x[0, 0], x[1, 0] = torch.nan, 448
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(
            f"matmul.wgmma.{width}", Matmul(transpose_b=True), [x, w], "clamp(i0,-448.0,448.0)",
            constants=[1], out_dtype=DType.FLOAT8_E4M3, tolerance=FLOAT8_STEP,
        )


@pytest.mark.gpu
def test_sums_of_float8_of_one_sign_are_within_the_bound() -> None:
    x, w = torch.rand(256, 2048), torch.rand(256, 2048)
    inputs = [(448 * part).to(torch.float8_e4m3fn) for part in (x, w)]
    with cuda_testing.testing_on(real_gpu()):
        check_cuda_tactic(
            "matmul.wgmma.tile_128x128", Matmul(transpose_b=True), inputs, "mul(i0,1e-6)",
            constants=[1], out_dtype=DType.FLOAT16, tolerance=6e-2,
        )


TAPS = Taps((3, 3), (2, 2), (1, 1), (1, 1), (14, 14), 2)
FORMS = [
    ProductForm(
        DType.FLOAT16, DType.FLOAT16, 192, 128, 3, True, False, False,
        (Operand("column", DType.FLOAT32),), "t2r_gelu_16(i0 + i1)",
    ),
    ProductForm(
        DType.BFLOAT16, DType.BFLOAT16, 128, 128, 4, False, True, True,
        (Operand("column", DType.FLOAT32), Operand("matrix", DType.BFLOAT16)),
        "t2r_relu(i0 + i1 + i2)",
    ),
    ProductForm(
        DType.INT8, DType.INT8, 192, 128, 4, False, False, True,
        (Operand("column", DType.FLOAT32), Operand("staged", DType.INT8),
         Operand("scalar", DType.FLOAT32)),
        "(i8)(i32)rint(t2r_clamp((float)i0 * i1 + i2 * i3, -128.0f, 127.0f))", TAPS,
    ),
    ProductForm(
        DType.INT8, DType.INT8, 64, 64, 4, True, True, True,
        (Operand("column", DType.FLOAT32), Operand("staged", DType.INT8)),
        "(i8)(i32)rint(t2r_clamp((float)i0 * i1 + i2, -128.0f, 127.0f))", TAPS,
    ),
    ProductForm(
        DType.FLOAT8_E4M3, DType.FLOAT8_E4M3, 192, 128, 4, True, False, True,
        (Operand("column", DType.FLOAT32), Operand("column", DType.FLOAT32)),
        "t2r_gelu_16(i0 * i1 + i2) * 3.0f",
    ),
    ProductForm(
        DType.FLOAT8_E4M3, DType.BFLOAT16, 128, 128, 4, False, True, True,
        (Operand("column", DType.FLOAT32), Operand("staged", DType.BFLOAT16)), "i0 * i1 + i2",
    ),
    ProductForm(
        DType.FLOAT16, DType.FLOAT8_E4M3, 64, 64, 4, False, False, False, (), "i0", TAPS,
    ),
]


@pytest.mark.parametrize("form", FORMS)
def test_sources_compile(form: ProductForm) -> None:
    assert compile_cubin(product_source(form), "t2r_product", "sm_90a")
    assert form.shared_bytes <= 227 * 1024


class Ampere(EmulatedDevice):
    capability = (8, 0)


@pytest.fixture
def hopper():
    with preparing_for(EmulatedDevice()):
        yield


def test_it_takes_products_by_constants(hopper: None) -> None:
    tactic = find_tactic(cuda_testing.TACTICS, "matmul.wgmma.tile_128x192")
    x, w, bias = values(256, 768), values(768, 384), torch.randn(384)
    assert tactic.supports(cuda_spec(Matmul(), [x, w, bias], BIAS, [1, 2])) is None
    for inputs, constants, reason in (
        ([x, w], (), "not constant"), ([x[:9], w], (1,), "too small"),
        ([x.float(), w.float()], (1,), "float32"),
    ):
        refusal = tactic.supports(cuda_spec(Matmul(), inputs, None, constants))
        assert isinstance(refusal, Refusal)
        assert reason in refusal.reason


def prepared_source(inputs: list[torch.Tensor], epilogue: str, out_dtype: DType) -> str:
    """The kernel of a product whose operands but the first are constants."""
    tactic = find_tactic(cuda_testing.TACTICS, "matmul.wgmma.tile_128x128")
    constants = range(1, len(inputs))
    spec = cuda_spec(Matmul(transpose_b=True), inputs, epilogue, constants, out_dtype)
    assert tactic.supports(spec) is None
    arrays = {f"c{i}": constant_from_torch(inputs[i])[0] for i in constants}
    sources: list[str] = []

    def remember(_: object, name: str, source: str, shared_bytes: int) -> None:
        sources.append(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sm90_products, "cpp_kernel", remember)
        tactic.prepare(spec, DictWeights(arrays))
    return sources[0]


def test_products_of_float8(hopper: None) -> None:
    inputs = [float8s(256, 768), float8s(384, 768, seed=1), torch.rand(384), torch.randn(384)]
    saturated = f"clamp(mul({FLOAT8_SUM},2.0),-448.0,448.0)"
    source = prepared_source(inputs, saturated, DType.FLOAT8_E4M3)
    assert "k32.f32.e4m3.e4m3" in source
    # Storing saturates by itself.
    assert "return (((i0 * i1) + i2) * 2.0f);" in source
    assert "t2r_clamp((" in prepared_source(inputs, saturated, DType.FLOAT16)
    narrower = f"clamp({FLOAT8_SUM},-448.0,8.0)"
    assert "t2r_clamp((" in prepared_source(inputs, narrower, DType.FLOAT8_E4M3)
    assert compile_cubin(source, "t2r_product", "sm_90a")


def test_weights_of_one_sign_are_left_to_others(hopper: None) -> None:
    inputs = [float8s(256, 4096), float8s(64, 4096)]
    assert prepared_source(inputs, "mul(i0,0.5)", DType.FLOAT16)
    inputs[1] = inputs[1].float().abs().to(torch.float8_e4m3fn)
    with pytest.raises(Unprepared, match="sums of 4096 products of one sign"):
        prepared_source(inputs, "mul(i0,0.5)", DType.FLOAT16)


def test_the_operand_to_share_leaves_the_fewest_rounds(hopper: None) -> None:
    tactic = find_tactic(cuda_testing.TACTICS, "matmul.wgmma.tile_128x192")

    def launch(m: int, n: int):
        x, w = torch.empty(m, 128).half(), torch.ones(128, n).half()
        spec = cuda_spec(Matmul(), [x, w], None, [1])
        weights = DictWeights({"c1": w.numpy()})
        sources: list[str] = []

        def remember(_: object, name: str, source: str, shared_bytes: int) -> None:
            sources.append(source)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sm90_products, "cpp_kernel", remember)
            (made,) = tactic.prepare(spec, weights).launches
        return made, "SHARES_A = 1" in sources[0]

    # 99 x 16 tiles: 50 x 16 pairs of rows are 13 rounds of 66 clusters, 99 x 8 of columns 12.
    made, shares_a = launch(12608, 3072)
    assert shares_a
    assert made.grid == (132, 1, 1)
    assert not launch(12544, 2880)[1]
    assert launch(128, 200)[0].grid == (2, 1, 1)


def test_other_gpus_are_refused() -> None:
    tactic = find_tactic(cuda_testing.TACTICS, "matmul.wgmma.tile_128x128")
    spec = cuda_spec(Matmul(), [values(256, 64), values(64, 256)], None, [1])
    with preparing_for(Ampere()):
        refusal = tactic.supports(spec)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "wgmma needs sm_90"


@pytest.mark.parametrize(("rows", "capability", "dtype", "count"), [
    (4096, (9, 0), torch.float16, 2), (4096, (8, 0), torch.float16, 5),
    (128, (9, 0), torch.float16, 6), (4096, (9, 0), torch.float8_e4m3fn, 2),
])
def test_few_tiles_of_triton_are_compiled_beside_it(
    rows: int, capability: tuple[int, int], dtype: torch.dtype, count: int
) -> None:
    inputs = [torch.zeros(rows, 768).to(dtype), torch.zeros(1024, 768).to(dtype)]
    spec = cuda_spec(Matmul(transpose_b=True), inputs, "mul(i0,0.5)", [1], DType.FLOAT16)
    device = EmulatedDevice()
    device.capability = capability
    with preparing_for(device):
        taken = [
            name for name, tactic in find_tactics(cuda_testing.TACTICS).items()
            if name.startswith("matmul.triton.") and tactic.supports(spec) is None
        ]
    assert len(taken) == count
