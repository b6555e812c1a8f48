"""What tactics of Triton compile for a layer, for any architecture and without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import triton
from tactic_testing import DictWeights

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import Device, Kernel, Memory, preparing_for
from torch2rt.backends.cuda.triton.kernel import TritonJob
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Job
from torch2rt.network.dtype import Array


class NullMemory(Memory):
    address = 4096
    size_bytes = 0


class NullDevice(Device):
    """A device of a capability that runs nothing."""

    multiprocessors = 132
    shared_bytes = 227 * 1024
    l2_bytes = 50 * 2**20

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability

    def compile_cpp(self, source: str, name: str) -> Job:
        raise NotImplementedError

    def load(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        class NullKernel(Kernel):
            def launch(self, *arguments: Any) -> int:
                raise NotImplementedError

        return NullKernel()

    def upload(self, array: Array) -> Memory:
        return NullMemory()

    def allocate(self, size_bytes: int) -> Memory:
        return NullMemory()


class KeepingWeights(DictWeights):
    """Compiles, and keeps the assembly."""

    ptx = ""

    def blob(self, key: str, job: Job) -> bytes:
        assert isinstance(job, TritonJob)
        made = triton.compile
        with pytest.MonkeyPatch.context() as patch:
            def keep(*arguments: Any, **named: Any) -> Any:
                compiled = made(*arguments, **named)
                self.ptx = compiled.asm["ptx"]
                return compiled

            patch.setattr(triton, "compile", keep)
            return job.run()


def assembly(
    tactic_name: str, spec: LayerSpec, capability: tuple[int, int],
    constants: Mapping[str, Array] | None = None,
) -> str:
    """PTX of what a tactic compiles for a layer, whether or not its time is worth it.

    Constants that are not given are zeros.
    """
    arrays = {
        name: torch.zeros(operand.shape).numpy().astype(operand.dtype.numpy)
        for name, operand in zip(spec.constants, spec.inputs, strict=True) if name is not None
    } | dict(constants or {})
    weights = KeepingWeights(arrays)
    tactic = find_tactic("torch2rt.backends.cuda.tactics", tactic_name)
    with preparing_for(NullDevice(capability)):
        tactic.prepare(spec.with_layouts(tactic.layouts(spec)[0]), weights)
    return weights.ptx
