"""What cuDNN's tactics share: a layer becomes a graph, a tactic is one plan of that graph."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.constants import operand, packed_constant
from torch2rt.backends.cuda.cudnn.description import GraphDescription, NotInCudnn
from torch2rt.backends.cuda.cudnn.plan import LoadedPlan, load_plan
from torch2rt.backends.cuda.launch import CudaCall, In, Out, Packed
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.errors import DeviceError
from torch2rt.network.dtype import Array

Place: TypeAlias = "In | Packed"


@dataclass(frozen=True, slots=True)
class Source:
    """Where an operand of a graph comes from: an input of the layer.

    ``is_filter``: a constant weight whose second axis is moved to the end.
    """

    index: int
    is_filter: bool = False


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """The graph of a layer and the sources of its operands."""

    description: GraphDescription
    sources: tuple[Source, ...]


class CudnnTactic(Tactic):
    """The ``choice``-th plan that cuDNN's heuristics propose for a layer's graph."""

    level: ClassVar[int] = 1
    choice: ClassVar[int]

    @abc.abstractmethod
    def graph(self, spec: LayerSpec) -> LayerGraph:
        """The graph of a layer at the layouts of its spec. NotInCudnn when there is none."""

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """What a graph can express."""
        try:
            self.graph(spec)
        except NotInCudnn as error:
            return Refusal(str(error))
        return None

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Strides are part of a graph."""
        return self.supports(spec) is None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Load the plan, or build it; upload constants."""
        try:
            graph = self.graph(spec)
        except NotInCudnn as error:
            raise Unprepared(str(error)) from error
        loaded = load_plan(weights, graph.description, self.choice)
        places = [_place(spec, weights, source) for source in graph.sources]
        return CudnnPrepared(loaded, places, graph.description.output_uid)


def _place(spec: LayerSpec, weights: Weights, source: Source) -> Place:
    name = spec.constants[source.index]
    if source.is_filter and name is not None:
        return Packed(packed_constant(weights, name, "channels_last", _channels_last))
    return operand(spec, weights, source.index)


def _channels_last(array: Array) -> Array:
    return np.moveaxis(array, 1, -1)


class CudnnPrepared(Prepared):
    """A plan and the places of its operands."""

    def __init__(self, loaded: LoadedPlan, places: Sequence[Place], output_uid: int) -> None:
        self.plan = loaded.plan
        self.workspace_bytes = loaded.workspace_bytes
        self.places: dict[int, In | Out | Packed] = dict(enumerate(places, start=1))
        self.places[output_uid] = Out()

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        return [(CudnnCall(self, inputs, outputs, workspace, stream), ())]


class CudnnCall(CudaCall):
    """A plan with the addresses of its operands."""

    def __init__(
        self, prepared: CudnnPrepared, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        workspace: int, stream: Any,
    ) -> None:
        super().__init__(stream)
        self._plan = prepared.plan
        self._workspace = workspace
        self._addresses: dict[int, int] = {}
        for uid, place in prepared.places.items():
            if isinstance(place, Packed):
                self._addresses[uid] = place.memory.address
            else:
                buffer = (inputs if isinstance(place, In) else outputs)[place.index]
                self._follow(uid, buffer, place.offset_bytes)

    def _follow(self, uid: int, buffer: Buffer, offset_bytes: int) -> None:
        self._addresses[uid] = buffer.address + offset_bytes
        if buffer.moves:
            self.moves = True
            buffer.on_move(self._mover(uid, offset_bytes))

    def _mover(self, uid: int, offset_bytes: int) -> Callable[[int], None]:
        def move(address: int) -> None:
            self._addresses[uid] = address + offset_bytes

        return move

    def __call__(self) -> int:
        """Enqueue on ``self.stream``. DeviceError when cuDNN refuses."""
        try:
            self._plan.execute(
                self._addresses, self._workspace, self.stream.ptr if self.stream else 0
            )
        except (RuntimeError, ValueError) as error:
            raise DeviceError(
                device="cuda", reason=f"cuDNN did not run a plan ({error})",
                remedy="Convert the model again on this machine; if it stays, please report it.",
            ) from error
        return 0

    def __str__(self) -> str:
        return "cuDNN plan"


def plan_variants(
    base: type[CudnnTactic], prefix: str, count: int, module: str
) -> dict[str, type[CudnnTactic]]:
    """Tactics ``prefix.plan0`` and so on, by class name, as members of a module."""
    return {
        f"{base.__name__}{choice}": type(
            f"{base.__name__}{choice}", (base,),
            {
                "__doc__": f"Plan {choice} of cuDNN's heuristics.", "__module__": module,
                "name": f"{prefix}.plan{choice}", "choice": choice,
            },
        )
        for choice in range(count)
    }
