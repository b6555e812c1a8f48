"""Sums of float8 on Hopper's tensor cores: what a model of them loses, what is refused for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torch2rt.backends.cuda.float8_sums import (
    MOST_TERMS_OF_ONE_SIGN,
    sums_refusal,
    terms_of_one_sign,
)
from torch2rt.build.check import BOUNDS
from torch2rt.network.dtype import DType

KEPT_BITS = 13
TERMS_AT_A_TIME = 32


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Floats as E4M3, the largest as 448."""
    return (x * (448 / x.abs().max())).to(torch.float8_e4m3fn)


def bits(x: torch.Tensor) -> np.ndarray:
    return rounded(x).view(torch.uint8).numpy()


def cut(x: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.trunc(x / last) * last


def sums_of_hopper(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a [m, k] times b [n, k], every addend cut 13 bits below the largest of 32 and their sum."""
    sums = np.zeros((a.shape[0], b.shape[0]))
    for k in range(0, a.shape[1], TERMS_AT_A_TIME):
        terms = a[:, None, k : k + TERMS_AT_A_TIME] * b[None, :, k : k + TERMS_AT_A_TIME]
        largest = np.maximum(np.abs(terms).max(-1), np.abs(sums))
        last = 2.0 ** (np.floor(np.log2(np.maximum(largest, 1e-30))) - KEPT_BITS)
        sums = cut(terms, last[..., None]).sum(-1) + cut(sums, last)
    return sums


def losses(x: torch.Tensor, w: torch.Tensor) -> tuple[float, float]:
    """What the sums lose, and what rounding the factors does, relative to the norm."""
    a, b = rounded(x).double().numpy(), rounded(w).double().numpy()
    exact = a @ b.T
    scale = 448**2 / float(x.abs().max() * w.abs().max())
    unrounded = (x.double() @ w.double().T).numpy() * scale
    norm = np.linalg.norm(exact)
    return (
        float(np.linalg.norm(sums_of_hopper(a, b) - exact) / norm),
        float(np.linalg.norm(exact - unrounded) / norm),
    )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("terms", [1024, 16384])
def test_what_varies_in_sign_loses_less_than_rounding_does(terms: int) -> None:
    x, w = torch.randn(16, terms), torch.randn(16, terms)
    for factors in (x, torch.nn.functional.gelu(x)):
        by_sums, by_rounding = losses(factors, w)
        assert 1e-4 < by_sums < 4e-3
        assert by_sums < 0.15 * by_rounding
    assert terms_of_one_sign(bits(w)) < MOST_TERMS_OF_ONE_SIGN
    assert sums_refusal(bits(w)) is None


def test_as_many_terms_of_one_sign_as_are_taken_stay_within_the_bound() -> None:
    x, w = torch.rand(16, 2 * MOST_TERMS_OF_ONE_SIGN), torch.rand(16, 2 * MOST_TERMS_OF_ONE_SIGN)
    half = MOST_TERMS_OF_ONE_SIGN
    assert sums_refusal(bits(w[:, :half])) is None
    by_sums, by_rounding = losses(x[:, :half], w[:, :half])
    assert 10 * by_rounding < by_sums < 0.75 * BOUNDS[DType.FLOAT8_E4M3]
    refusal = sums_refusal(bits(w))
    assert refusal is not None
    assert refusal.reason == "sums of 4096 products of one sign, too many for 14 bits of a sum"
    assert losses(x, w)[0] > BOUNDS[DType.FLOAT8_E4M3]


def test_the_row_with_most_terms_of_one_sign_counts() -> None:
    w = torch.randn(5, 4096)
    w[3] = w[3].abs() * torch.where(torch.arange(4096) % 8 == 0, -1.0, 1.0)
    terms = terms_of_one_sign(bits(w))
    assert terms == pytest.approx(4096 * 0.75, rel=0.03)
    assert terms_of_one_sign(np.zeros((3, 4096), np.uint8)) == 0
    assert terms_of_one_sign(np.zeros((0, 4096), np.uint8)) == 0
    assert terms_of_one_sign(np.full((1, 4096), 0xFF, np.uint8)) == 0  # NaN
    assert terms_of_one_sign(np.full((1, 4096), 0xB8, np.uint8)) == 4096  # -1
