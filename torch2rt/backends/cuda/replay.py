"""Runs the steps of a plan: as CUDA graphs, replayed, with calls between them that no graph takes.

The first run enqueues every call, so that libraries and modules are loaded; the second captures.
Steps that touch memory of the caller stay in the graph when they are kernels of ours: their
parameters are replaced when an address changes. Other such steps are enqueued between graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import cupy

from torch2rt.backends.cuda import driver
from torch2rt.backends.cuda.gpu import GpuKernel
from torch2rt.backends.cuda.launch import CudaCall, KernelCall, cuda_call
from torch2rt.backends.tactic import Call
from torch2rt.errors import DeviceError

_RELAXED = 2  # cudaStreamCaptureModeRelaxed: other threads may allocate meanwhile


@lru_cache(maxsize=64)
def stream_at(pointer: int) -> Any:
    """CuPy's object for a stream of somebody else; 0 is the default stream."""
    if not pointer:
        return cupy.cuda.Stream.null
    return cupy.cuda.Stream.from_external(_ForeignStream(pointer))


class _ForeignStream:
    """A stream of somebody else, as CUDA's Python packages tell each other of theirs."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


class Replay:
    """Runs steps on a stream of the caller, in order with what is enqueued there."""

    def __init__(
        self, device: int, calls_per_step: Sequence[Sequence[Call]], streams: Sequence[int] = (),
        waits: Sequence[Sequence[int]] = (),
    ) -> None:
        self._device = device
        self._calls = [[cuda_call(call) for call in calls] for calls in calls_per_step]
        self._streams = list(streams) or [0] * len(self._calls)
        self._waits = [list(row) for row in waits] or [[] for _ in self._calls]
        self._parts: list[Callable[[Any], None]] | None = None
        self._has_run = False
        self._last_stream: int | None = None
        self._event = cupy.cuda.Event(block=False, disable_timing=True)

    def __call__(self, stream: int = 0) -> None:
        """Enqueue everything on the stream with this handle. DeviceError when that fails."""
        if cupy.cuda.runtime.getDevice() != self._device:
            with cupy.cuda.Device(self._device):
                self._run(stream)
        else:
            self._run(stream)

    def is_idle(self, stream: int) -> bool:
        """Whether a run on this stream need not wait for one on another."""
        return self._last_stream in (None, stream) or bool(self._event.done)

    def _run(self, stream: int) -> None:
        target = stream_at(stream)
        if self._last_stream is not None and self._last_stream != stream:
            target.wait_event(self._event)
        if self._parts is None and self._has_run:
            self._parts = list(self._capture_all())
        if self._parts is None:
            for call in (call for calls in self._calls for call in calls):
                _enqueue(call, target, overlaps=False)
            self._has_run = True
        else:
            for part in self._parts:
                part(target)
        self._event.record(target)
        self._last_stream = stream

    def _capture_all(self) -> Iterator[Callable[[Any], None]]:
        """Graphs of as many steps as possible, and between them the others, call by call."""
        pending: list[int] = []
        for index, calls in enumerate(self._calls):
            if all(_is_captured(call) for call in calls):
                pending.append(index)
                continue
            if pending:
                yield _Graph(self, pending)
            yield from (_Direct(call) for call in calls)
            pending = []
        if pending:
            yield _Graph(self, pending)

    def step(self, index: int) -> tuple[list[CudaCall], int, list[int]]:
        """Calls, stream and awaited steps of one step."""
        return self._calls[index], self._streams[index], self._waits[index]


class _Direct:
    """A call that is enqueued at every run."""

    def __init__(self, call: CudaCall) -> None:
        self._call = call

    def __call__(self, stream: Any) -> None:
        _enqueue(self._call, stream, overlaps=False)


class _Graph:
    """Consecutive steps as one graph, whose branches run side by side."""

    def __init__(self, owner: Replay, steps: Sequence[int]) -> None:
        self._owner = owner
        self._steps = steps
        self._nodes: list[tuple[KernelCall, driver.KernelNode]] = []
        # Kept: the graph's nodes refer to what the calls hold.
        self._lanes = [cupy.cuda.Stream(non_blocking=True)]
        self._graph = self._capture()

    def __call__(self, stream: Any) -> None:
        for call, node in self._nodes:
            if call.is_dirty:
                node.update(self._graph.graphExec)
                call.is_dirty = False
        self._graph.launch(stream)

    def _capture(self) -> Any:
        main = self._lanes[0]
        main.begin_capture(_RELAXED)
        try:
            self._enqueue_all(main)
        except BaseException:
            _abandon(main)
            raise
        return main.end_capture()

    def _enqueue_all(self, main: Any) -> None:
        start = _mark(main)
        ends: dict[int, Any] = {}
        previous: dict[int, CudaCall | None] = {0: None}
        awaited = {step for index in self._steps for step in self._owner.step(index)[2]}
        for index in self._steps:
            calls, lane, waits = self._owner.step(index)
            if lane not in previous:
                self._open(lane, start)
                previous[lane] = None
            stream = self._lanes[lane]
            for step in waits:
                if step in ends:
                    stream.wait_event(ends[step])
                    previous[lane] = None
            for call in calls:
                self._enqueue(call, stream, previous[lane])
                previous[lane] = call
            if index in awaited:
                ends[index] = _mark(stream)
        for lane in previous:
            if lane:
                main.wait_event(_mark(self._lanes[lane]))

    def _open(self, lane: int, start: Any) -> None:
        while len(self._lanes) <= lane:
            self._lanes.append(cupy.cuda.Stream(non_blocking=True))
        self._lanes[lane].wait_event(start)

    def _enqueue(self, call: CudaCall, stream: Any, previous: CudaCall | None) -> None:
        _enqueue(call, stream, overlaps=isinstance(previous, KernelCall))
        if isinstance(call, KernelCall) and call.moves:
            self._nodes.append((call, _node(call, stream)))
            call.is_dirty = False


def _enqueue(call: CudaCall, stream: Any, *, overlaps: bool) -> None:
    call.stream = stream
    status = call.enqueue(overlaps)
    if status:
        raise DeviceError(
            device="cuda", reason=f"{call} ended with status {status}",
            remedy="Convert the model again on this machine; if it stays, please report it.",
        )


def _node(call: KernelCall, stream: Any) -> driver.KernelNode:
    """The node that has just been captured for a launch."""
    launch = call.launch
    if not isinstance(launch.kernel, GpuKernel):
        raise TypeError(f"{launch.kernel!r} is not a kernel of a GPU")
    return driver.KernelNode(
        driver.captured_node(stream.ptr), launch.kernel.function, launch.grid, launch.block,
        launch.shared_bytes, call.parameters,
    )


def _mark(stream: Any) -> Any:
    event = cupy.cuda.Event(block=False, disable_timing=True)
    event.record(stream)
    return event


def _abandon(stream: Any) -> None:
    """End a capture that has failed, so that the stream can be used again."""
    try:
        stream.end_capture()
    except cupy.cuda.runtime.CUDARuntimeError:
        return  # the failure that is being raised says why


def _is_captured(call: CudaCall) -> bool:
    return call.is_capturable and (not call.moves or isinstance(call, KernelCall))
