"""nn.Module -> a functional torch.fx graph of ATen operators.

torch.export is slow to import: the names below load with their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch2rt.capture.captured import CapturedGraph
    from torch2rt.capture.export import capture
    from torch2rt.capture.partial import PartialModule

__all__ = ["CapturedGraph", "PartialModule", "capture"]

_HOMES = {"CapturedGraph": "captured", "PartialModule": "partial", "capture": "export"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
