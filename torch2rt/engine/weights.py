"""The constants of an engine, and their packed forms: each made once, shared by all plans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch2rt.backends.tactic import Weights
from torch2rt.network.dtype import Array


class EngineWeights(Weights):
    """Constants by name. Arrays are never written to."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = dict(arrays)
        self._packed: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.RLock()

    def array(self, name: str) -> Array:
        """A constant's data, row-major."""
        return self.arrays[name]

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The object made for this key, made now if it is the first time. Thread-safe."""
        with self._lock:
            if key not in self._packed:
                self._packed[key] = make()
            return self._packed[key]
