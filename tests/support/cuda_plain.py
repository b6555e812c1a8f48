"""Runs a prepared tactic in a process without torch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.devices import open_backend
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Job
from torch2rt.engine.weights import EngineWeights


def _no_job(key: str, job: Job) -> bytes:
    raise AssertionError(f"the blob {key} was not stored")


def run_loaded(
    name: str, spec: LayerSpec, arrays: dict[str, Any], blobs: dict[str, bytes],
    x: np.ndarray, target: str,
) -> None:
    """Input 0 is ``x`` as it lies in memory; the output's memory is saved as ``target``."""
    backend = open_backend("cuda")
    weights = EngineWeights(arrays, blobs, _no_job)
    with backend.building():
        prepared = find_tactic("torch2rt.backends.cuda.tactics", name).prepare(spec, weights)
    blocks = [
        backend.allocate(size) for size in (
            spec.inputs[0].size_bytes, spec.outputs[0].size_bytes, prepared.workspace_bytes + 256
        )
    ]
    given, made, work = (backend.address(block) for block in blocks)
    backend.upload_bytes(given, x.reshape(-1).view(np.uint8))
    inputs = [Buffer(spec.inputs[0], given)] + [
        Buffer(operand, constant=constant)
        for operand, constant in zip(spec.inputs[1:], spec.constants[1:], strict=True)
    ]
    calls = prepared.bind(inputs, [Buffer(spec.outputs[0], made)], work, backend.new_stream())
    backend.runner(calls)()
    n, c, *spatial = spec.outputs[0].shape
    raw = backend.download_bytes(made, spec.outputs[0].size_bytes)
    np.save(target, raw.view(spec.outputs[0].dtype.numpy).reshape(n, *spatial, c))
    assert "torch" not in sys.modules
    assert "triton" not in sys.modules
