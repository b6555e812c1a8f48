"""Compiles kernel sources with NVRTC for every architecture we care for. Needs no GPU."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_emulator import EmulatedDevice
from tactic_testing import DictWeights

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.nvrtc import compile_cubin
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Job

ARCHITECTURES = ("sm_80", "sm_89", "sm_90a", "sm_100a")


def compile_for_all(source: str, name: str) -> dict[str, int]:
    """Compile ``extern "C" __global__ void name(...)``; size of the code by architecture.

    Unprepared with the compiler's messages if it does not compile.
    """
    sizes = {arch: len(compile_cubin(source, name, arch)) for arch in ARCHITECTURES}
    assert all(sizes.values())
    return sizes


class _Found(Exception):
    """The job that a tactic asks for."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job


class _AskedWeights(DictWeights):
    def blob(self, key: str, job: Job) -> bytes:
        raise _Found(job)


def tactic_source(name: str, spec: LayerSpec, arrays: dict[str, Any], choice: int = 0) -> str:
    """The CUDA C++ that a tactic compiles for a layer in one of the layouts it offers."""
    tactic = find_tactic("torch2rt.backends.cuda.tactics", name)
    with preparing_for(EmulatedDevice()):
        refusal = tactic.supports(spec)
        assert refusal is None, refusal
        chosen = spec.with_layouts(tactic.layouts(spec)[choice])
        with pytest.raises(_Found) as found:
            tactic.prepare(chosen, _AskedWeights(arrays))
    return str(found.value.job.source)
