"""Products by weights stored in 8 bits that are unpacked to float when the engine is loaded.

Many rows are multiplied faster so. The file stays small, memory holds the weights in float.
"""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.tactics.matmul_onednn import PackedMatmul
from torch2rt.backends.tactic import Tactic
from torch2rt.backends.unpacked import UnpackedTactic


class UnpackedMatmul(UnpackedTactic):
    """oneDNN's matmul over the unpacked weights."""

    name: ClassVar[str] = "matmul.onednn.unpacked"
    over: ClassVar[Tactic] = PackedMatmul()
