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
    """

    layer: str
    tactic: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspace_offset_bytes: int
    time_us: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, tensors, arena size, and the shape symbols it is for.

    ``live_bytes`` is the largest sum of bytes alive at one step: no arena can be smaller.
    ``viewed`` lists layers that need no step: their tensors share memory.
    """

    symbols: dict[str, int]
    tensors: tuple[PlanTensor, ...]
    steps: tuple[PlanStep, ...]
    arena_bytes: int
    live_bytes: int
    viewed: tuple[str, ...] = ()
    runners_up: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "symbols": self.symbols,
            "tensors": [
                [
                    t.name, f"{t.spec.dtype.value}[{','.join(map(str, t.spec.shape))}]",
                    t.spec.layout.value, t.storage.place, t.storage.name, t.storage.offset_bytes,
                ]
                for t in self.tensors
            ],
            "steps": [
                [
                    s.layer, s.tactic, list(s.inputs), list(s.outputs), s.workspace_offset_bytes,
                    s.time_us,
                ]
                for s in self.steps
            ],
            "arena_bytes": self.arena_bytes,
            "live_bytes": self.live_bytes,
            "viewed": list(self.viewed),
            "runners_up": {name: [list(r) for r in rows] for name, rows in self.runners_up.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        """From JSON values; ValueError, KeyError or TypeError if they are not a plan."""
        tensors = tuple(_tensor_from_json(row) for row in data["tensors"])
        plan = Plan(
            symbols={str(name): int(value) for name, value in data["symbols"].items()},
            tensors=tensors,
            steps=tuple(_step_from_json(row, len(tensors)) for row in data["steps"]),
            arena_bytes=_size(data["arena_bytes"]),
            live_bytes=_size(data["live_bytes"]),
            viewed=tuple(str(name) for name in data["viewed"]),
            runners_up={
                str(name): tuple((str(tactic), float(us)) for tactic, us in rows)
                for name, rows in data["runners_up"].items()
            },
        )
        plan.check()
        return plan

    def check(self) -> None:
        """ValueError if a tensor does not lie inside the arena."""
        for tensor in self.tensors:
            storage = tensor.storage
            end = storage.offset_bytes + tensor.spec.size_bytes
            if storage.place == "arena" and end > self.arena_bytes:
                raise ValueError(f"tensor {tensor.name} ends at {end}, past the arena")


def _tensor_from_json(row: list[Any]) -> PlanTensor:
    name, type_text, layout, place, where, offset = row
    type = parse_tensor_type(type_text)
    shape = tuple(_size(dim) for dim in type.shape)
    if place not in ("arena", "input", "output", "constant"):
        raise ValueError(f"tensor {name} is stored in {place!r}")
    spec = TensorSpec(shape, DType(type.dtype), Layout(layout))
    if spec.layout is not Layout.PLAIN and not 3 <= spec.rank <= 5:
        raise ValueError(f"tensor {name} of rank {spec.rank} cannot be {layout}")
    return PlanTensor(str(name), spec, Storage(place, str(where), _size(offset)))


def _step_from_json(row: list[Any], tensor_count: int) -> PlanStep:
    layer, tactic, inputs, outputs, workspace, time_us = row
    indices = (*inputs, *outputs)
    if not all(isinstance(i, int) and 0 <= i < tensor_count for i in indices):
        raise ValueError(f"step {layer} names a tensor that is not there")
    return PlanStep(
        str(layer), str(tactic), tuple(inputs), tuple(outputs), _size(workspace), float(time_us)
    )


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value
