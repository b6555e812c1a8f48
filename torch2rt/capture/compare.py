"""Whether two lists of output tensors agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Relative error (2-norm) by dtype. Graph and model run the same kernels; what remains is the
# order of additions, which a kernel may choose by alignment.
_ALLOWED = {torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 2e-2}
_ALLOWED_OTHERWISE = 1e-5


def difference(
    names: Sequence[str], expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> str | None:
    """The first output that differs and how, None where all agree."""
    for name, want, got in zip(names, expected, found, strict=True):
        if want.shape != got.shape or want.dtype != got.dtype:
            return (
                f"output {name!r} is {want.dtype} {tuple(want.shape)} in the model and "
                f"{got.dtype} {tuple(got.shape)} in the graph"
            )
        error = relative_error(want, got)
        if not error <= _ALLOWED.get(want.dtype, _ALLOWED_OTHERWISE):
            return f"output {name!r} has relative error {error:.3g}"
    return None


def relative_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``expected``; equal infinities and NaNs are equal."""
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(expected, found) else float("inf")
    wide = torch.complex128 if expected.is_complex() else torch.float64
    want, got = expected.to(wide), found.to(wide)
    same = (want == got) | (want.isnan() & got.isnan())
    gap = torch.where(same, torch.zeros_like(want), want - got)
    norm = torch.linalg.vector_norm(torch.where(want.isfinite(), want, torch.zeros_like(want)))
    return float(torch.linalg.vector_norm(gap) / norm.clamp(min=1e-30))
