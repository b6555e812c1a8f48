from __future__ import annotations

import ctypes
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.device import Device, Dim3, Kernel, Memory, preparing_for
from torch2rt.backends.cuda.launch import I32, In, KernelCall, Out
from torch2rt.backends.cuda.triton import tensor_map
from torch2rt.backends.cuda.triton.kernel import (
    Program,
    TritonJob,
    TritonKernel,
    pack_blob,
    triton_kernel,
    unpack_blob,
)
from torch2rt.backends.cuda.triton.tensor_map import Box, Matrix
from torch2rt.backends.spec import TensorSpec
from torch2rt.backends.tactic import Job, Unprepared, Weights
from torch2rt.network.dtype import Array, DType

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)
"""


def program(**changes: Any) -> Program:
    fields = {
        "name": "double", "source": SOURCE,
        "parameters": (("x", "*fp16"), ("y", "*fp16"), ("n", "i32"), ("BLOCK", "constexpr")),
        "constants": (("BLOCK", 256),), "divisors": (("x", 16), ("y", 16)), "warps": 4,
        "stages": 2,
    }
    return Program(**{**fields, **changes})


class RecordingKernel(Kernel):
    name = "recording"

    def __init__(self) -> None:
        self.launched: list[tuple[Dim3, Dim3, int, bool]] = []

    def launch(
        self, grid: Dim3, block: Dim3, shared_bytes: int, parameters: Any, stream: int,
        overlaps: bool,
    ) -> int:
        self.launched.append((grid, block, shared_bytes, overlaps))
        return 0


class RecordingDevice(Device):
    capability = (9, 0)
    multiprocessors = 132
    shared_bytes = 227 * 1024
    l2_bytes = 50 * 2**20

    def __init__(self) -> None:
        self.loaded: list[tuple[bytes, str, int]] = []

    def compile_cpp(self, source: str, name: str) -> Job:
        raise NotImplementedError

    def load(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        self.loaded.append((image, name, shared_bytes))
        return RecordingKernel()

    def upload(self, array: Array) -> Memory:
        raise NotImplementedError

    def allocate(self, size_bytes: int) -> Memory:
        raise NotImplementedError


class OneBlob(Weights):
    def __init__(self, blob: bytes) -> None:
        self.keys: list[str] = []
        self._blob = blob
        self._made: dict[Any, Any] = {}

    def array(self, name: str) -> Array:
        raise NotImplementedError

    def packed(self, key: Any, make: Any) -> Any:
        return self._made.setdefault(key, make())

    def blob(self, key: str, job: Job) -> bytes:
        self.keys.append(key)
        return self._blob


def header(**changes: Any) -> dict[str, Any]:
    return {"name": "double", "warps": 4, "shared_bytes": 1024, "maps": [], **changes}


def test_blob_survives_packing() -> None:
    blob = pack_blob(header(), b"\x7fELF...")
    assert unpack_blob(blob) == (header(), b"\x7fELF...")


@pytest.mark.parametrize("blob", [b"", b"short", (10**6).to_bytes(8, "little") + b"{}",
                                  (2).to_bytes(8, "little") + b"[]"])
def test_other_bytes_are_no_blob(blob: bytes) -> None:
    with pytest.raises(ValueError, match="not a compiled Triton kernel"):
        unpack_blob(blob)


def test_digest_tells_programs_apart() -> None:
    digests = {
        program().digest, program(warps=8).digest, program(stages=3).digest,
        program(constants=(("BLOCK", 128),)).digest, program(source=SOURCE + "\n").digest,
        program(divisors=()).digest,
    }
    assert len(digests) == 6
    assert program().digest == program().digest


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0)])
def test_program_compiles_ahead(capability: tuple[int, int]) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    job = pickle.loads(pickle.dumps(TritonJob(program(), capability)))
    found, image = unpack_blob(job.run())
    assert image[:4] == b"\x7fELF"
    assert (found["name"], found["warps"], found["maps"]) == ("double", 4, [])


def test_program_that_does_not_compile_is_unprepared() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    broken = program(source=SOURCE.replace("* 2", "* undefined"))
    with pytest.raises(Unprepared, match="Triton refuses double"):
        TritonJob(broken, (9, 0)).run()


def test_parameters_must_be_the_functions() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    swapped = program(parameters=(
        ("y", "*fp16"), ("x", "*fp16"), ("n", "i32"), ("BLOCK", "constexpr"),
    ))
    with pytest.raises(ValueError, match="double takes"):
        TritonJob(swapped, (9, 0)).run()


def test_loading_gives_the_blobs_kernel() -> None:
    device = RecordingDevice()
    weights = OneBlob(pack_blob(header(), b"image"))
    with preparing_for(device):
        kernel = triton_kernel(weights, program())
        again = triton_kernel(weights, program())
    assert kernel is again
    assert device.loaded[0] == (b"image", "double", 1024)
    assert weights.keys[0] == f"triton/sm_90a/double/{program().digest}"


def test_too_much_shared_memory_is_unprepared() -> None:
    weights = OneBlob(pack_blob(header(shared_bytes=300_000), b"image"))
    with (
        preparing_for(RecordingDevice()),
        pytest.raises(Unprepared, match="wants 300000 bytes of shared memory"),
    ):
        triton_kernel(weights, program())


def test_arguments_follow_tritons_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(element=6, itemsize_bytes=2, swizzle=3, shape=(64, 64))
    monkeypatch.setattr(
        tensor_map, "encode_map",
        lambda address, matrix, box: address.to_bytes(8, "little") + bytes(120),
    )
    device_kernel = RecordingKernel()
    kernel = TritonKernel(device_kernel, 8, 4096, (box,))
    launch = kernel.launch(
        (7, 1, 1), [Matrix(In(0), (100, 200), (208, 1)), Out(0), I32(5)], overlaps=True
    )
    spec = TensorSpec((100, 208), DType.FLOAT16)
    call = KernelCall(launch, [Buffer(spec, 4096)], [Buffer(spec, 8192)], 0, None)
    kinds = [
        ctypes.c_uint64, ctypes.c_int32, ctypes.c_int32, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_uint64, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64,
    ]
    values = [
        kind.from_address(place).value for kind, place in zip(kinds, call.parameters, strict=True)
    ]
    assert values == [4096, 100, 200, 208, 1, 8192, 5, 0, 0]
    assert call.parameters[0] % 64 == 0
    call()
    assert device_kernel.launched[0][:3] == ((7, 1, 1), (256, 1, 1), 4096)


def test_loading_imports_neither_triton_nor_torch() -> None:
    code = """
import sys
import torch2rt.backends.cuda.tactics.matmul_triton
import torch2rt.backends.cuda.tactics.convolution_triton
import json
print(json.dumps([name for name in ("triton", "torch", "cupy") if name in sys.modules]))
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent,
    )
    assert json.loads(finished.stdout) == []
