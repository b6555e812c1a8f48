"""Cases of our strided kernels: what is tested in which dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

OTHERS = (torch.bfloat16, torch.float32)


def with_dtypes(
    cases: Sequence[tuple[Any, ...]], others: Sequence[torch.dtype] = OTHERS
) -> list[tuple[Any, ...]]:
    """Every case in float16, the first two in the other dtypes as well: each takes a compiler."""
    return [(*case, torch.float16) for case in cases] + [
        (*case, dtype) for case in cases[:2] for dtype in others
    ]
