"""Cases of Triton tactics over weights stored in 8 bits, put beside those of triton_byte_cases."""

from __future__ import annotations

from functools import partial

import torch
from cuda_testing import check_cuda_tactic
from triton_byte_cases import CASES, GPU_CASES
from triton_cases import Case

from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

__all__ = ["CASES", "GPU_CASES", "stored_operands"]

_BIASED = "add(mul(i0,i1),i2)"


def stored_operands(
    m: tuple[int, ...], n: int, k: int, *, dtype: torch.dtype = torch.float16,
    is_transposed: bool = True,
) -> list[torch.Tensor]:
    """x [*m, k], w, scales and bias [n]."""
    generator = torch.Generator().manual_seed(n * k)
    w = torch.randint(-127, 128, (n, k), generator=generator).to(torch.int8)
    scale = (0.5 + torch.rand(n, generator=generator)) / (74 * k**0.5)
    return [
        torch.randn(*m, k, generator=generator).to(dtype),
        w if is_transposed else w.T.contiguous(), scale, torch.randn(n, generator=generator),
    ]


def stored_case(
    name: str, tactic: str, m: tuple[int, ...], n: int, k: int, epilogue: str = _BIASED, *,
    dtype: torch.dtype = torch.float16, out: DType | None = None, is_transposed: bool = True,
    pitched: dict[str, int] | None = None, table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a product [*m, k] x [n, k]."""

    def run() -> object:
        inputs = stored_operands(m, n, k, dtype=dtype, is_transposed=is_transposed)
        inputs += [torch.randn(*m, n).to(dtype)] if "i3" in epilogue else []
        return check_cuda_tactic(
            f"matmul.{tactic}", Matmul(transpose_b=is_transposed), inputs, epilogue,
            constants=(1, 2, 3), out_dtype=out, pitched=pitched,
        )

    table["matmul"][f"stored-{name}-{tactic}"] = run


_case = partial(stored_case, tactic="triton.pointer_64x64x64")
_case("gelu", m=(2, 35), n=80, k=272, epilogue=f"gelu({_BIASED})")
_case("residual", m=(65,), n=72, k=144, epilogue=f"add({_BIASED},i3)")
_case("odd", m=(33,), n=37, k=301)
_case("columns", m=(20,), n=48, k=96, is_transposed=False)
_case("float32", m=(17,), n=40, k=72, dtype=torch.float32)
_case("pitched", m=(3, 40), n=48, k=64, epilogue=f"add({_BIASED},i3)", pitched={"i0": 1, "o0": 1})
_case("bfloat16", m=(30,), n=72, k=144, dtype=torch.bfloat16, table=GPU_CASES)
for _table in (CASES, GPU_CASES):
    stored_case("one-row", "triton.pointer_16x32x256_split4", m=(1,), n=70, k=2048, table=_table)
    stored_case("few-rows", "triton.pointer_16x64x128_split4", m=(2, 4), n=48, k=1024,
                epilogue=f"add({_BIASED},i3)", table=_table)
for _tactic in ("triton_unpacked.pointer_64x64x64", "triton_unpacked.tma_64x64x64"):
    stored_case("gelu", _tactic, m=(70,), n=80, k=144, epilogue=f"gelu({_BIASED})")
for _dtype in (torch.float16, torch.bfloat16):
    stored_case(f"large-{_dtype}", "triton.pointer_128x128x64", m=(515,), n=592, k=4096,
                dtype=_dtype, table=GPU_CASES)
    stored_case(f"large-{_dtype}", "wgmma_unpacked.tile_128x128", m=(515,), n=592, k=4096,
                dtype=_dtype, table=GPU_CASES)


def to_float8_case(
    name: str, tactic: str, m: int, n: int, k: int, dtype: torch.dtype, *,
    table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a product [m, k] x [n, k] whose result is quantized to float8."""

    def run() -> object:
        generator = torch.Generator().manual_seed(k)
        inputs = [torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)]
        inputs = [(8 * x).to(dtype) for x in inputs]
        inputs += [torch.rand(n, generator=generator) / (8 * k**0.5), torch.randn(n)]
        return check_cuda_tactic(
            f"matmul.{tactic}", Matmul(transpose_b=True), inputs,
            f"clamp(mul(gelu({_BIASED}),20.0),-448.0,448.0)", constants=(1, 2, 3),
            # A number that falls to the other side of a boundary is a step off, 32 at 448.
            out_dtype=DType.FLOAT8_E4M3, tolerance=32 / 448,
        )

    table["matmul"][f"to-float8-{name}-{tactic}"] = run


for _tactic in ("triton.tma_64x64x64", "triton.pointer_64x64x64"):
    to_float8_case("halves", _tactic, m=70, n=80, k=144, dtype=torch.float16)
    to_float8_case("float8", _tactic, m=70, n=80, k=272, dtype=torch.float8_e4m3fn)
to_float8_case("float8", "triton.tma_64x64x64_split4", m=70, n=80, k=1040,
               dtype=torch.float8_e4m3fn)
to_float8_case("large", "triton.tma_128x128x64", m=515, n=592, k=4096, dtype=torch.float8_e4m3fn,
               table=GPU_CASES)
