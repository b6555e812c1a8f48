"""Our kernels in Triton, one file per kernel. Compiled ahead: an engine that loads needs no Triton.

A kernel file ends its tiles with ``epilogue(acc, i1, i2, i3)``, which here returns ``acc``. The
program that is compiled is the file's text with the layer's own `epilogue` behind it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def source(name: str) -> str:
    """The text of a kernel file of this folder, e.g. ``gemm_tma``. Imports nothing."""
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
