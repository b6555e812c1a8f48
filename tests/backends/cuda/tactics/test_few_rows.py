"""Products of few rows by a constant matrix, against the reference; what is refused."""

from __future__ import annotations

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_emulator import EmulatedDevice
from cuda_testing import assert_refused, check_cuda_tactic, cuda_spec

from torch2rt.backends.cuda.cpp.few_rows import few_rows_refusal
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.nvrtc import compile_cubin
from torch2rt.backends.cuda.tactics.matmul_triton import matmul_product
from torch2rt.backends.tactic import Refusal
from torch2rt.kernels.cuda.few_rows import FewRowsForm, few_rows_source
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.usefixtures("cuda_device")
SCALED, BIASED = "mul(i0,i1)", "add(mul(i0,i1),i2)"
KIND = Matmul(transpose_b=True)
HALVES = [torch.float16, torch.bfloat16]
FLOAT8 = torch.float8_e4m3fn
# What is rounded to float8 may fall to either side: a step of the largest numbers, 32 of 448.
FLOAT8_STEP = 32 / 448 + 1e-3
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 1.2e-2, FLOAT8: 6e-3}


def name(columns: int) -> str:
    return f"matmul.cuda_rows.columns_{columns}"


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    if dtype is torch.int8:
        return torch.randint(-127, 128, shape, generator=generator).to(dtype)
    size = 80 if dtype is FLOAT8 else 1
    return (size * torch.randn(shape, generator=generator)).clamp(-448, 448).to(dtype)


def operands(
    m: int, n: int, k: int, dtype: torch.dtype, stored: torch.dtype | None = None
) -> list[torch.Tensor]:
    """x, w, scales that make results of about 1, and a bias."""
    x, w = random(m, k, dtype=dtype), random(n, k, dtype=stored or dtype, seed=1)
    size = float(x.float().std() * w.float().std()) * k**0.5 if m * k > 1 else 1.0
    return [x, w, (0.5 + random(n, dtype=torch.float32).abs()) / size,
            random(n, dtype=torch.float32, seed=2)]


@pytest.mark.parametrize(("columns", "m", "n", "k"), [
    (8, 1, 32, 64), (32, 1, 37, 1040), (16, 3, 70, 528), (8, 8, 64, 144), (32, 17, 41, 272),
    (8, 32, 24, 2064),
])
@pytest.mark.parametrize(("dtype", "stored"), [
    (torch.float16, torch.int8), (torch.bfloat16, torch.int8), (FLOAT8, None),
    (torch.float16, None),
])
def test_products(
    columns: int, m: int, n: int, k: int, dtype: torch.dtype, stored: torch.dtype | None
) -> None:
    out = DType.FLOAT16 if dtype is FLOAT8 else None
    check_cuda_tactic(
        name(columns), KIND, operands(m, n, k, dtype, stored), BIASED, constants=[1, 2, 3],
        out_dtype=out, tolerance=ROUNDING[dtype],
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_every_byte_is_exact(dtype: torch.dtype) -> None:
    """Products by one row of the unit matrix are the stored numbers."""
    w = torch.arange(-128, 128).to(torch.int8).reshape(16, 16).repeat(1, 4)
    for place in range(0, 64, 7):
        x = torch.zeros(1, 64, dtype=dtype)
        x[0, place] = 1
        check_cuda_tactic(name(8), KIND, [x, w], "mul(i0,1.0)", constants=[1], exact=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_with_operands_and_without(dtype: torch.dtype) -> None:
    x, w, _, bias = operands(5, 40, 136, dtype)
    residual = random(5, 40, dtype=dtype, seed=3)
    factor = torch.tensor([0.5])
    check_cuda_tactic(name(16), KIND, [x, w], constants=[1])
    check_cuda_tactic(
        name(16), KIND, [x, w, bias, residual, factor], "add(mul(gelu(add(i0,i1)),i3),i2)",
        constants=[1, 2],
    )
    check_cuda_tactic(
        name(16), KIND, [x, w, bias, residual], "relu(add(add(i0,i1),i2))", constants=[1, 2],
        pitched={"i0": 1, "i3": 1, "o0": 1},
    )
    check_cuda_tactic(
        name(16), Matmul(), [x.reshape(1, 5, 136), w.T.contiguous(), bias], "add(i0,i1)",
        constants=[1, 2], out_dtype=DType.FLOAT32,
    )


def test_bytes_times_bytes() -> None:
    x, w, scale, bias = operands(9, 40, 336, torch.int8)
    text = "add(mul(to_float32(i0),i1),i2)"
    check_cuda_tactic(
        name(8), KIND, [x, w, scale, bias], text, constants=[1, 2, 3], out_dtype=DType.FLOAT16
    )
    check_cuda_tactic(
        name(8), KIND, [x, w, scale, bias],
        f"to_int8(clamp(round(mul({text},30.0)),-128.0,127.0))", constants=[1, 2, 3],
        out_dtype=DType.INT8, tolerance=2e-3,
    )


@pytest.mark.parametrize("dtype", [torch.float16, FLOAT8])
def test_results_in_float8(dtype: torch.dtype) -> None:
    check_cuda_tactic(
        name(8), KIND, operands(4, 48, 256, dtype),
        f"clamp(mul(gelu({BIASED}),200.0),-448.0,448.0)", constants=[1, 2, 3],
        out_dtype=DType.FLOAT8_E4M3, tolerance=FLOAT8_STEP,
    )


def test_what_is_not_finite_stays_in_its_row() -> None:
    x, w, scale, _ = operands(3, 16, 128, torch.float16, torch.int8)
    x[1, 5], x[2, 70] = torch.inf, torch.nan
    check_cuda_tactic(name(8), KIND, [x, w, scale], SCALED, constants=[1, 2])


@pytest.mark.parametrize(("m", "k", "reason"), [
    (33, 64, "33 rows"), (4, 72, "not dense"),
])
def test_refusals(m: int, k: int, reason: str) -> None:
    inputs = operands(m, 16, k, torch.float16, torch.int8)[:3]
    assert_refused(name(8), KIND, inputs, SCALED, reason=reason, constants=[1, 2])


def test_other_refusals() -> None:
    x, w = (random(4, 64, dtype=torch.float16) for _ in range(2))
    assert_refused(name(8), KIND, [x, w], reason="not constant")
    assert_refused(name(8), KIND, [x.float(), w.float()], reason="float32", constants=[1])
    stacks = [random(2, 3, 64, dtype=torch.float16), random(2, 8, 64, dtype=torch.float16)]
    assert_refused(name(8), KIND, stacks, reason="several products", constants=[1])


class Turing(EmulatedDevice):
    capability = (7, 5)


def test_older_gpus_are_refused() -> None:
    spec = cuda_spec(KIND, operands(4, 16, 64, torch.float16)[:2], None, [1])
    with preparing_for(Turing()):
        product = matmul_product(spec)
        assert not isinstance(product, Refusal)
        refusal = few_rows_refusal(spec, product)
    assert refusal is not None
    assert "before sm_80" in refusal.reason


@pytest.mark.parametrize(("a", "b", "out", "row_tiles", "tiles"), [
    (DType.FLOAT16, DType.INT8, DType.FLOAT16, 1, 1),
    (DType.BFLOAT16, DType.INT8, DType.BFLOAT16, 2, 4),
    (DType.FLOAT16, DType.FLOAT16, DType.FLOAT16, 1, 2),
    (DType.INT8, DType.INT8, DType.FLOAT16, 1, 2),
])
def test_sources_compile(a: DType, b: DType, out: DType, row_tiles: int, tiles: int) -> None:
    extras = (("column", DType.FLOAT32), ("matrix", out), ("scalar", DType.FLOAT32))
    form = FewRowsForm(
        a, b, out, row_tiles, tiles, 8, extras, "(float)i0 * i1 + i2 * i3"
    )
    compile_for_all(few_rows_source(form), "t2r_few_rows")


@pytest.mark.parametrize("arch", ["sm_89", "sm_90a", "sm_100a"])
def test_sources_of_float8_compile(arch: str) -> None:
    form = FewRowsForm(
        *[DType.FLOAT8_E4M3] * 3, 1, 2, 8, (("column", DType.FLOAT32),), "i0 * i1"
    )
    assert compile_cubin(few_rows_source(form), "t2r_few_rows", arch)
