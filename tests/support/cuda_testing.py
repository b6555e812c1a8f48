"""Checks a tactic of the CUDA backend against the layer's reference, in every layout it offers.

    check_cuda_tactic("pool.cuda.window", Pool(...), [torch.randn(2, 8, 9, 9).half()])

Kernels run on the emulated device, or on the GPU where the fixture ``cuda_device`` says so.
Every operand lies between guard bytes that must stay as they are; inputs must too, unless the
output may overwrite them; outputs and workspace start as garbage; everything runs twice,
on the emulated device with threads and blocks in ascending and in descending order.
"""

from __future__ import annotations

import abc
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cuda_emulator import EmulatedDevice
from tactic_testing import DictWeights, assert_near, from_bytes, make_spec, to_bytes

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.buffer import Buffer, address_of, aligned_bytes
from torch2rt.backends.cuda.device import Device, preparing_for
from torch2rt.backends.cuda.launch import KernelCall
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Call, Job, Prepared, Refusal, Unprepared, View
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind, run_reference
from torch2rt.network.tensor import TensorType
from torch2rt.torch_values import constant_from_torch

GUARD_BYTES = 256
# Reading what lies around an input gives NaN; around an output lies something else.
GUARD, OUTPUT_GUARD, POISON = 0xFF, 0xA5, (0xFF, 0x5A)
PITCH_PADDING_BYTES = 48
TACTICS = "torch2rt.backends.cuda.tactics"


class Arena(abc.ABC):
    """Bytes on the tested device; ``raw`` is their copy on the host."""

    raw: np.ndarray
    address: int

    @abc.abstractmethod
    def push(self) -> None:
        """``raw`` to the device."""

    @abc.abstractmethod
    def pull(self) -> None:
        """The device's bytes to ``raw``."""


class TestedDevice(abc.ABC):
    """Where kernels run in a test."""

    __test__ = False
    device: Device

    @abc.abstractmethod
    def arena(self, size_bytes: int) -> Arena:
        """Memory."""

    @abc.abstractmethod
    def stream(self) -> Any:
        """What `Prepared.bind` takes as a stream."""

    @abc.abstractmethod
    def run(self, calls: Sequence[Call], is_descending: bool = False) -> None:
        """Run calls and wait for them; threads in the opposite order where that can be chosen."""


class HostArena(Arena):
    """Memory of the emulated device: the host's."""

    def __init__(self, size_bytes: int) -> None:
        self.raw = aligned_bytes(size_bytes, 256)
        self.address = address_of(self.raw)

    def push(self) -> None:
        """Nothing to do."""

    def pull(self) -> None:
        """Nothing to do."""


class Emulated(TestedDevice):
    """The emulated device."""

    device: EmulatedDevice

    def __init__(self) -> None:
        self.device = EmulatedDevice()

    def arena(self, size_bytes: int) -> Arena:
        """Host memory."""
        return HostArena(size_bytes)

    def stream(self) -> Any:
        """None: calls run at once."""
        return None

    def run(self, calls: Sequence[Call], is_descending: bool = False) -> None:
        """One call after the other."""
        self.device.is_descending = is_descending
        for function, arguments in calls:
            if isinstance(function, KernelCall):
                status = function.enqueue(overlaps=True)
            else:
                status = function(*arguments)
            assert not status, f"{function} reports {status}"


class GpuArena(Arena):
    """Memory of the GPU."""

    def __init__(self, device: Any, size_bytes: int) -> None:
        self.device = device
        self.raw = np.zeros(size_bytes, np.uint8)
        self.memory = device.allocate(size_bytes)
        self.address = self.memory.address

    def push(self) -> None:
        """Copy to the GPU."""
        self.device.write(self.address, self.raw)

    def pull(self) -> None:
        """Copy from the GPU, after all kernels."""
        self.raw[:] = self.device.read(self.address, self.raw.size)


class RealGpu(TestedDevice):
    """GPU 0, through the backend."""

    def __init__(self) -> None:
        from torch2rt.backends.cuda.backend import CudaBackend

        self.backend = CudaBackend(0)
        self.device = self.backend.device_object

    def arena(self, size_bytes: int) -> Arena:
        """Device memory."""
        with self.backend.building():
            return GpuArena(self.device, size_bytes)

    def stream(self) -> Any:
        """A stream."""
        return self.backend.new_stream()

    def run(self, calls: Sequence[Call], is_descending: bool = False) -> None:
        """Through the backend's runner."""
        self.backend.runner(calls)()


_tested: ContextVar[TestedDevice] = ContextVar("tested_cuda_device")


@cache
def emulated() -> TestedDevice:
    """The emulated device."""
    return Emulated()


@cache
def real_gpu() -> TestedDevice:
    """GPU 0."""
    return RealGpu()


def device_under_test() -> TestedDevice:
    """Where `check_cuda_tactic` runs: as the fixture ``cuda_device`` says, else emulated."""
    return _tested.get(emulated())


@contextmanager
def testing_on(device: TestedDevice) -> Iterator[TestedDevice]:
    """Make `check_cuda_tactic` run there."""
    token = _tested.set(device)
    try:
        yield device
    finally:
        _tested.reset(token)


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda_device(request: pytest.FixtureRequest) -> Iterator[TestedDevice]:
    """The device that `check_cuda_tactic` runs on; a test that uses it runs on both."""
    with testing_on(emulated() if request.param == "emulated" else real_gpu()) as device:
        yield device


class BlobWeights(DictWeights):
    """Constants, and blobs as an engine file keeps them. Jobs must survive pickling.

    With ``stored`` blobs no job is run: a plan is loaded so.
    """

    def __init__(self, arrays: dict[str, Any], stored: dict[str, bytes] | None = None) -> None:
        super().__init__(arrays)
        self.is_loading = stored is not None
        self.blobs = stored if stored is not None else {}

    def blob(self, key: str, job: Job) -> bytes:
        """The stored blob, or what the job makes."""
        if key not in self.blobs:
            assert not self.is_loading, f"asks for another blob when it is loaded: {key}"
            self.blobs[key] = pickle.loads(pickle.dumps(job)).run()
        return self.blobs[key]


class Region:
    """A tensor's place in an arena: runs of bytes, or one dense run."""

    def __init__(self, arena: Arena, offset: int, size: int, run: int = 0, pitch: int = 0) -> None:
        self.arena, self.offset, self.size = arena, offset, size
        self.run, self.pitch = (run, pitch) if pitch and run < size else (size, size)

    @property
    def address(self) -> int:
        """Address of its first byte."""
        return self.arena.address + self.offset

    def _rows(self) -> np.ndarray:
        count = self.size // self.run if self.run else 0
        raw = self.arena.raw[self.offset :]
        return np.lib.stride_tricks.as_strided(raw, (count, self.run), (self.pitch, 1))

    def write(self, data: np.ndarray) -> None:
        """Dense bytes to where they belong."""
        if self.size:
            self._rows()[:] = data.reshape(-1, self.run)

    def read(self) -> np.ndarray:
        """Dense bytes."""
        return self._rows().reshape(-1).copy() if self.size else np.zeros(0, np.uint8)

    def part(self, view: View, spec: TensorSpec) -> Region:
        """The place of a view's inner operand, this being the outer one's."""
        assert self.run == self.size, "a view of a pitched tensor"
        item = spec.dtype.itemsize_bytes
        return Region(
            self.arena, self.offset + view.offset_bytes, spec.size_bytes, view.run * item,
            view.pitch * item,
        )


def _place(device: TestedDevice, spec: TensorSpec) -> Region:
    item = spec.dtype.itemsize_bytes
    size = spec.size_bytes
    if spec.is_dense:
        return Region(device.arena(size + 2 * GUARD_BYTES), GUARD_BYTES, size)
    rows = spec.element_count // spec.run
    arena = device.arena(rows * spec.pitch * item + 2 * GUARD_BYTES)
    # Not at the start of the wider tensor's first row.
    return Region(arena, GUARD_BYTES + 16, size, spec.run * item, spec.pitch * item)


def _regions(
    device: TestedDevice, prepared: Prepared, spec: LayerSpec, overwritten: int | None
) -> dict[tuple[str, int], Region]:
    operands = {("output", index): operand for index, operand in enumerate(spec.outputs)}
    operands |= {
        ("input", index): operand for index, operand in enumerate(spec.inputs)
        if spec.constants[index] is None
    }
    views = {view.inner: view for view in prepared.views}
    regions = {
        key: _place(device, operand) for key, operand in operands.items() if key not in views
    }
    if overwritten is not None:
        output, given = regions["output", 0], regions["input", overwritten]
        assert (output.size, output.run, output.pitch) == (given.size, given.run, given.pitch)
        regions["input", overwritten] = output
    for key, view in views.items():
        regions[key] = regions[view.outer].part(view, operands[key])
    return regions


def run_prepared(
    prepared: Prepared, spec: LayerSpec, inputs: Sequence[torch.Tensor],
    overwritten: int | None = None,
) -> list[torch.Tensor]:
    """Outputs of a prepared tactic, checked for what it must not touch."""
    device = device_under_test()
    regions = _regions(device, prepared, spec, overwritten)
    workspace = device.arena(prepared.workspace_bytes + 2 * GUARD_BYTES)
    workspace.raw[:] = GUARD
    workspace.push()
    buffers = {
        key: Buffer(getattr(spec, f"{key[0]}s")[key[1]], region.address)
        for key, region in regions.items()
    }
    with preparing_for(device.device):
        calls = prepared.bind(
            [
                Buffer(operand, constant=name) if name is not None else buffers["input", index]
                for index, (operand, name) in enumerate(
                    zip(spec.inputs, spec.constants, strict=True)
                )
            ],
            [buffers["output", index] for index in range(len(spec.outputs))],
            workspace.address + GUARD_BYTES, device.stream(),
        )
    for poison in POISON:
        _run_once(device, calls, spec, inputs, regions, overwritten, poison)
    workspace.pull()
    _assert_guards(workspace.raw, GUARD_BYTES, workspace.raw.size - GUARD_BYTES, "the workspace")
    return [
        from_bytes(regions["output", index].read(), operand)
        for index, operand in enumerate(spec.outputs)
    ]


def _run_once(
    device: TestedDevice, calls: Sequence[Call], spec: LayerSpec, inputs: Sequence[torch.Tensor],
    regions: Mapping[tuple[str, int], Region], overwritten: int | None, poison: int,
) -> None:
    arenas = {id(region.arena): region.arena for region in regions.values()}
    for (side, _), region in regions.items():
        region.arena.raw[:] = GUARD if side == "input" else OUTPUT_GUARD
    for (side, _), region in regions.items():
        if side == "output":
            region.write(np.full(region.size, poison, np.uint8))
    given = {
        key: to_bytes(inputs[key[1]], spec.inputs[key[1]]) for key in regions if key[0] == "input"
    }
    for key, data in given.items():
        regions[key].write(data)
    before = {key: arena.raw.copy() for key, arena in arenas.items()}
    for arena in arenas.values():
        arena.push()
    device.run(calls, is_descending=poison != GUARD)
    for arena in arenas.values():
        arena.pull()
    for key, region in regions.items():
        if key[0] == "input" and key[1] != overwritten:
            assert np.array_equal(region.read(), given[key]), f"{key} was changed"
    _assert_untouched(before, arenas, [r for k, r in regions.items() if k[0] == "output"])


def _assert_untouched(
    before: Mapping[int, np.ndarray], arenas: Mapping[int, Arena], outputs: Sequence[Region]
) -> None:
    """Outside of the outputs' bytes, memory is as it was before."""
    after = {key: arena.raw.copy() for key, arena in arenas.items()}
    expected = {key: raw.copy() for key, raw in before.items()}
    for region in outputs:
        made = region.read()
        kept, region.arena.raw = region.arena.raw, expected[id(region.arena)]
        region.write(made)
        region.arena.raw = kept
    for key, raw in after.items():
        changed = np.flatnonzero(raw != expected[key])
        assert not changed.size, (
            f"{changed.size} bytes outside of the operands were written, the first at offset "
            f"{changed[0] - GUARD_BYTES} of a memory block of {raw.size - 2 * GUARD_BYTES} bytes"
        )


def _assert_guards(raw: np.ndarray, first: int, last: int, what: str) -> None:
    assert (raw[:first] == GUARD).all(), f"bytes before {what} were written"
    assert (raw[last:] == GUARD).all(), f"bytes behind {what} were written"


def with_pitches(spec: LayerSpec, pitched: Mapping[str, int]) -> LayerSpec:
    """The spec with operands inside wider tensors.

    ``pitched`` says for "i0" (input) or "o0" (output) how many of the trailing axes, in the order
    of memory, make up a run. Runs must be multiples of 16 bytes.
    """
    operands = {"i": list(spec.inputs), "o": list(spec.outputs)}
    for name, axes in pitched.items():
        side, index = operands[name[0]], int(name[1:])
        operand = side[index]
        run = 1
        for axis in operand.memory_order[operand.rank - axes :]:
            run *= operand.shape[axis]
        item = operand.dtype.itemsize_bytes
        assert run * item % 16 == 0, f"{name}: a run of {run * item} bytes cannot be pitched"
        side[index] = operand.with_pitch(run, run + PITCH_PADDING_BYTES // item)
    return replace(spec, inputs=tuple(operands["i"]), outputs=tuple(operands["o"]))


def cuda_spec(
    kind: LayerKind, inputs: Sequence[torch.Tensor], epilogue: str | None = None,
    constants: Sequence[int] = (), out_dtype: DType | None = None,
) -> LayerSpec:
    """The spec of a layer on these inputs, layouts not chosen."""
    return make_spec(kind, inputs, epilogue, constants, out_dtype)


def check_cuda_tactic(
    name: str,
    kind: LayerKind,
    inputs: Sequence[torch.Tensor],
    epilogue: str | None = None,
    *,
    constants: Sequence[int] = (),
    out_dtype: DType | None = None,
    tolerance: float | None = None,
    exact: bool = False,
    layouts: int | None = None,
    pitched: Mapping[str, int] | None = None,
) -> list[Prepared]:
    """Every layout choice of a tactic gives the reference's values; at least ``layouts`` do.

    ``inputs`` are the kind's main inputs, then the epilogue's. ``constants`` are the indices of
    those that are weights. ``pitched``: operands inside wider tensors, see `with_pitches`; the
    tactic must take them. Returns what was prepared.
    """
    spec = make_spec(kind, inputs, epilogue, constants, out_dtype)
    tactic = find_tactic(TACTICS, name)
    with preparing_for(device_under_test().device):
        refusal = tactic.supports(spec)
    assert not isinstance(refusal, Refusal), f"{name} refuses: {refusal.reason}"
    types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
    expected = run_reference(kind, spec.epilogue, inputs, types)
    arrays = {f"c{i}": constant_from_torch(inputs[i])[0] for i in constants}
    made: list[Prepared] = []
    reasons = []
    with preparing_for(device_under_test().device):
        choices = tactic.layouts(spec)
    for choice in choices:
        chosen = spec.with_layouts(choice)
        if pitched:
            chosen = with_pitches(chosen, pitched)
            with preparing_for(device_under_test().device):
                assert tactic.takes_pitch(chosen), f"{name} takes no pitch: {chosen}"
        try:
            with preparing_for(device_under_test().device):
                weights = BlobWeights(arrays)
                tactic.prepare(chosen, weights)
                prepared = tactic.prepare(chosen, BlobWeights(arrays, weights.blobs))
        except Unprepared as error:
            reasons.append(f"{choice}: {error}")
            continue
        made.append(prepared)
        for overwritten in (None, *prepared.may_overwrite):
            results = run_prepared(prepared, chosen, inputs, overwritten)
            for result, want, operand in zip(results, expected, spec.outputs, strict=True):
                where = f"{name} {choice} in place of {overwritten}"
                assert_near(result, want, operand.dtype, tolerance, exact, where)
    assert made, f"no layout of {name} could be prepared: {reasons}"
    assert layouts is None or len(made) >= layouts, f"only {len(made)} layouts: {reasons}"
    return made


def assert_refused(
    name: str, kind: LayerKind, inputs: Sequence[torch.Tensor], epilogue: str | None = None, *,
    reason: str, constants: Sequence[int] = (), out_dtype: DType | None = None,
) -> None:
    """The tactic refuses the layer, for this reason."""
    spec = make_spec(kind, inputs, epilogue, constants, out_dtype)
    with preparing_for(device_under_test().device):
        refusal = find_tactic(TACTICS, name).supports(spec)
    assert isinstance(refusal, Refusal), f"{name} takes it"
    assert reason in refusal.reason, refusal.reason
