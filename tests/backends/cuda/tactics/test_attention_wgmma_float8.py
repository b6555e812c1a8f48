"""Attention over float8 on Hopper's tensor cores: on the emulated device, on a GPU, compiled."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic, cuda_device
from hopper_maps import maps

from torch2rt.backends.cuda.nvrtc import compile_cubin
from torch2rt.kernels.cuda.sm90_attention import NAME, attention_source
from torch2rt.kernels.cuda.sm90_attention_form import AttentionForm, MaskForm
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType

__all__ = ["cuda_device", "maps"]

# Numbers of spread 1 were multiplied by 112, so that 448 is four times their spread.
SPREAD = 112
SCALE = 0.125 / SPREAD**2
PLAIN = Attention(SCALE)
EPILOGUES = {
    DType.FLOAT16: "mul(i0,0.01)", DType.BFLOAT16: "mul(i0,0.01)",
    DType.FLOAT8_E4M3: "clamp(mul(i0,0.9),-448.0,448.0)",
}
# A number that falls to the other side of a boundary is a step off, an eighth of the largest.
TOLERANCE = {DType.FLOAT8_E4M3: 2.0**-3}


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    spread = SPREAD * torch.randn(*shape, generator=generator)
    return spread.clamp(-448, 448).to(torch.float8_e4m3fn)


def operands(batch: tuple[int, ...], rows: int, keys: int) -> list[torch.Tensor]:
    shapes = ((*batch, rows, 64), (*batch, keys, 64), (*batch, keys, 64))
    return [values(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def check(
    tactic: str, inputs: list[torch.Tensor], out: DType, kind: Attention = PLAIN,
    pitched: dict[str, int] | None = None, epilogue: str | None = None,
) -> None:
    check_cuda_tactic(
        f"attention.wgmma.{tactic}", kind, inputs, epilogue or EPILOGUES[out], out_dtype=out,
        tolerance=TOLERANCE.get(out), pitched=pitched,
    )


# rows, keys: one of each; tiles and chunks that are full, just begun and nearly full.
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (5, 300), (64, 16), (130, 70), (197, 197)])
@pytest.mark.parametrize("tactic", ["rows_64", "matrix_3"])
def test_sizes(cuda_device, tactic: str, rows: int, keys: int) -> None:
    check(tactic, operands((2,), rows, keys), DType.FLOAT16)


@pytest.mark.parametrize("tactic", ["rows_64", "rows_192", "matrix_3"])
def test_results_in_float8(cuda_device, tactic: str) -> None:
    check(tactic, operands((3,), 200, 240), DType.FLOAT8_E4M3)


def test_results_in_bfloat16(cuda_device) -> None:
    check("matrix_2", operands((2,), 70, 90), DType.BFLOAT16)


def test_epilogues_are_the_layers(cuda_device) -> None:
    check("matrix_2", operands((2,), 70, 90), DType.FLOAT16, epilogue="relu(mul(i0,-0.02))")


@pytest.mark.parametrize("out", [DType.FLOAT16, DType.FLOAT8_E4M3])
def test_later_keys_are_hidden(cuda_device, out: DType) -> None:
    check("rows_64", operands((2,), 270, 270), out, Attention(SCALE, is_causal=True))


@pytest.mark.parametrize("out", [DType.FLOAT16, DType.FLOAT8_E4M3])
def test_heads_behind_rows_of_one_packed_tensor(cuda_device, out: DType) -> None:
    inputs = [values(2, 90, 3, 64, seed=seed) for seed in range(3)]
    kind = Attention(SCALE, False, False, False, True, True, True, True)
    check("matrix_3", inputs, out, kind, {"i0": 2, "i1": 2, "i2": 2, "o0": 2})


@pytest.mark.parametrize("mask", [
    torch.rand(90, 135, generator=torch.Generator().manual_seed(0)) > 0.3,
    torch.randn(2, 1, 1, 135, generator=torch.Generator().manual_seed(0)).half(),
])
def test_masks(cuda_device, mask: torch.Tensor) -> None:
    check("matrix_3", [*operands((2, 3), 90, 135), mask], DType.FLOAT16,
          Attention(SCALE, has_mask=True))


def test_not_a_number_stays_in_its_row(cuda_device) -> None:
    q, k, v = operands((1,), 70, 140)
    q[0, 3, 5] = torch.nan
    check("matrix_3", [q, k, v], DType.FLOAT16)
    v[0, 9, 2] = torch.nan
    check("matrix_3", [q, k, v], DType.FLOAT8_E4M3)


def form_of(groups: int, tiles: int, keys: int, out: DType, mask: MaskForm | None = None):
    return AttentionForm(
        DType.FLOAT8_E4M3, (8, 12), keys, keys, SCALE, groups == 1, mask, groups, tiles, 1, 3, out,
        "(x * 0.9f)",
    )


@pytest.mark.parametrize("form", [
    form_of(3, 4, 197, DType.FLOAT8_E4M3), form_of(2, 4, 208, DType.FLOAT16),
    form_of(1, 1, 600, DType.FLOAT8_E4M3),
    form_of(3, 6, 384, DType.FLOAT8_E4M3, MaskForm(DType.BOOL, (384, 0, 0, 1))),
])
def test_sources_compile(form: AttentionForm) -> None:
    assert compile_cubin(attention_source(form), NAME, "sm_90a")
    assert form.shared_bytes <= 227 * 1024
    assert form.stage_bytes % 1024 == form.key_room % 1024 == 0


@pytest.mark.parametrize(("out", "epilogue", "reason"), [
    (DType.FLOAT32, "mul(i0,0.01)", "operands of float8_e4m3fn to float32"),
    (DType.INT8, "to_int8(clamp(round(i0),-128.0,127.0))", "a result in int8"),
])
def test_what_it_refuses(out: DType, epilogue: str, reason: str) -> None:
    assert_refused(
        "attention.wgmma.matrix_3", Attention(SCALE), operands((2,), 70, 70), epilogue,
        reason=reason, out_dtype=out,
    )


def test_floats_have_no_epilogue() -> None:
    inputs = [x.half() for x in operands((2,), 70, 70)]
    assert_refused("attention.wgmma.matrix_3", Attention(0.125), inputs, "relu(i0)",
                   reason="an epilogue")
