"""`torch`, imported at first use.

Layers describe themselves without torch, and only their `reference` needs it; an engine that runs
without torch imports them too. ``from torch2rt.lazy_torch import torch`` serves both.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
else:

    class _LazyTorch:
        """Stands for the module until an attribute is read."""

        def __getattr__(self, name: str) -> object:
            return getattr(_module(), name)

    @cache
    def _module() -> object:
        return importlib.import_module("torch")

    torch = _LazyTorch()

__all__ = ["torch"]
