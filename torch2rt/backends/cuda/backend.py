"""The CUDA backend: one GPU, run through CuPy and the driver, without torch unless needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch2rt.backends.backend import Backend, Peaks, RunPlan, find_tactic, find_tactics
from torch2rt.backends.cuda import driver, nvrtc
from torch2rt.backends.cuda.device import FLOAT8_CAPABILITY, Memory, preparing_for
from torch2rt.backends.cuda.libraries import LibraryMissing
from torch2rt.backends.cuda.lock import device_lock
from torch2rt.backends.cuda.requirements import cudnn_version, missing_cudnn, triton_version
from torch2rt.backends.tactic import Call, Tactic
from torch2rt.errors import DeviceError
from torch2rt.network.dtype import Array, DType

if TYPE_CHECKING:
    from torch2rt.backends.cuda.timing import GraphTimer

_TACTICS = "torch2rt.backends.cuda.tactics"
# Whose tactics run no kernel that we compile; Python of plugins is known in this process alone.
_LIBRARIES = ("cudnn", "cublaslt", "torch", "python")
_INSTALL = "Install what is missing: pip install 'torch2rt[cuda]'."

# Measured with large copies and products of random data, bytes/s and flop/s.
_PEAKS = {
    "NVIDIA H200": Peaks(4.3e12, {
        DType.FLOAT16: 788e12, DType.BFLOAT16: 788e12, DType.INT8: 1577e12, DType.FLOAT32: 60e12,
    }),
    "NVIDIA H100 80GB HBM3": Peaks(3.0e12, {
        DType.FLOAT16: 788e12, DType.BFLOAT16: 788e12, DType.INT8: 1577e12, DType.FLOAT32: 60e12,
    }),
}


class CudaBackend(Backend):
    """Runs on GPU ``index`` of those this process sees. DeviceError says what is missing.

    ``notes`` says which libraries are off here and what that costs.
    """

    name = "cuda"
    checks_candidates = True
    max_streams = 4
    times_runs = True
    runs_to_settle = 3  # the first enqueues call by call, the second captures, the third replays

    def __init__(self, index: int = 0) -> None:
        self.device = f"cuda:{index}"
        _require(self.device, index)
        from torch2rt.backends.cuda.gpu import Gpu

        self.index = index
        self.device_object = Gpu(index)
        self.compile_workers = max(1, min(16, (os.cpu_count() or 2) - 1))
        missing = missing_cudnn()
        self.notes = [missing] if missing is not None else []
        self._has_cudnn = missing is None

    @cached_property
    def tactics(self) -> dict[str, Tactic]:
        """All tactics by name, without those of libraries that are not installed."""
        return {name: t for name, t in find_tactics(_TACTICS).items() if self._has(name)}

    def tactic(self, name: str) -> Tactic:
        """One tactic by name, importing no other; KeyError if there is none here."""
        if not self._has(name):
            raise KeyError(name)
        return find_tactic(_TACTICS, name)

    def _has(self, name: str) -> bool:
        return self._has_cudnn or ".cudnn." not in name

    def lacks_float8(self) -> str | None:
        """Those before sm_89."""
        gpu = self.device_object
        if gpu.capability >= FLOAT8_CAPABILITY:
            return None
        return f"{gpu.name} ({gpu.arch}) has no products of float8, which need sm_89 or newer"

    def fingerprint(self) -> str:
        """GPU and versions of the driver and of cuDNN."""
        gpu = self.device_object
        cudnn = cudnn_version() if self._has_cudnn else "none"
        version = ".".join(map(str, driver.driver_version()))
        return f"{gpu.name} {gpu.arch}; driver {version}; cudnn {cudnn}"

    def is_suspect(self, tactic: Tactic) -> bool:
        """Kernels of our own and of users: one that faults ends the context of its process."""
        return tactic.name.split(".")[1].partition("_")[0] not in _LIBRARIES

    def compiler_version(self) -> str:
        """Versions of NVRTC, Triton and cuDNN, and the architecture."""
        gpu = self.device_object
        return f"{gpu.name} {gpu.arch} {_nvrtc_version()} {triton_version()} {cudnn_version()}"

    def peaks(self) -> Peaks | None:
        """Measured peaks of GPUs that were measured."""
        return _PEAKS.get(self.device_object.name)

    # ---- memory and streams ----------------------------------------------------------------

    def allocate(self, size_bytes: int) -> Memory:
        """Uninitialised device memory. DeviceError when there is not enough."""
        with self.building():
            return self.device_object.allocate(size_bytes)

    def address(self, memory: Memory) -> int:
        """Address of allocated memory."""
        return memory.address

    def upload_bytes(self, address: int, data: Array) -> None:
        """Copy an array to device memory, and wait for it."""
        with self.building():
            self.device_object.write(address, data)

    def download_bytes(self, address: int, size_bytes: int) -> Array:
        """Bytes of device memory, after all work enqueued so far."""
        with self.building():
            return self.device_object.read(address, size_bytes)

    def new_stream(self) -> Any:
        """A CuPy stream that does not wait for the default one."""
        import cupy

        with self.building():
            return cupy.cuda.Stream(non_blocking=True)

    def building(self) -> AbstractContextManager[None]:
        """Inside, this GPU is the current one, for tactics and for CuPy."""
        return self._building()

    @contextmanager
    def _building(self) -> Iterator[None]:
        import cupy

        with cupy.cuda.Device(self.index), preparing_for(self.device_object):
            yield

    def exclusive(self) -> AbstractContextManager[None]:
        """Other builds on this GPU, which take the same lock, wait: they would disturb."""
        return device_lock(self.device_object.identity)

    # ---- running ---------------------------------------------------------------------------

    def time_calls_us(
        self, candidates: Sequence[Sequence[Call]], budget_ms: float,
        warm: Sequence[Sequence[Any]] | None = None,
    ) -> list[float]:
        """Median time of each candidate, captured in a graph, in microseconds."""
        with self.building():
            return self._timer.time_us(candidates, budget_ms, warm)

    @cached_property
    def _timer(self) -> GraphTimer:
        from torch2rt.backends.cuda.timing import GraphTimer

        return GraphTimer(self.device_object.l2_bytes)

    def time_run_us(self, run: RunPlan) -> float:
        """Median time of a plan's run, replayed as it will be, in microseconds."""
        from torch2rt.backends.cuda.timing import time_run_us

        with self.building():
            return time_run_us(run)

    def runner(self, calls: Sequence[Call]) -> Callable[[], None]:
        """A function that runs the calls on the default stream and waits for them."""
        import cupy

        from torch2rt.backends.cuda.replay import Replay

        with self.building():
            replay = Replay(self.index, [calls])

        def run() -> None:
            replay(0)
            cupy.cuda.Stream.null.synchronize()

        return run

    def plan_runner(
        self, calls_per_step: Sequence[Sequence[Call]], streams: Sequence[int],
        waits: Sequence[Sequence[int]],
    ) -> RunPlan:
        """A function that replays the steps as CUDA graphs on a stream."""
        from torch2rt.backends.cuda.replay import Replay

        with self.building():
            return Replay(self.index, calls_per_step, streams, waits)

    def is_idle(self, run: RunPlan, stream: int) -> bool:
        """Whether a run on this stream need not wait for one on another stream."""
        return bool(run.is_idle(stream))  # type: ignore[attr-defined]


def _require(device: str, index: int) -> None:
    """DeviceError unless there is a driver, this GPU, and CuPy."""
    if find_spec("cupy") is None:
        raise DeviceError(device=device, reason="CuPy is not installed", remedy=_INSTALL)
    try:
        count = driver.device_count()
    except (LibraryMissing, driver.DriverError) as error:
        raise DeviceError(
            device=device, reason=f"no NVIDIA GPU can be used ({error})",
            remedy='Use device="cpu".',
        ) from error
    if not 0 <= index < count:
        raise DeviceError(
            device=device, reason=f"this process sees {count} GPU(s)",
            remedy=f'Use one of "cuda:0" to "cuda:{count - 1}".',
        )


def _nvrtc_version() -> str:
    try:
        return ".".join(map(str, nvrtc.version()))
    except LibraryMissing:
        return "none"
