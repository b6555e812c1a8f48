"""The constants of an engine, and their packed forms: each made once, shared by all plans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch2rt.backends.tactic import Job, Weights
from torch2rt.network.dtype import Array

# Where blobs come from that the engine file does not hold: (key, job) -> bytes.
BlobSource = Callable[[str, Job], bytes]


class EngineWeights(Weights):
    """Constants by name, which are never written to, and blobs by key.

    ``blobs`` are those of the engine file. ``blob_source`` is asked for others; what the engine
    uses is kept, so that its file holds it.
    """

    def __init__(
        self, arrays: Mapping[str, Array], blobs: Mapping[str, bytes] | None = None,
        blob_source: BlobSource | None = None,
    ) -> None:
        self.arrays = dict(arrays)
        self.blobs = dict(blobs or {})
        self.blob_source = blob_source
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

    def blob(self, key: str, job: Job) -> bytes:
        """The blob of this key: the file's, else the source's, else made now."""
        with self._lock:
            if key not in self.blobs:
                self.blobs[key] = self.blob_source(key, job) if self.blob_source else job.run()
            return self.blobs[key]
