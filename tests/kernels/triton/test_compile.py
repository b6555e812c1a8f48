"""Programs of real tactics compiled ahead for several architectures, and what they contain."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch
from cuda_testing import cuda_spec
from triton_assembly import assembly

from torch2rt.backends.spec import LayerSpec
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul

ARCHITECTURES = [(8, 0), (8, 9), (9, 0), (10, 0)]


def linear(dtype: torch.dtype = torch.float16, tf32: bool = False) -> LayerSpec:
    inputs = [torch.zeros(256, 512, dtype=dtype), torch.zeros(256, 512, dtype=dtype),
              torch.zeros(256), torch.zeros(256, 256, dtype=dtype)]
    kind = Matmul(transpose_b=True, tf32=tf32)
    return cuda_spec(kind, inputs, "gelu(add(i0,add(i1,i2)))", (1, 2))


def window(channels: int = 128) -> LayerSpec:
    inputs = [torch.zeros(2, channels, 16, 16, dtype=torch.float16),
              torch.zeros(128, channels, 3, 3, dtype=torch.float16), torch.zeros(128, 1, 1)]
    kind = Convolution((1, 1), (1, 1), (1, 1), (1, 1))
    return cuda_spec(kind, inputs, "relu(add(i0,i1))", (1, 2))


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pointers_compile_everywhere(capability: tuple[int, int], dtype: torch.dtype) -> None:
    text = assembly("matmul.triton.pointer_64x64x64", linear(dtype), capability)
    expected = {8: "mma.sync", 9: "wgmma.mma_async", 10: "tcgen05.mma"}[capability[0]]
    assert expected in text
    assert ("griddepcontrol.wait" in text) == (capability >= (9, 0))


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_gathers_compile_everywhere(capability: tuple[int, int]) -> None:
    assert assembly("convolution.triton.gather_64x64x64_split4", window(), capability)


@pytest.mark.parametrize("tactic", ["tma_128x128x64", "tma_128x256x64", "tma_64x64x128_split4",
                                    "tma_128x128x64_alone"])
def test_maps_feed_the_tensor_cores_directly(tactic: str) -> None:
    text = assembly(f"matmul.triton.{tactic}", linear(), (9, 0))
    assert "wgmma.mma_async" in text
    assert "cp.async.bulk.tensor.2d.shared" in text
    assert "griddepcontrol.wait" in text
    assert ".tensor.2d.global.shared" in text


@pytest.mark.parametrize("tactic", ["box_128x128x64", "box_64x64x64_split4"])
def test_boxes_stay_in_shared_memory(tactic: str) -> None:
    text = assembly(f"convolution.triton.{tactic}", window(), (9, 0))
    assert "wgmma.mma_async" in text
    assert "cp.async.bulk.tensor.4d.shared" in text
    assert "ldmatrix" not in text, "an operand goes through registers"


def test_maps_compile_for_blackwell() -> None:
    assert "tcgen05.mma" in assembly("matmul.triton.tma_128x128x64", linear(), (10, 0))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_float32_in_full_is_three_products_of_tf32(capability: tuple[int, int]) -> None:
    name = "matmul.triton.pointer_64x64x64"
    full, rounded = (
        len(re.findall(r"mma\S*tf32", assembly(name, linear(torch.float32, tf32), capability)))
        for tf32 in (False, True)
    )
    assert full == 3 * rounded > 0


@pytest.mark.parametrize("tile", ["64x64", "64x128", "128x64", "128x128"])
def test_attention_feeds_the_tensor_cores_through_maps(tile: str) -> None:
    inputs = [torch.zeros(2, 12, 384, 64, dtype=torch.float16)] * 3
    spec = cuda_spec(Attention(0.125), inputs)
    text = assembly(f"attention.triton.tma_{tile}", spec, (9, 0))
    assert "wgmma.mma_async" in text
    assert "cp.async.bulk.tensor.4d.shared" in text


def test_attention_of_heads_that_share_keys_reads_them_through_maps() -> None:
    inputs = [torch.zeros(2, heads, 384, 64, dtype=torch.float16) for heads in (12, 4, 4)]
    spec = cuda_spec(Attention(0.125, is_grouped=True), inputs)
    text = assembly("attention.triton.tma_128x128", spec, (9, 0))
    assert "wgmma.mma_async" in text
    assert "cp.async.bulk.tensor.4d.shared" in text


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_attention_compiles_everywhere(capability: tuple[int, int]) -> None:
    inputs = [torch.zeros(2, 12, 384, 80, dtype=torch.bfloat16)] * 3
    inputs.append(torch.zeros(2, 1, 1, 384, dtype=torch.bool))
    spec = cuda_spec(Attention(0.125, has_mask=True), inputs)
    assert assembly("attention.triton.pointer_64x64", spec, capability)
