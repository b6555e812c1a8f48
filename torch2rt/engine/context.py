"""Executables and contexts: a plan with its code, and one running instance of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch2rt.backends.backend import Backend
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.engine.plan import REFORMAT, Plan, PlanStep
from torch2rt.errors import DeviceError
from torch2rt.layers.reformat import Reformat
from torch2rt.layers.specialize import specialize_kind
from torch2rt.network.layer import Layer

# Contexts whose work is under way on other streams before a caller waits for one of them.
_MAX_BUSY_CONTEXTS = 4


@dataclass(frozen=True)
class Step:
    """A step of a plan with the spec it was prepared for and its code."""

    plan_step: PlanStep
    spec: LayerSpec
    prepared: Prepared


class Executable:
    """A plan made ready on a backend. Immutable; contexts share it.

    ``free`` holds the contexts nobody uses at the moment.
    """

    def __init__(
        self, plan: Plan, layers: Mapping[str, Layer], backend: Backend, weights: Weights,
        prepare: Callable[[str, LayerSpec], Prepared],
    ) -> None:
        self.plan = plan
        self.backend = backend
        self.steps: list[Step] = []
        with backend.building():
            for row in plan.steps:
                spec = step_spec(plan, row, layers)
                self.steps.append(Step(row, spec, prepare(row.tactic, spec)))
        self.free: deque[Context] = deque()
        self.output_specs = {
            tensor.storage.name: tensor.spec
            for tensor in plan.tensors
            if tensor.storage.place == "output" and tensor.storage.offset_bytes == 0
        }

    @property
    def needs_torch(self) -> bool:
        """Whether a step runs through torch."""
        return any(step.prepared.needs_torch for step in self.steps)

    def allocate_arena(self) -> Any:
        """Memory for one context. DeviceError says what the engine needs when it is not there."""
        size_bytes = max(self.plan.arena_bytes, 1)
        try:
            return self.backend.allocate(size_bytes)
        except DeviceError as error:
            raise DeviceError(
                device=self.backend.device,
                reason=f"the engine does not fit: it needs {size_bytes / 2**30:.2f} GiB for "
                f"activations beside its weights ({error.facts['reason']})",
                remedy=error.facts["remedy"],
            ) from error

    def acquire(self, stream: int = 0) -> Context:
        """A context nobody else uses: a free one, or a new one.

        On a device that runs behind the caller, one whose last run is over, or was on this
        stream, is preferred; a few contexts at most are made only not to wait.
        """
        try:
            context = self.free.pop()
        except IndexError:
            return Context(self)
        if self.backend.is_idle(context.run, stream):
            return context
        return self._idle_instead(context, stream)

    def _idle_instead(self, busy: Context, stream: int) -> Context:
        """Another free context that need not be waited for, or a new one, or the busy one."""
        kept = [busy]
        found = None
        while found is None and self.free:
            context = self.free.pop()
            if self.backend.is_idle(context.run, stream):
                found = context
            else:
                kept.append(context)
        if found is None:
            found = Context(self) if len(kept) < _MAX_BUSY_CONTEXTS else kept.pop(0)
        self.free.extendleft(kept)
        return found

    def release(self, context: Context) -> None:
        """Give a context back."""
        self.free.append(context)


def step_spec(plan: Plan, row: PlanStep, layers: Mapping[str, Layer]) -> LayerSpec:
    """The spec of a step, from the plan's tensors and the network's layer."""
    inputs = tuple(plan.tensors[i].spec for i in row.inputs)
    outputs = tuple(plan.tensors[i].spec for i in row.outputs)
    constants = tuple(
        plan.tensors[i].storage.name if plan.tensors[i].storage.place == "constant" else None
        for i in row.inputs
    )
    if not row.layer:
        kind = Reformat(outputs[0].dtype)
        # Code is shared by name and signature, and that of a constant holds its address.
        name = f"{REFORMAT} {constants[0]}" if constants[0] is not None else REFORMAT
        return LayerSpec(name, REFORMAT, kind, None, inputs, outputs, constants)
    layer = layers[row.layer]
    return LayerSpec(
        layer.name, layer.where, specialize_kind(layer.kind, plan.symbols), layer.epilogue,
        inputs, outputs, constants,
    )


class Context:
    """One running instance: arena, buffers, and the calls bound to them.

    Used by one thread at a time. ``inputs`` and ``outputs`` are the buffers per binding that move
    with every call.
    """

    def __init__(self, executable: Executable) -> None:
        backend = executable.backend
        plan = executable.plan
        self.executable = executable
        self._arena = executable.allocate_arena()
        self._stream = backend.new_stream()
        base = backend.address(self._arena)
        self._moving: dict[tuple[str, str], list[tuple[Buffer, int]]] = {}
        self._buffers = [self._buffer(plan, index, base) for index in range(len(plan.tensors))]
        self.calls_per_step = [
            list(step.prepared.bind(
                [self._buffers[i] for i in step.plan_step.inputs],
                [self._buffers[i] for i in step.plan_step.outputs],
                base + step.plan_step.workspace_offset_bytes,
                self._stream,
            ))
            for step in executable.steps
        ]
        # Set by whoever runs it: one mover per binding, inputs then outputs.
        self.binding_movers: Sequence[Callable[[int], None]] | None = None
        self.run = backend.plan_runner(
            self.calls_per_step,
            [step.plan_step.stream for step in executable.steps],
            [step.plan_step.waits for step in executable.steps],
        )

    def _buffer(self, plan: Plan, index: int, base: int) -> Buffer:
        tensor = plan.tensors[index]
        storage = tensor.storage
        if storage.place == "constant":
            return Buffer(tensor.spec, constant=storage.name)
        if storage.place == "arena":
            return Buffer(tensor.spec, base + storage.offset_bytes)
        buffer = Buffer(tensor.spec, moves=True)
        moving = self._moving.setdefault((storage.place, storage.name), [])
        moving.append((buffer, storage.offset_bytes))
        return buffer

    def mover(self, place: str, name: str) -> Callable[[int], None]:
        """A function that points everything of one binding at an address."""
        buffers = self._moving.get((place, name), [])

        def move(address: int) -> None:
            for buffer, offset in buffers:
                buffer.move(address + offset)

        return move

    def movers(self, place: str, names: Sequence[str]) -> list[Callable[[int], None]]:
        """`mover` for several bindings."""
        return [self.mover(place, name) for name in names]

    def buffer(self, index: int) -> Buffer:
        """The buffer of one tensor of the plan."""
        return self._buffers[index]
