"""A GPU: the `Device` that tactics prepare for, on CuPy and the driver."""

from __future__ import annotations

import ctypes
from typing import Any

import cupy
import numpy as np

from torch2rt.backends.cuda import driver
from torch2rt.backends.cuda.device import Device, Dim3, Kernel, Memory
from torch2rt.backends.cuda.nvrtc import CppJob
from torch2rt.backends.tactic import Job, Unprepared
from torch2rt.errors import DeviceError
from torch2rt.network.dtype import Array


class GpuMemory(Memory):
    """Memory of CuPy's pool."""

    def __init__(self, pointer: Any, size_bytes: int) -> None:
        self._pointer = pointer
        self.address: int = pointer.ptr
        self.size_bytes = size_bytes


class GpuKernel(Kernel):
    """A function of a loaded module."""

    def __init__(self, image: bytes, name: str, shared_bytes: int) -> None:
        self.name = name
        try:
            self._module, self.function = driver.load_function(image, name, shared_bytes)
            self.registers = driver.registers(self.function)
        except driver.DriverError as error:
            raise Unprepared(str(error)) from error

    def launch(
        self, grid: Dim3, block: Dim3, shared_bytes: int, parameters: ctypes.Array[Any],
        stream: int, overlaps: bool,
    ) -> int:
        """Enqueue it through the driver."""
        return driver.launch(
            self.function, grid, block, shared_bytes, parameters, stream, overlaps
        )


class Gpu(Device):
    """GPU ``index`` of those this process sees."""

    def __init__(self, index: int) -> None:
        self.index = index
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.name: str = properties["name"].decode()
        # The same in every process, whatever GPUs it sees.
        bus_id: str = cupy.cuda.runtime.deviceGetPCIBusId(index)
        self.identity = bus_id.replace(":", "-")
        self.capability = (int(properties["major"]), int(properties["minor"]))
        self.multiprocessors = int(properties["multiProcessorCount"])
        self.shared_bytes = int(properties["sharedMemPerBlockOptin"])
        self.l2_bytes = int(properties["l2CacheSize"])
        self.total_bytes = int(properties["totalGlobalMem"])
        with cupy.cuda.Device(index):
            cupy.cuda.runtime.free(0)  # makes the primary context current

    def compile_cpp(self, source: str, name: str) -> Job:
        """NVRTC for this architecture."""
        return CppJob(source, name, self.arch)

    def load(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        """A kernel of an image. Unprepared when the driver refuses it."""
        return GpuKernel(image, name, shared_bytes)

    def upload(self, array: Array) -> Memory:
        """A copy in device memory, there when this returns."""
        array = np.ascontiguousarray(array)
        memory = self.allocate(array.nbytes)
        self.write(memory.address, array)
        return memory

    def write(self, address: int, array: Array) -> None:
        """Copy an array's bytes to device memory, and wait for it."""
        array = np.ascontiguousarray(array)
        if array.nbytes:
            host = array.__array_interface__["data"][0]
            cupy.cuda.runtime.memcpy(
                address, host, array.nbytes, cupy.cuda.runtime.memcpyHostToDevice
            )

    def read(self, address: int, size_bytes: int) -> Array:
        """Bytes of device memory, after everything enqueued so far."""
        result = np.empty(size_bytes, np.uint8)
        cupy.cuda.runtime.deviceSynchronize()
        if size_bytes:
            cupy.cuda.runtime.memcpy(
                result.ctypes.data, address, size_bytes, cupy.cuda.runtime.memcpyDeviceToHost
            )
        return result

    def allocate(self, size_bytes: int) -> Memory:
        """Uninitialised memory. DeviceError says how much there would have to be."""
        try:
            return GpuMemory(cupy.cuda.alloc(max(size_bytes, 16)), size_bytes)
        except cupy.cuda.memory.OutOfMemoryError as error:
            free, total = cupy.cuda.runtime.memGetInfo()
            raise DeviceError(
                device=f"cuda:{self.index}",
                reason=f"{size_bytes / 2**30:.2f} GiB are needed for one block of memory and "
                f"{free / 2**30:.2f} of {total / 2**30:.2f} GiB are free",
                remedy="Use a smaller batch or a lower precision, or free memory on the device.",
            ) from error
