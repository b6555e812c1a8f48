"""Runs tactics of Triton kernels on the CPU, by Triton's interpreter.

The interpreter is chosen when Triton is imported (TRITON_INTERPRET=1), so this runs in a process
of its own: `run_cases` starts it. What the compiler makes of a program is left out: a blob holds
the program, and a launch hands its parameters, unpacked in the order of a compiled kernel's, to
the interpreter. It multiplies bfloat16 wrongly: cases must not.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuda_testing import Emulated, testing_on

from torch2rt.backends.buffer import address_of
from torch2rt.backends.cuda.device import Device, Dim3, Kernel, Memory
from torch2rt.backends.cuda.triton import kernel as triton_kernel
from torch2rt.backends.cuda.triton import tensor_map
from torch2rt.backends.cuda.triton import tiles as triton_tiles
from torch2rt.backends.tactic import Job
from torch2rt.network.dtype import Array

TORCH_TYPES = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "i32": torch.int32,
    "i8": torch.int8, "fp8e4nv": torch.float8_e4m3fn,
}


def run_cases(module: str, names: Sequence[str]) -> dict[str, str]:
    """Run cases of `triton_cases` in another process; error texts of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": folder}
        support = Path(__file__).parent
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(support), str(support.parent.parent), os.environ.get("PYTHONPATH", "")]
        )
        finished = subprocess.run(
            [sys.executable, __file__, module, str(out), *names], env=environment,
            capture_output=True, text=True, check=False,
        )
        assert out.exists(), f"the interpreter died:\n{finished.stderr[-4000:]}"
        results: dict[str, str] = json.loads(out.read_text())
        return results


class HostMemory(Memory):
    """An array's memory."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self.address = address_of(array)
        self.size_bytes = array.nbytes


class InterpretedKernel(Kernel):
    """A program whose launches are interpreted."""

    def __init__(self, program: triton_kernel.Program, folder: Path) -> None:
        self.name = program.name
        self.program = program
        self.function = triton_kernel.load_function(program, folder)

    def launch(
        self, grid: Dim3, block: Dim3, shared_bytes: int, parameters: Any, stream: int,
        overlaps: bool,
    ) -> int:
        """Interpret all blocks, one after the other."""
        values = iter(parameters)
        arguments: dict[str, Any] = dict(self.program.constants)
        if "OVERLAPS" in arguments:
            arguments["OVERLAPS"] = False
        for name, kind in self.program.parameters:
            if kind != "constexpr":
                arguments[name] = _argument(kind, values)
        assert _number(next(values), ctypes.c_uint64) == 0, "global scratch"
        assert _number(next(values), ctypes.c_uint64) == 0, "profile scratch"
        assert next(values, None) is None, "more arguments than parameters"
        self.function[grid](**arguments)
        return 0


def _number(place: int, kind: Any) -> int:
    return int(kind.from_address(place).value)


def _argument(kind: str, values: Any) -> Any:
    if kind == "i32":
        return _number(next(values), ctypes.c_int32)
    if kind.startswith("*"):
        return _tensor_at(_number(next(values), ctypes.c_uint64), kind[1:])
    from triton.tools.tensor_descriptor import TensorDescriptor

    match = re.fullmatch(r"tensordesc<(\w+)\[([\d, ]+)\]>", kind)
    assert match is not None, kind
    box = [int(size) for size in match.group(2).split(",")]
    base = _tensor_at(_number(next(values), ctypes.c_uint64), match.group(1))
    shape = [_number(next(values), ctypes.c_int32) for _ in box]
    strides = [_number(next(values), ctypes.c_int64) for _ in box]
    return TensorDescriptor(base, shape, strides, box)


def _tensor_at(address: int, element: str) -> torch.Tensor:
    raw = (ctypes.c_char * 16).from_address(address)
    return torch.frombuffer(raw, dtype=TORCH_TYPES[element])


class InterpretedDevice(Device):
    """Like an H200, but small, so that blocks take several tiles; its memory is the host's."""

    capability = (9, 0)
    multiprocessors = 20
    shared_bytes = 227 * 1024
    l2_bytes = 50 * 2**20

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compile_cpp(self, source: str, name: str) -> Job:
        """Not for CUDA C++."""
        raise NotImplementedError

    def load(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        """The program that a blob holds."""
        return InterpretedKernel(pickle.loads(image), self.folder)

    def upload(self, array: Array) -> Memory:
        """A copy."""
        return HostMemory(np.array(array, order="C"))

    def allocate(self, size_bytes: int) -> Memory:
        """Host memory."""
        return HostMemory(np.empty(size_bytes, np.uint8))


class Interpreted(Emulated):
    """Where `check_cuda_tactic` runs in the interpreter's process."""

    def __init__(self, folder: Path) -> None:
        self.device = InterpretedDevice(folder)


def _run_job(job: triton_kernel.TritonJob) -> bytes:
    maps = [
        {"element": 0, "itemsize_bytes": 0, "swizzle": 0, "shape": []}
        for _, kind in job.program.parameters if kind.startswith("tensordesc")
    ]
    header = {"name": job.program.name, "warps": 1, "shared_bytes": 200 * 1024, "maps": maps}
    return triton_kernel.pack_blob(header, pickle.dumps(job.program))


def _encode(address: int, matrix: Any, box: Any) -> bytes:
    return address.to_bytes(8, "little") + bytes(tensor_map.SIZE_BYTES - 8)


def main(module: str, out: str, *names: str) -> None:
    """Run cases and write the error texts of those that fail."""
    # The interpreter's process has one purpose: nothing is put back.
    triton_kernel.TritonJob.run = _run_job  # type: ignore[method-assign]
    tensor_map.encode_map = _encode  # type: ignore[assignment]
    import triton_cases
    import triton_stored_cases
    from interpreter_shim import install

    install()
    for name in triton_cases.LIMITS:
        setattr(triton_tiles, name, 1000)
    results = {}
    with tempfile.TemporaryDirectory() as folder, testing_on(Interpreted(Path(folder))):
        cases = triton_stored_cases.CASES[module] | triton_cases.EPILOGUE_CASES.get(module, {})
        for name in names:
            error = _outcome(cases[name])
            if error:
                results[name] = error
    Path(out).write_text(json.dumps(results))


def _outcome(case: Callable[[], object]) -> str:
    try:
        case()
    except Exception:  # every failure is reported, by the test of that case
        return traceback.format_exc()[-3000:]
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
