"""A device that is none: layers run by their reference, in memory laid out as a plan says.

Steps run in a random order among those that the plan allows, so that a missing wait shows; every
arena starts as garbage, and every step fills its workspace with garbage.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from torch2rt.backends.backend import Backend, RunPlan, find_tactic
from torch2rt.backends.buffer import Buffer, address_of, aligned_bytes
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.network.dtype import DType
from torch2rt.network.layer import run_reference
from torch2rt.network.tensor import TensorType
from torch2rt.torch_values import constant_from_torch, constant_to_torch


@dataclass(frozen=True)
class Compile:
    """A job that leaves a trace in a folder each time it runs."""

    folder: str

    def run(self) -> bytes:
        Path(self.folder, f"{os.getpid()} {os.urandom(8).hex()}").touch()
        return b"compiled"


VIEWS = ("concat.cuda.view", "slice.cuda.view", "reshape.cuda.view", "transpose.cuda.view")


class Reference(Tactic):
    """The layer's reference on strided arrays; ``change`` makes its results wrong."""

    kinds = ("*",)

    def __init__(
        self, name: str, *, takes_runs: bool = True, kinds: tuple[str, ...] = ("*",),
        refuses: Callable[[LayerSpec], bool] = lambda spec: False,
        change: Callable[[np.ndarray], None] = lambda result: None,
        guess_us: float | None = None, level: int = 1, overwrites: bool = True,
        job: Any = None, takes_plain: bool = True,
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.kinds = kinds  # type: ignore[misc]
        self.level = level  # type: ignore[misc]
        self.takes_runs, self.refuses, self.change = takes_runs, refuses, change
        self.guess_us, self.overwrites, self.job = guess_us, overwrites, job
        self.takes_plain = takes_plain
        self.prepared: list[LayerSpec] = []

    def takes_pitch(self, spec: LayerSpec) -> bool:
        return self.takes_runs or super().takes_pitch(spec)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        return None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        return self.guess_us

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        if spec.kind.name == "reformat":
            pairs = [(a, b) for a in Layout for b in Layout if 1 == a.block == b.block]
            return [LayoutChoice((a,), (b,)) for a, b in pairs]
        return [
            LayoutChoice(_all(spec.inputs, layout), _all(spec.outputs, layout))
            for layout in (Layout.CHANNELS_LAST, Layout.PLAIN)[: 1 + self.takes_plain]
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        if self.job is not None:
            weights.blob(f"{self.name} {spec.code_signature}", self.job)
        if self.refuses(spec):
            raise Unprepared("the fake library refuses")
        self.prepared.append(spec)
        return ReferencePrepared(self, spec, weights)


def _all(tensors: Sequence[TensorSpec], layout: Layout) -> tuple[Layout, ...]:
    return tuple(layout if tensor.rank == 4 else Layout.PLAIN for tensor in tensors)


class ReferencePrepared(Prepared):
    workspace_bytes = 100

    def __init__(self, tactic: Reference, spec: LayerSpec, weights: Weights) -> None:
        self.tactic, self.spec, self.weights = tactic, spec, weights
        if tactic.overwrites and spec.kind.name == "pointwise":
            same = spec.outputs[0].with_layout(spec.outputs[0].layout)
            self.may_overwrite = tuple(
                index for index, tensor in enumerate(spec.inputs)
                if tensor == same == spec.outputs[0]
            )

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        for spec, buffer in zip((*self.spec.inputs, *self.spec.outputs), (*inputs, *outputs),
                                strict=True):
            assert spec == buffer.spec
        return [(self._run, (inputs, outputs, workspace))]

    def _run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int) -> int:
        raw(workspace, self.workspace_bytes)[:] = 0xEE
        types = [TensorType(output.shape, output.dtype) for output in self.spec.outputs]
        operands = [
            self._constant(buffer) if buffer.constant is not None
            else constant_to_torch(strided(buffer).copy(), buffer.spec.dtype)
            for buffer in inputs
        ]
        results = run_reference(self.spec.kind, self.spec.epilogue, operands, types)
        for buffer, result in zip(outputs, results, strict=True):
            strided(buffer)[...] = constant_from_torch(result)[0]
            self.tactic.change(strided(buffer))
        return 0

    def _constant(self, buffer: Buffer) -> torch.Tensor:
        assert buffer.constant is not None
        return constant_to_torch(self.weights.array(buffer.constant), buffer.spec.dtype)


def raw(address: int, size_bytes: int) -> np.ndarray:
    """The bytes at an address."""
    buffer = Buffer(TensorSpec((size_bytes,), DType.UINT8), address)
    return buffer.array()


def strided(buffer: Buffer) -> np.ndarray:
    """The tensor in a buffer, dense or in runs, over its memory."""
    spec = buffer.spec
    flat = raw(buffer.address, spec.extent_bytes).view(spec.dtype.numpy)
    steps = [stride * spec.dtype.itemsize_bytes for stride in spec.strides]
    return as_strided(flat, spec.shape, steps)


@dataclass
class FakeBackend(Backend):
    """Times are those of ``times_us`` by tactic name (a number, or a function of the spec).

    Runs of plans take ``run_us`` of their steps' tactics, else ``plan_times_us`` of their streams.
    """

    own: Sequence[Tactic] = ()
    views: Sequence[str] = VIEWS
    times_us: dict[str, Any] = field(default_factory=dict)
    max_streams: int = 1
    checks_candidates: bool = False
    plan_times_us: dict[int, float] = field(default_factory=dict)
    run_us: Callable[[list[str]], float] | None = None
    runs: list[list[str]] = field(default_factory=list)
    seed: int = 0
    version: str = ""
    compile_workers: int = 1
    timed: list[str] = field(default_factory=list)
    name = "cpu"
    device = "cpu"

    def __post_init__(self) -> None:
        views = [find_tactic("torch2rt.backends.cuda.tactics", name) for name in self.views]
        self._tactics = {tactic.name: tactic for tactic in (*self.own, *views)}
        self._host = CpuBackend(threads=1)

    @property
    def tactics(self) -> dict[str, Tactic]:
        return self._tactics

    def fingerprint(self) -> str:
        return "fake"

    def compiler_version(self) -> str:
        return self.version

    def allocate(self, size_bytes: int) -> Any:
        memory = aligned_bytes(size_bytes + 1)
        memory[:] = 0xCD
        return memory

    def address(self, memory: Any) -> int:
        return address_of(memory)

    def new_stream(self) -> Any:
        return None

    def building(self) -> AbstractContextManager[None]:
        return nullcontext()

    def time_calls_us(
        self, candidates: Sequence[Sequence[Call]], budget_ms: float,
        warm: Sequence[Sequence[Any]] | None = None,
    ) -> list[float]:
        times = []
        for calls in candidates:
            prepared = calls[0][0].__self__
            self.timed.append(prepared.tactic.name)
            found = self.times_us.get(prepared.tactic.name, 1.0)
            times.append(found(prepared.spec) if callable(found) else found)
        return times

    def runner(self, calls: Sequence[Call]) -> Callable[[], None]:
        return lambda: [function(*arguments) for function, arguments in calls] and None

    @property
    def times_runs(self) -> bool:  # type: ignore[override]
        return bool(self.plan_times_us) or self.run_us is not None

    def time_run_us(self, run: Any) -> float:
        self.runs.append(run.tactics)
        if self.run_us is not None:
            return self.run_us(run.tactics)
        return self.plan_times_us.get(run.stream_count, math.inf)

    def upload_bytes(self, address: int, data: np.ndarray) -> None:
        self._host.upload_bytes(address, data)

    def download_bytes(self, address: int, size_bytes: int) -> np.ndarray:
        return self._host.download_bytes(address, size_bytes)

    def plan_runner(
        self, calls_per_step: Sequence[Sequence[Call]], streams: Sequence[int],
        waits: Sequence[Sequence[int]],
    ) -> RunPlan:
        order = allowed_order(streams, waits, random.Random(self.seed))

        def run(stream: int = 0) -> None:
            for step in order:
                self.runner(calls_per_step[step])()

        run.stream_count = max(streams, default=0) + 1  # type: ignore[attr-defined]
        run.tactics = [  # type: ignore[attr-defined]
            calls[0][0].__self__.tactic.name for calls in calls_per_step
        ]
        return run


def allowed_order(
    streams: Sequence[int], waits: Sequence[Sequence[int]], chance: random.Random
) -> list[int]:
    """Steps in a random order that a device might run them in."""
    queues: dict[int, list[int]] = {}
    for step, stream in enumerate(streams):
        queues.setdefault(stream, []).append(step)
    order: list[int] = []
    while any(queues.values()):
        ready = [q for q in queues.values() if q and set(waits[q[0]]) <= set(order)]
        order.append(chance.choice(ready).pop(0))
    return order
