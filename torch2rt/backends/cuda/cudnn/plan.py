"""One execution plan of a graph: built to bytes in any process, loaded and executed in this one."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch2rt.backends.cuda.cudnn.binding import (
    USING_HANDLE,
    cudnn,
    current_gpu,
    failures,
    idle_handle,
    on_gpu,
)
from torch2rt.backends.cuda.cudnn.description import GraphDescription
from torch2rt.backends.cuda.cudnn.graph import build_plan, planned_graph
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.tactic import Unprepared, Weights

MAX_WORKSPACE_BYTES = 256 << 20
# Of a blob: the workspace's size. Then come cuDNN's own bytes.
_HEADER = struct.Struct("<Q")


@dataclass(frozen=True)
class PlanJob:
    """Builds the ``choice``-th plan that cuDNN proposes for a graph.

    ``device`` is the index of a GPU that this process sees, or a GPU's properties in JSON.
    """

    description: GraphDescription
    choice: int
    device: int | str

    def run(self) -> bytes:
        """The plan's workspace size and its serialised form. Raises Unprepared if there is none."""
        gpu = on_gpu(self.device) if isinstance(self.device, int) else nullcontext()
        with gpu, USING_HANDLE:
            return self._build()

    def _build(self) -> bytes:
        graph = planned_graph(self.description, self.device)
        index = build_plan(
            graph, self.choice, may_be_barred=self.description.is_full_float32
        )
        try:
            workspace_bytes = int(graph.get_workspace_size_plan_at_index(index))
            data = bytes(graph.serialize())
        except failures() as error:
            raise Unprepared(f"cuDNN does not serialise the plan: {error}") from error
        if workspace_bytes > MAX_WORKSPACE_BYTES:
            raise Unprepared(f"the plan needs {workspace_bytes >> 20} MiB of workspace")
        return _HEADER.pack(workspace_bytes) + data


class Plan:
    """A plan ready to be executed on the GPU that was current when it was loaded."""

    def __init__(self, data: bytes) -> None:
        with USING_HANDLE:
            self._handle = idle_handle(current_gpu())
            # A graph that is given no handle makes one of its own, and destroys it.
            self._graph: Any = cudnn().pygraph(handle=self._handle)
            try:
                self._graph.deserialize(self._handle, list(data))
            except failures() as error:
                raise Unprepared(
                    f"cuDNN {cudnn().backend_version()} does not load the plan, which another "
                    f"version or another GPU made: {error}"
                ) from error

    def execute(self, addresses: Mapping[int, int], workspace: int, stream: int) -> None:
        """Enqueue it. ``addresses`` are by cuDNN's numbers of operands and output."""
        with USING_HANDLE:
            cudnn().set_stream(self._handle, stream)
            self._graph.execute(addresses, workspace or None, self._handle)


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the size of the workspace it needs."""

    plan: Plan
    workspace_bytes: int


def load_plan(weights: Weights, description: GraphDescription, choice: int) -> LoadedPlan:
    """The plan, from the engine's blobs or built now. Unprepared when there is no such plan."""
    device = current_device()
    where = f"{device.arch}/{device.multiprocessors}"
    key = f"cudnn/{where}/{description.digest}/{choice}"
    blob = weights.blob(key, PlanJob(description, choice, current_gpu()))
    if len(blob) <= _HEADER.size:
        raise Unprepared("a cuDNN plan of no bytes")
    (workspace_bytes,) = _HEADER.unpack_from(blob)
    plan = weights.packed(("cudnn plan", key), lambda: Plan(blob[_HEADER.size :]))
    return LoadedPlan(plan, workspace_bytes)
