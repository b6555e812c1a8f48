"""torch2rt: turns a PyTorch model into an inference engine of its own, ahead of time.

    rt = torch2rt.convert(model, inputs)     # a drop-in nn.Module
    rt.save("model.engine")
    engine = torch2rt.Engine.load("model.engine")   # needs no torch
    outputs = engine.run({"x": array})

Names are imported at first use, so that an engine runs where torch is not installed.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch2rt.build.timing_cache import TimingCache
    from torch2rt.config import Profile
    from torch2rt.convert import convert, convert_pieces, swap
    from torch2rt.definition.network import Network
    from torch2rt.engine.engine import Engine
    from torch2rt.errors import Torch2rtError
    from torch2rt.extension.converter import converter
    from torch2rt.module import RTModule, load
    from torch2rt.plugin import CudaKernel, Plugin, TritonKernel, plugin
    from torch2rt.quantize.table import CalibrationTable

__version__ = "0.1.0"

__all__ = [
    "CalibrationTable",
    "CudaKernel",
    "Engine",
    "Network",
    "Plugin",
    "Profile",
    "RTModule",
    "TimingCache",
    "Torch2rtError",
    "TritonKernel",
    "convert",
    "convert_pieces",
    "converter",
    "load",
    "plugin",
    "swap",
]

_HOMES = {
    "CalibrationTable": "torch2rt.quantize.table",
    "CudaKernel": "torch2rt.extension.implementations",
    "Engine": "torch2rt.engine.engine",
    "Network": "torch2rt.definition.network",
    "Plugin": "torch2rt.extension.full",
    "Profile": "torch2rt.config",
    "RTModule": "torch2rt.module",
    "TimingCache": "torch2rt.build.timing_cache",
    "Torch2rtError": "torch2rt.errors",
    "TritonKernel": "torch2rt.extension.implementations",
    "convert": "torch2rt.convert",
    "convert_pieces": "torch2rt.convert",
    "converter": "torch2rt.extension.converter",
    "load": "torch2rt.module",
    "plugin": "torch2rt.plugin",
    "swap": "torch2rt.convert",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'torch2rt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `torch2rt.convert` the function when the file of that name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
