"""A plan: what an engine does for one concrete shape. Plain data, saved as JSON.

Tensors lie in an arena at an offset, or in memory of the caller (inputs and outputs), or are
constants. Steps name a layer of the network, the tactic that runs it and the layouts it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch2rt.backends.spec import Layout, TensorSpec
from torch2rt.layers.registry import parse_tensor_type
from torch2rt.network.dtype import DType

REFORMAT = "reformat"
# More streams than any plan uses.
MAX_STREAMS = 16


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a tensor's bytes start: ``offset_bytes`` into the arena, a binding or a constant.

    ``place`` is "arena", "input", "output" or "constant"; ``name`` says which one of the latter.
    """

    place: str
    name: str
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """One tensor of a plan: its spec and storage."""

    name: str
    spec: TensorSpec
    storage: Storage


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step: a layer (or a reformat, whose layer name is empty) run by a tactic.

    ``inputs`` and ``outputs`` index the plan's tensors. ``time_us`` is what the builder measured.
    Steps of one ``stream`` run in order; ``waits`` names the earlier steps of other streams that
    must have ended before this one starts.
    """

    layer: str
    tactic: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspace_offset_bytes: int
    time_us: float
    stream: int = 0
    waits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, tensors, arena size, and the shape symbols it is for.

    ``live_bytes`` is the largest sum of bytes alive at one step: no arena can be smaller.
    ``viewed`` lists layers that need no step: their tensors share memory. ``untuned`` counts the
    steps whose tactic nobody measured against its rivals. ``failed`` names, by layer, the tactics
    and layouts (inputs, ``>``, outputs) that failed or were wrong when the plan was made.
    """

    symbols: dict[str, int]
    tensors: tuple[PlanTensor, ...]
    steps: tuple[PlanStep, ...]
    arena_bytes: int
    live_bytes: int
    viewed: tuple[str, ...] = ()
    runners_up: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    untuned: int = 0
    failed: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    @property
    def stream_count(self) -> int:
        """Streams it uses."""
        return max((step.stream for step in self.steps), default=0) + 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "symbols": self.symbols,
            "tensors": [_tensor_to_json(tensor) for tensor in self.tensors],
            "steps": [_step_to_json(step) for step in self.steps],
            "arena_bytes": self.arena_bytes,
            "live_bytes": self.live_bytes,
            "viewed": list(self.viewed),
            "runners_up": {name: [list(r) for r in rows] for name, rows in self.runners_up.items()},
            "untuned": self.untuned,
            "failed": {name: [list(pair) for pair in pairs] for name, pairs in self.failed.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        """From JSON values; ValueError, KeyError or TypeError if they are not a plan."""
        tensors = tuple(_tensor_from_json(row) for row in data["tensors"])
        rows = enumerate(data["steps"])
        plan = Plan(
            symbols={str(name): int(value) for name, value in data["symbols"].items()},
            tensors=tensors,
            steps=tuple(_step_from_json(row, step, len(tensors)) for step, row in rows),
            arena_bytes=_size(data["arena_bytes"]),
            live_bytes=_size(data["live_bytes"]),
            viewed=tuple(str(name) for name in data["viewed"]),
            runners_up={
                str(name): tuple((str(tactic), float(us)) for tactic, us in rows)
                for name, rows in data["runners_up"].items()
            },
            untuned=_size(data.get("untuned", 0)),
            failed={
                str(name): tuple((str(tactic), str(layout)) for tactic, layout in pairs)
                for name, pairs in data.get("failed", {}).items()
            },
        )
        plan.check()
        return plan

    def check(self) -> None:
        """ValueError if a tensor does not lie inside the arena."""
        for tensor in self.tensors:
            storage = tensor.storage
            end = storage.offset_bytes + tensor.spec.extent_bytes
            if storage.place == "arena" and end > self.arena_bytes:
                raise ValueError(f"tensor {tensor.name} ends at {end}, past the arena")


def _tensor_to_json(tensor: PlanTensor) -> list[Any]:
    """One row; run and pitch follow when it is not dense."""
    spec, storage = tensor.spec, tensor.storage
    row = [
        tensor.name, f"{spec.dtype.value}[{','.join(map(str, spec.shape))}]", spec.layout.value,
        storage.place, storage.name, storage.offset_bytes,
    ]
    return row if spec.is_dense else [*row, spec.run, spec.pitch]


def _tensor_from_json(row: list[Any]) -> PlanTensor:
    name, type_text, layout, place, where, offset, *pitch = row
    type = parse_tensor_type(type_text)
    shape = tuple(_size(dim) for dim in type.shape)
    if place not in ("arena", "input", "output", "constant"):
        raise ValueError(f"tensor {name} is stored in {place!r}")
    spec = TensorSpec(shape, DType(type.dtype), Layout(layout))
    if spec.layout is not Layout.PLAIN and not 3 <= spec.rank <= 5:
        raise ValueError(f"tensor {name} of rank {spec.rank} cannot be {layout}")
    if pitch:
        run, step = pitch
        if spec.layout.block > 1 or place == "constant" or not spec.element_count or not run:
            raise ValueError(f"tensor {name} cannot lie in runs of {run!r}")
        spec = spec.with_pitch(_size(run), _size(step))
    return PlanTensor(str(name), spec, Storage(place, str(where), _size(offset)))


def _step_to_json(step: PlanStep) -> list[Any]:
    """One row; the stream and what it waits for follow when there is more than one stream."""
    row = [
        step.layer, step.tactic, list(step.inputs), list(step.outputs),
        step.workspace_offset_bytes, step.time_us,
    ]
    return [*row, step.stream, list(step.waits)] if step.stream or step.waits else row


def _step_from_json(row: list[Any], index: int, tensor_count: int) -> PlanStep:
    layer, tactic, inputs, outputs, workspace, time_us, *rest = row
    indices = (*inputs, *outputs)
    if not all(isinstance(i, int) and 0 <= i < tensor_count for i in indices):
        raise ValueError(f"step {layer} names a tensor that is not there")
    stream, waits = rest if rest else (0, ())
    if _size(stream) >= MAX_STREAMS or not all(_size(step) < index for step in waits):
        raise ValueError(f"step {layer} is on stream {stream} and waits for {waits!r:.50}")
    return PlanStep(
        str(layer), str(tactic), tuple(inputs), tuple(outputs), _size(workspace), float(time_us),
        stream, tuple(waits),
    )


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value
