"""Runs suspect candidates for the first time in another process.

A kernel that faults leaves the CUDA context of its process useless, and with it the build. So what
has never run on this device runs once in a worker first; a worker that dies of it loses that
candidate alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.backend import Backend
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.devices import open_backend
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Job, Tactic, Unprepared, Weights
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.layers.plugin import Plugin
from torch2rt.network.dtype import Array

logger = logging.getLogger(__name__)

RAN = b"ran"
_BROKEN_STATUS = 70
# A first run takes less than what it needs at first, a context on the device, in every process.
_AT_ONCE = 4


@dataclass(frozen=True)
class FirstRun:
    """A job: prepare a tactic, run it once, wait for it. Ends its process if that fails."""

    device: str
    tactic: str
    spec: LayerSpec
    arrays: dict[str, Array]
    blobs: dict[str, bytes]

    def run(self) -> bytes:
        """`RAN`. Unprepared when the tactic does not take the layer after all."""
        is_done = False
        try:
            self._run(open_backend(self.device))
            is_done = True
        except Unprepared:
            is_done = True
            raise
        finally:
            if not is_done:
                # What failed may have broken the context for the jobs that follow.
                os._exit(_BROKEN_STATUS)
        return RAN

    def _run(self, backend: Backend) -> None:
        with backend.building():
            weights = _JobWeights(self.arrays, self.blobs)
            prepared = backend.tactic(self.tactic).prepare(self.spec, weights)
            blocks: list[Any] = []
            is_plugin = isinstance(self.spec.kind, Plugin)  # whose floats may be places

            def buffer(tensor: TensorSpec, constant: str | None) -> Buffer:
                if constant is not None:
                    return Buffer(tensor, constant=constant)
                blocks.append(backend.allocate(tensor.extent_bytes))
                address = backend.address(blocks[-1])
                if not tensor.dtype.is_float or is_plugin:  # indices must be valid
                    backend.upload_bytes(address, np.zeros(tensor.extent_bytes, np.uint8))
                return Buffer(tensor, address)

            pairs = zip(self.spec.inputs, self.spec.constants, strict=True)
            inputs = [buffer(tensor, name) for tensor, name in pairs]
            outputs = [buffer(tensor, None) for tensor in self.spec.outputs]
            blocks.append(backend.allocate(prepared.workspace_bytes))
            calls = prepared.bind(
                inputs, outputs, backend.address(blocks[-1]), backend.new_stream()
            )
            backend.runner(calls)()


class _JobWeights(Weights):
    def __init__(self, arrays: dict[str, Array], blobs: dict[str, bytes]) -> None:
        self._arrays = arrays
        self._blobs = blobs
        self._packed: dict[tuple[Any, ...], Any] = {}

    def array(self, name: str) -> Array:
        return self._arrays[name]

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._packed:
            self._packed[key] = make()
        return self._packed[key]

    def blob(self, key: str, job: Job) -> bytes:
        return self._blobs[key] if key in self._blobs else job.run()


def broken(
    candidates: Sequence[tuple[Tactic, LayerSpec]], compile_ahead: CompileAhead
) -> dict[int, str]:
    """The suspects among compiled candidates whose first run fails, by index, and how."""
    backend = compile_ahead.backend
    jobs: dict[str, Job] = {}
    for index, (tactic, spec) in enumerate(candidates):
        if not backend.is_suspect(tactic):
            continue
        blobs = compile_ahead.blobs_of(tactic, spec)
        if blobs is None:
            continue  # whoever tries it in earnest tells why
        arrays = {
            name: compile_ahead.weights.array(name) for name in spec.constants if name is not None
        }
        jobs[str(index)] = FirstRun(backend.device, tactic.name, spec, arrays, blobs)
    found = {}
    for key, result in compile_ahead.workers.run(jobs, at_once=_AT_ONCE).items():
        if result.blob != RAN and (result.is_lost or result.is_broken):
            tactic, spec = candidates[int(key)]
            found[int(key)] = f"its first run failed: {result.reason}"
            logger.warning("%s for %s (%s) is not used: %s", tactic.name, spec.name,
                           spec.signature, found[int(key)])
    return found
