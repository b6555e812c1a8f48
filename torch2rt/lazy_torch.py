"""`torch`, imported at first use.

Layers describe themselves without torch, and only their `reference` needs it; an engine that runs
without torch imports them too. ``from torch2rt.lazy_torch import torch`` serves both.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
else:

    class _LazyTorch:
        """Stands for the module until an attribute is read."""

        def __getattr__(self, name: str) -> object:
            return getattr(sys.modules.get("torch") or importlib.import_module("torch"), name)

    torch = _LazyTorch()

__all__ = ["torch"]
