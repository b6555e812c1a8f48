"""The emulated device: compile, load and launch."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from torch2rt.backends.buffer import address_of, aligned_bytes
from torch2rt.backends.cuda.device import Device, Dim3, Kernel, Memory
from torch2rt.backends.tactic import Job, Unprepared

_HEADER = Path(__file__).with_name("emulator.h")
_HOPPER_HEADER = Path(__file__).with_name("hopper.h")
# Every access of a misaligned address calls a handler of the header; linking is apart, since the
# sanitizer's own library is not wanted.
_FLAGS = (
    "-std=c++17", "-O1", "-fwrapv", "-fPIC", "-w", "-fno-exceptions", "-fsanitize=alignment",
)
_EXTERN_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;"
)
_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_BLOCK = (1024, 1024, 64)
_MAX_STATIC_AND_DYNAMIC = 227 * 1024


class EmulationError(Exception):
    """A kernel did what a GPU leaves undefined or refuses."""


class HostMemory(Memory):
    """Host memory as device memory."""

    def __init__(self, size_bytes: int) -> None:
        self.raw = aligned_bytes(max(size_bytes, 1), 256)
        self.raw[:] = 0xFF
        self.address = address_of(self.raw)
        self.size_bytes = size_bytes


@dataclass(frozen=True)
class EmulatedCompile:
    """Compile CUDA C++ with the host's compiler; results are kept in the temporary folder."""

    source: str
    name: str

    def run(self) -> bytes:
        """The shared library."""
        hopper = ""
        if "TensorMap" in self.source:
            hopper = f'#line 1 "hopper.h"\n{_HOPPER_HEADER.read_text()}\n'
        text = (
            f'#line 1 "emulator.h"\n{_HEADER.read_text()}\n{hopper}#line 1 "{self.name}.cu"\n'
            f"{_EXTERN_SHARED.sub(_replace_extern, self.source)}\n"
            f"T2R_EMULATED_KERNEL({self.name})\n"
        )
        digest = hashlib.sha256((text + repr(_FLAGS)).encode()).hexdigest()[:32]
        kept = _folder() / f"{digest}.so"
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=_folder()) as folder:
                source, made = Path(folder) / f"{self.name}.cpp", Path(folder) / "made.so"
                compiled = source.with_suffix(".o")
                source.write_text(text)
                self._call("g++", *_FLAGS, "-c", "-o", str(compiled), str(source))
                self._call("g++", "-shared", "-o", str(made), str(compiled))
                made.replace(kept)
        return kept.read_bytes()

    def _call(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unprepared(f"{self.name} does not compile:\n{done.stderr[:4000]}")


def _replace_extern(match: re.Match[str]) -> str:
    kind, name = match.groups()
    return f"{kind}* const {name} = ({kind}*)t2r_emulated::dynamic_shared;"


@cache
def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"torch2rt-emulated-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


class EmulatedKernel(Kernel):
    """A loaded kernel."""

    def __init__(
        self, image: bytes, name: str, shared_bytes: int, device: EmulatedDevice
    ) -> None:
        self.name = name
        self.device = device
        self.shared_bytes = shared_bytes
        with tempfile.NamedTemporaryFile(suffix=".so", dir=_folder()) as file:
            file.write(image)
            file.flush()
            self._library = ctypes.CDLL(file.name)
        self._library.t2r_emulated_message.restype = ctypes.c_char_p
        self._launch: Any = self._library.t2r_emulated_launch
        self._launch.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
        ]

    @property
    def parameter_count(self) -> int:
        """Parameters in the kernel's signature."""
        return int(self._library.t2r_emulated_parameter_count())

    def launch(
        self, grid: Dim3, block: Dim3, shared_bytes: int, parameters: ctypes.Array[Any],
        stream: int, overlaps: bool,
    ) -> int:
        """Run it at once. EmulationError says what a device would not have survived."""
        self._check_limits(grid, block, shared_bytes)
        if len(parameters) != max(self.parameter_count, 1):
            raise EmulationError(
                f"{self.name} has {self.parameter_count} parameters, {len(parameters)} are given"
            )
        shared = aligned_bytes(shared_bytes + 256, 1024)
        sizes = (ctypes.c_uint32 * 6)(*grid, *block)
        status: int = self._launch(
            ctypes.addressof(parameters), ctypes.addressof(sizes), address_of(shared),
            shared_bytes, int(overlaps) + 2 * int(self.device.is_descending),
        )
        if status:
            raise EmulationError(f"{self.name}: {self._library.t2r_emulated_message().decode()}")
        if shared[shared_bytes:].any():
            raise EmulationError(f"{self.name} wrote beyond its dynamic shared memory")
        return status

    def _check_limits(self, grid: Dim3, block: Dim3, shared_bytes: int) -> None:
        for what, sizes, limits in (("grid", grid, _MAX_GRID), ("block", block, _MAX_BLOCK)):
            if any(not 1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                raise EmulationError(f"{self.name}: {what} {sizes} is not within {limits}")
        if math.prod(block) > 1024:
            raise EmulationError(f"{self.name}: {math.prod(block)} threads in a block")
        allowed = max(self.shared_bytes, 48 * 1024)
        if shared_bytes > allowed:
            raise EmulationError(
                f"{self.name}: {shared_bytes} bytes of shared memory, loaded for {allowed}"
            )


class EmulatedDevice(Device):
    """What an H200 says of itself, with host memory.

    ``is_descending``: blocks and threads run in the opposite order.
    """

    capability = (9, 0)
    multiprocessors = 132
    shared_bytes = _MAX_STATIC_AND_DYNAMIC
    l2_bytes = 60 * 2**20
    is_descending = False

    def compile_cpp(self, source: str, name: str) -> Job:
        """The job that compiles with g++."""
        return EmulatedCompile(source, name)

    def load(self, image: bytes, name: str, shared_bytes: int = 0) -> EmulatedKernel:
        """Load a shared library."""
        return EmulatedKernel(image, name, shared_bytes, self)

    def upload(self, array: np.ndarray) -> HostMemory:
        """A copy of an array."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        memory = self.allocate(raw.size)
        memory.raw[: raw.size] = raw
        return memory

    def allocate(self, size_bytes: int) -> HostMemory:
        """Host memory full of poison."""
        return HostMemory(size_bytes)
