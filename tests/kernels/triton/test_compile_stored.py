"""Programs over weights stored in 8 bits, and that write float8, compiled for several GPUs."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import numpy as np
import torch
from cuda_testing import cuda_spec
from triton_assembly import NullDevice, assembly

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

ARCHITECTURES = [(8, 0), (8, 9), (9, 0), (10, 0)]
TACTICS = "torch2rt.backends.cuda.tactics"


def linear(rows: int = 256, k: int = 512, dtype: torch.dtype = torch.float16) -> LayerSpec:
    inputs = [
        torch.zeros(rows, k, dtype=dtype), torch.zeros(256, k, dtype=torch.int8), torch.zeros(256),
        torch.zeros(256), torch.zeros(rows, 256, dtype=dtype),
    ]
    return cuda_spec(Matmul(transpose_b=True), inputs, "gelu(add(add(mul(i0,i1),i2),i3))",
                     (1, 2, 3))


@pytest.mark.parametrize(("capability", "dtype"), [
    *((capability, torch.float16) for capability in ARCHITECTURES), ((9, 0), torch.bfloat16),
], ids=str)
def test_bytes_become_floats_on_the_way(capability: tuple[int, int], dtype: torch.dtype) -> None:
    name = "f16" if dtype is torch.float16 else "bf16"
    text = assembly("matmul.triton.pointer_64x64x64", linear(dtype=dtype), capability)
    expected = {
        8: rf"mma.sync\S*f32.{name}.{name}", 9: rf"wgmma.mma_async\S*f32.{name}.{name}",
        10: "tcgen05.mma",
    }
    assert re.search(expected[capability[0]], text)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=str)
def test_few_rows(capability: tuple[int, int]) -> None:
    spec = linear(rows=1, k=4096)
    assert "mma" in assembly("matmul.triton.pointer_16x32x256_split4", spec, capability)


def test_float32_is_multiplied_in_full() -> None:
    text = assembly("matmul.triton.pointer_64x64x64", linear(dtype=torch.float32), (9, 0))
    assert len(re.findall(r"mma\S*m64n64k8\S*tf32", text)) == 3 * 4


@pytest.mark.parametrize("name", ["triton_unpacked.tma_128x128x64", "wgmma_unpacked.tile_128x128"])
def test_unpacked_weights_are_read_as_floats(name: str) -> None:
    tactic = find_tactic(TACTICS, f"matmul.{name}")
    with preparing_for(NullDevice((9, 0))):
        assert tactic.takes_pitch(linear())
        assert tactic.estimate_us(linear()) is not None
    if "triton" in name:
        assert re.search(r"wgmma.mma_async\S*f16", assembly(f"matmul.{name}", linear(), (9, 0)))


@pytest.mark.parametrize(("name", "reason"), [
    ("triton.tma_128x128x64", "weights stored in 8 bits, which are converted in registers"),
    ("wgmma.tile_128x128", "weights stored in 8 bits, which are converted in registers"),
    ("cudnn.plan0", "an operand of int8"),
    ("cublaslt.algo0", "operands of float16 and int8"),
    ("cublaslt.apart0", "operands of float16 and int8"),
])
def test_tactics_of_one_dtype_do_not_take_them(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch2rt.backends.cuda.cublaslt import binding

    monkeypatch.setattr(binding, "missing", lambda: None)
    tactic = find_tactic(TACTICS, f"matmul.{name}")
    with preparing_for(NullDevice((9, 0))):
        refusal = tactic.supports(linear())
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_columns_of_other_float_weights_are_not_unpacked() -> None:
    spec = cuda_spec(
        Matmul(transpose_b=True), [torch.zeros(256, 512).half(), torch.zeros(256, 512).half()],
        None, (1,), DType.FLOAT16,
    )
    refusal = find_tactic(TACTICS, "matmul.triton_unpacked.tma_128x128x64").supports(spec)
    assert refusal == Refusal("its weights are not stored in 8 bits")


def to_float8(dtype: torch.dtype) -> LayerSpec:
    factors = [torch.zeros(256, 512).to(dtype)] * 2
    inputs = [*factors, torch.zeros(256), torch.zeros(256)]
    epilogue = "clamp(mul(gelu(add(mul(i0,i1),i2)),9.0),-448.0,448.0)"
    return cuda_spec(Matmul(transpose_b=True), inputs, epilogue, (1, 2, 3), DType.FLOAT8_E4M3)


@pytest.mark.parametrize(("tactic", "capability", "dtype"), [
    ("pointer_64x64x64", (8, 9), torch.float8_e4m3fn),
    ("pointer_64x64x64", (9, 0), torch.float16), ("tma_64x64x64", (9, 0), torch.float8_e4m3fn),
    ("tma_128x64x32", (10, 0), torch.float8_e4m3fn),
])
def test_float8_is_rounded_by_the_hardware(
    tactic: str, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    text = assembly(f"matmul.triton.{tactic}", to_float8(dtype), capability)
    source = "f16x2" if capability == (8, 9) else "f32"
    assert f"cvt.rn.satfinite.e4m3x2.{source}" in text


@pytest.mark.parametrize("tactic", ["tma_64x64x128", "tma_64x64x64_split4", "pointer_64x64x64"])
def test_products_of_float8_of_one_sign_are_added_in_float32(tactic: str) -> None:
    x, w = torch.zeros(512, 4096), torch.zeros(512, 4096)
    inputs = [x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)]
    spec = cuda_spec(Matmul(transpose_b=True), inputs, "mul(i0,0.5)", (1,), DType.FLOAT16)

    def sums(capability: tuple[int, int], bits: int) -> int:
        weights = np.full(w.shape, bits, np.uint8)
        weights[:, ::2] ^= bits & 0x80
        text = assembly(f"matmul.triton.{tactic}", spec, capability, {"c1": weights})
        return len(re.findall(r"\badd\S*\.f32", text))

    positive, of_both_signs = 0x38, 0xB8
    assert sums((9, 0), positive) >= sums((9, 0), of_both_signs) + 32
    assert sums((10, 0), positive) == sums((10, 0), of_both_signs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_float8_is_not_written_where_there_is_none(dtype: torch.dtype) -> None:
    with pytest.raises(Unprepared, match="products of float8 of before sm_89"):
        assembly("matmul.triton.pointer_64x64x64", to_float8(dtype), (8, 0))
