"""Programs over bytes compiled ahead for several architectures, and what they contain."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch
import triton_byte_cases as cases
from cuda_testing import cuda_spec
from triton_assembly import assembly

from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

ARCHITECTURES = [(8, 0), (8, 9), (9, 0), (10, 0)]


def linear(k: int = 128, residual: torch.dtype = torch.int8) -> LayerSpec:
    epilogue = cases.RESIDUAL_BYTES
    inputs = cases.operands((256, k), (256, k), (256,), epilogue, (256, 256), residual)
    return cuda_spec(Matmul(transpose_b=True), inputs, epilogue, (1, 2, 3), DType.INT8)


def window() -> LayerSpec:
    inputs = cases.operands(
        (2, 128, 16, 16), (128, 128, 3, 3), (128, 1, 1), cases.BYTES, (2, 128, 16, 16)
    )
    kind = Convolution((1, 1), (1, 1), (1, 1), (1, 1))
    return cuda_spec(kind, inputs, cases.BYTES, (1, 2, 3), DType.INT8)


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_pointers_compile_everywhere(capability: tuple[int, int]) -> None:
    text = assembly("matmul.triton.pointer_64x64x64", linear(), capability)
    expected = {8: r"mma.sync\S*s32.s8.s8.s32", 9: r"wgmma.mma_async\S*s32.s8.s8", 10: "mma"}
    assert re.search(expected[capability[0]], text)


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_gathers_compile_everywhere(capability: tuple[int, int]) -> None:
    assert assembly("convolution.triton.gather_64x64x64_split4", window(), capability)


@pytest.mark.parametrize("tactic", ["tma_256x64x32", "tma_64x64x64_split4"])
def test_maps_feed_the_tensor_cores_directly(tactic: str) -> None:
    text = assembly(f"matmul.triton.{tactic}", linear(), (9, 0))
    assert re.search(r"wgmma.mma_async\S*s32.s8.s8", text)
    assert "cp.async.bulk.tensor.2d.shared" in text
    assert ".tensor.2d.global.shared" in text


@pytest.mark.parametrize("tactic", ["box_128x128x64", "box_64x64x64_split4"])
def test_boxes_stay_in_shared_memory(tactic: str) -> None:
    text = assembly(f"convolution.triton.{tactic}", window(), (9, 0))
    assert re.search(r"wgmma.mma_async\S*s32.s8.s8", text)
    assert "ldmatrix" not in text, "an operand goes through registers"


def test_epilogues_of_few_terms_convert_at_full_rate() -> None:
    converts = re.compile(r"cvt\.(rn\.f32\.s|rni?\S*\.s32\.f32|rzi\S*\.f32)")
    assert not converts.search(assembly("matmul.triton.tma_64x64x64", linear(), (9, 0)))
    # Beyond 2^22 the sum itself is converted, by the instruction for it.
    assert converts.search(assembly("matmul.triton.tma_64x64x64", linear(512), (9, 0)))


def test_maps_compile_for_blackwell() -> None:
    assert assembly("matmul.triton.tma_128x64x32", linear(), (10, 0))


@pytest.mark.parametrize(("tactic", "capability", "instruction"), [
    ("pointer_64x64x64", (8, 9), r"mma.sync\S*e4m3.e4m3"),
    ("pointer_64x64x64", (9, 0), r"wgmma.mma_async\S*e4m3.e4m3"),
    ("tma_64x64x64", (9, 0), r"wgmma.mma_async\S*e4m3.e4m3"),
    ("tma_64x64x64_split4", (9, 0), r"wgmma.mma_async\S*e4m3.e4m3"),
    ("tma_64x64x64", (10, 0), "tcgen05.mma"),
])
def test_float8_feeds_the_tensor_cores(
    tactic: str, capability: tuple[int, int], instruction: str
) -> None:
    factors = [torch.zeros(256, 1024).to(torch.float8_e4m3fn)] * 2
    spec = cuda_spec(
        Matmul(transpose_b=True), [*factors, torch.zeros(256), torch.zeros(256)],
        "gelu(add(mul(i0,i1),i2))", (1, 2, 3), DType.FLOAT16,
    )
    assert re.search(instruction, assembly(f"matmul.triton.{tactic}", spec, capability))


def test_float8_is_refused_where_nothing_multiplies_it() -> None:
    factors = [torch.zeros(256, 512).to(torch.float8_e4m3fn)] * 2
    spec = cuda_spec(Matmul(transpose_b=True), factors, "mul(i0,0.5)", (1,), DType.FLOAT16)
    with pytest.raises(Unprepared, match="products of float8 of before sm_89"):
        assembly("matmul.triton.pointer_64x64x64", spec, (8, 0))


def attention(out: DType = DType.FLOAT16) -> LayerSpec:
    inputs = [torch.zeros(2, 12, 384, 64).to(torch.float8_e4m3fn)] * 3
    epilogue = "clamp(mul(i0,0.5),-448.0,448.0)" if out is DType.FLOAT8_E4M3 else "mul(i0,0.5)"
    return cuda_spec(Attention(0.125), inputs, epilogue, (), out)


@pytest.mark.parametrize("out", [DType.FLOAT16, DType.FLOAT8_E4M3])
@pytest.mark.parametrize(("tactic", "capability", "scores", "mix"), [
    ("pointer_64x64", (8, 9), r"mma.sync\S*e4m3.e4m3", r"mma.sync\S*f16.f16"),
    ("tma_64x64", (9, 0), r"wgmma.mma_async\S*e4m3.e4m3", r"wgmma.mma_async\S*f16.f16"),
    ("tma_128x128", (9, 0), r"wgmma.mma_async\S*e4m3.e4m3", r"wgmma.mma_async\S*f16.f16"),
    ("tma_64x128", (10, 0), r"tcgen05.mma\S*kind::f8f6f4", r"tcgen05.mma\S*kind::f16"),
])
def test_attention_multiplies_float8_and_mixes_float16(
    tactic: str, capability: tuple[int, int], scores: str, mix: str, out: DType
) -> None:
    text = assembly(f"attention.triton.{tactic}", attention(out), capability)
    assert re.search(scores, text)
    assert re.search(mix, text)
    assert ("cp.async.bulk.tensor.4d.shared" in text) == tactic.startswith("tma")


def test_attention_over_float8_is_refused_where_nothing_multiplies_it() -> None:
    with pytest.raises(Unprepared, match="products of float8 of before sm_89"):
        assembly("attention.triton.pointer_64x64", attention(), (8, 0))
