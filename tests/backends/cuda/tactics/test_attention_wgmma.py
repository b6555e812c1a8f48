"""Attention on Hopper's tensor cores: on the emulated device, on a GPU, and compiled."""

from __future__ import annotations

import cuda_testing
import pytest
import torch
from cuda_emulator import EmulatedDevice
from cuda_testing import assert_refused, check_cuda_tactic, cuda_device, cuda_spec
from hopper_maps import maps

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.nvrtc import compile_cubin
from torch2rt.backends.tactic import Refusal
from torch2rt.kernels.cuda.sm90_attention import NAME, attention_source
from torch2rt.kernels.cuda.sm90_attention_form import AttentionForm, MaskForm
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType

__all__ = ["cuda_device", "maps"]

SCALE = 0.125
HEADS_LAST = Attention(SCALE, False, False, False, True, True, True, True)


def values(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def operands(
    batch: tuple[int, ...], rows: int, keys: int, dtype: torch.dtype = torch.float16
) -> list[torch.Tensor]:
    shapes = ((*batch, rows, 64), (*batch, keys, 64), (*batch, keys, 64))
    return [values(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


# rows, keys: one of each; tiles and chunks that are full, just begun and nearly full.
SIZES = {
    "rows_64": [(1, 1), (5, 300), (64, 16), (50, 50), (197, 197)],
    "matrix_2": [(5, 300), (130, 70), (197, 197)],
    "matrix_3": [(1, 1), (197, 197), (200, 410)],
}


@pytest.mark.parametrize(
    ("tactic", "rows", "keys"),
    [(tactic, *size) for tactic, sizes in SIZES.items() for size in sizes],
)
def test_sizes(cuda_device, tactic: str, rows: int, keys: int) -> None:
    check_cuda_tactic(f"attention.wgmma.{tactic}", Attention(SCALE), operands((2,), rows, keys))


@pytest.mark.parametrize(("tactic", "rows"), [("rows_128", 197), ("rows_192", 260)])
def test_parts_of_matrices(cuda_device, tactic: str, rows: int) -> None:
    check_cuda_tactic(f"attention.wgmma.{tactic}", Attention(SCALE), operands((3,), rows, 240))


@pytest.mark.parametrize("tactic", ["rows_64", "matrix_3"])
def test_later_keys_are_hidden(cuda_device, tactic: str) -> None:
    kind = Attention(SCALE, is_causal=True)
    check_cuda_tactic(f"attention.wgmma.{tactic}", kind, operands((4,), 270, 270))
    check_cuda_tactic(f"attention.wgmma.{tactic}", kind, operands((1,), 150, 230))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_behind_rows_of_one_packed_tensor(cuda_device, dtype: torch.dtype) -> None:
    inputs = [values(2, 90, 3, 64, dtype=dtype, seed=seed) for seed in range(3)]
    pitched = {"i0": 2, "i1": 2, "i2": 2, "o0": 2}
    check_cuda_tactic("attention.wgmma.matrix_3", HEADS_LAST, inputs, pitched=pitched)
    check_cuda_tactic("attention.wgmma.matrix_2", HEADS_LAST, inputs)


HIDING = torch.rand(2, 1, 1, 134, generator=torch.Generator().manual_seed(0)) > 0.3
ROWS_HIDDEN = torch.rand(90, 135, generator=torch.Generator().manual_seed(0)) > 0.3
ROWS_HIDDEN[5] = False
LOWEST = values(1, 1, 134, dtype=torch.bfloat16)
LOWEST[..., 100:] = torch.finfo(torch.bfloat16).min
MASKS = {
    "keys hidden": HIDING, "a row hidden": ROWS_HIDDEN,
    "added to keys": values(2, 1, 1, 134), "added to scores": values(3, 90, 135),
    "floats": values(2, 3, 90, 70, dtype=torch.float32),
    "infinite": torch.where(HIDING, 0.5, -torch.inf).half(),
    "lowest": LOWEST, "all lowest": torch.full_like(LOWEST, torch.finfo(torch.bfloat16).min),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks(cuda_device, mask: str) -> None:
    kind, dtype = Attention(SCALE, has_mask=True), torch.float16
    if "lowest" in mask:
        dtype = torch.bfloat16
    inputs = operands((2, 3), 90, MASKS[mask].shape[-1], dtype)
    tactic = "rows_64" if mask in ("a row hidden", "added to keys") else "matrix_3"
    check_cuda_tactic(f"attention.wgmma.{tactic}", kind, [*inputs, MASKS[mask]])


def test_not_a_number_stays_in_its_row(cuda_device) -> None:
    q, k, v = operands((1,), 70, 140)
    q[0, 3, 5] = torch.nan
    v[0, 9, 2] = torch.inf
    check_cuda_tactic("attention.wgmma.matrix_3", Attention(SCALE), [q, k, v])


@pytest.mark.parametrize("grows", [True, False])
def test_scores_of_several_sizes(cuda_device, grows: bool) -> None:
    """Later keys matter more than earlier ones, or less: by far, by little, or not at all."""
    q, k, v = operands((1,), 64, 300)
    factor = torch.linspace(0.1, 12.0, 300).half()[:, None]
    k = k * (factor if grows else factor.flip(0))
    check_cuda_tactic("attention.wgmma.rows_64", Attention(SCALE), [q, k, v])


def form_of(groups: int, tiles: int, keys: int, dtype: DType, mask: MaskForm | None = None):
    return AttentionForm(dtype, (8, 12), keys, keys, SCALE, groups == 1, mask, groups, tiles, 1, 3)


FORMS = [
    form_of(3, 4, 197, DType.FLOAT16), form_of(2, 4, 208, DType.BFLOAT16),
    form_of(1, 1, 600, DType.FLOAT16),
    form_of(3, 6, 384, DType.FLOAT16, MaskForm(DType.FLOAT32, (384, 0, 0, 1))),
]


@pytest.mark.parametrize("form", FORMS)
def test_sources_compile(form: AttentionForm) -> None:
    assert compile_cubin(attention_source(form), NAME, "sm_90a")
    assert form.shared_bytes <= 227 * 1024


@pytest.mark.parametrize(("inputs", "kind", "reason"), [
    ([values(2, 70, 32)] * 3, Attention(SCALE), "32 and 32 features, not 64"),
    ([values(2, 70, 64, dtype=torch.float32)] * 3, Attention(SCALE), "operands of float32"),
    ([values(2, 70, 64)] * 3, Attention(-SCALE), "a scale of -0.125"),
    ([values(2, 4, 70, 64), *[values(2, 2, 70, 64)] * 2], Attention(SCALE, is_grouped=True),
     "heads that share keys"),
    ([values(4, 70, 64), *[values(1, 70, 64)] * 2], Attention(SCALE), "or repeat"),
    ([*[values(2, 70, 64)] * 3, torch.ones(70, 70, dtype=torch.float64)],
     Attention(SCALE, has_mask=True), "a mask of float64"),
    ([values(2, 90, 64), *[values(2, 9000, 64)] * 2], Attention(SCALE), "do not fit"),
    ([values(2, 90, 64)] * 3, Attention(SCALE), None),
])
def test_what_it_refuses(inputs: list[torch.Tensor], kind: Attention, reason: str | None) -> None:
    if reason is not None:
        assert_refused("attention.wgmma.matrix_3", kind, inputs, reason=reason)
        return
    for name in ("rows_128", "rows_192"):
        assert_refused(f"attention.wgmma.{name}", kind, inputs, reason="matrices are no larger")


class Ampere(EmulatedDevice):
    capability = (8, 0)


def test_other_gpus_are_refused() -> None:
    spec = cuda_spec(Attention(SCALE), [values(2, 90, 64)] * 3)
    with preparing_for(Ampere()):
        refusal = find_tactic(cuda_testing.TACTICS, "attention.wgmma.matrix_3").supports(spec)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "wgmma needs sm_90"

