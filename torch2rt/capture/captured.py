"""What capture hands to lowering: a functional graph, its state, its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx

from torch2rt.calls.pytree import CallSpec, OutputSpec
from torch2rt.capture.opaque import OpaqueCall


@dataclass(frozen=True, slots=True)
class CapturedInput:
    """One tensor of the model's arguments: its name, the graph's placeholder, its fake value."""

    name: str
    placeholder: str
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class CapturedOutput:
    """One tensor of the model's outputs: a node of the graph, or an input handed through.

    Exactly one of ``node`` and ``input_index`` is set.
    """

    name: str
    node: fx.Node | None
    input_index: int | None = None


class SymbolRange(NamedTuple):
    """Sizes a symbol stands for, and the input axis it is read from. ``maximum`` None: no limit."""

    minimum: int
    maximum: int | None
    input: str
    axis: int


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A model as one functional graph.

    ``graph_module`` holds placeholders and calls of functional ATen overloads (or of custom
    operators), of ``operator.getitem`` and of arithmetic on sizes; nodes keep ``meta["val"]``, the
    module path and the source line. ``state`` maps placeholders to ``(fqn, tensor)``: parameters,
    buffers and constants that the graph reads, sharing the model's memory. ``inputs`` and
    ``outputs`` are in the order of ``call_spec.names`` and ``output_spec.names``; what is no tensor
    is a constant inside these two. ``notes`` are facts for the report; ``opaque`` are the modules
    behind nodes of ``torch2rt.opaque``, by the node's second argument.
    """

    graph_module: fx.GraphModule
    inputs: tuple[CapturedInput, ...]
    state: dict[str, tuple[str, torch.Tensor]]
    outputs: tuple[CapturedOutput, ...]
    call_spec: CallSpec
    output_spec: OutputSpec
    symbols: dict[str, SymbolRange]
    notes: list[str] = field(default_factory=list)
    opaque: dict[str, OpaqueCall] = field(default_factory=dict)

    def run(
        self, tensors: Sequence[torch.Tensor], runner: Callable[..., Any] | None = None
    ) -> list[torch.Tensor]:
        """The graph in plain torch: one tensor per input -> one tensor per output.

        ``runner`` takes the graph's placeholders in order; the graph module itself is the default.
        """
        given = dict(zip((item.placeholder for item in self.inputs), tensors, strict=True))
        arguments = [
            given[node.name] if node.name in given else self.state[node.name][1]
            for node in self.graph_module.graph.find_nodes(op="placeholder")
        ]
        with torch.no_grad():
            return list((runner or self.graph_module)(*arguments))


def module_path(node: fx.Node) -> str:
    """Path of the innermost module a node comes from, ``""`` for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def source_line(node: fx.Node) -> str:
    """``model.py:12`` of the innermost frame a node comes from, ``""`` where unknown."""
    trace = str(node.meta.get("stack_trace") or "")
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File")]
    if not frames:
        return ""
    file, _, rest = frames[-1].removeprefix('File "').partition('", line ')
    return f"{file.rsplit('/', 1)[-1]}:{rest.split(',')[0]}"


def place(node: fx.Node) -> str:
    """`` in layer1.0 at model.py:12`` for error messages, as far as known."""
    path, line = module_path(node), source_line(node)
    return (f" in {path}" if path else "") + (f" at {line}" if line else "")
