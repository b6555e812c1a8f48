"""One run of torch.export, made into a `CapturedGraph`."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from torch2rt.calls.pytree import CallSpec, OutputSpec
from torch2rt.capture.captured import CapturedGraph, CapturedInput, CapturedOutput, SymbolRange
from torch2rt.capture.copying import AttributeWatch, eval_copy
from torch2rt.capture.errors import (
    BufferMutationError,
    CaptureError,
    DataDependentError,
    DynamicShapeError,
)
from torch2rt.capture.fake_quantize import settle_fake_quantize
from torch2rt.capture.functionalise import Functionaliser
from torch2rt.capture.inline import inline_regions
from torch2rt.capture.opaque import OpaqueCall, make_opaque
from torch2rt.capture.refusals import check_graph
from torch2rt.capture.shapes import AxisOf
from torch2rt.errors import Torch2rtError
from torch2rt.extension.keeping import keep_plugins
from torch2rt.extension.user_code import NeedsDataError

# What a model's forward, and torch.export on its way through it, are known to raise.
EXPORT_FAILURES = (
    RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError,
    ArithmeticError,
)
_PREFIX = "model."  # the model's name in the module that is exported in its place
_TALKATIVE = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
_KINDS = {
    InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "tensor",
}


class _Call:
    """What is seen of a call while forward runs: its outputs' structure, what it assigned."""

    output_spec: OutputSpec
    assigned_attributes: list[str]
    assigned_buffers: list[str]


class FlatModel(nn.Module):
    """A model from flat tensors to flat tensors: all that torch.export gets to see.

    Containers, keyword arguments and constants are put back inside, so no class needs to be
    registered with torch.export.
    """

    def __init__(
        self, model: nn.Module, call_spec: CallSpec, equal: Sequence[tuple[AxisOf, AxisOf]] = ()
    ) -> None:
        super().__init__()
        self.model = model
        self.call_spec = call_spec
        self.equal = tuple(equal)
        self.call = _Call()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors in the order of ``call_spec.names`` -> tensors in that of the output's names."""
        for (left, axis), (right, other) in self.equal:
            torch._check(  # type: ignore[no-untyped-call]
                tensors[left].size(axis) == tensors[right].size(other)
            )
        # torch.export fails where forward changes the shape of an input itself (x.unsqueeze_(0)).
        args, kwargs = self.call_spec.unflatten([tensor.detach() for tensor in tensors])
        watch = AttributeWatch(self.model)
        self.call.output_spec, found = OutputSpec.from_value(self.model(*args, **kwargs))
        self.call.assigned_attributes = watch.assigned_attributes()
        self.call.assigned_buffers = watch.assigned_buffers()
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Tracer:
    """A model and the structure of its arguments, ready to be traced at several shapes.

    Modules of the classes ``opaque_modules`` are not looked into.
    """

    model: nn.Module
    call_spec: CallSpec
    opaque_modules: tuple[type[nn.Module], ...] = ()

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    def run(self, tensors: Sequence[torch.Tensor]) -> tuple[OutputSpec, list[torch.Tensor]]:
        """The model itself, in eval mode, on copies of the tensors."""
        flat = FlatModel(eval_copy(self.model), self.call_spec)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user has seen the model's own warnings
            found = flat(*(tensor.clone() for tensor in tensors))
        return flat.call.output_spec, list(found)

    def trace(
        self, tensors: Sequence[torch.Tensor], axes: Sequence[dict[int, Any]] | None = None,
        equal: Sequence[tuple[AxisOf, AxisOf]] = (),
    ) -> CapturedGraph:
        """Capture at these tensors, ``axes[i]`` telling which axes of tensor i are free.

        The axes of each pair in ``equal`` have one size and so one symbol.
        CaptureError, or one of its kinds, where torch.export or functionalisation fails.
        """
        flat = FlatModel(eval_copy(self.model), self.call_spec, equal)
        opaque = make_opaque(flat.model, self.opaque_modules)
        keep_plugins(flat.model)
        settle_fake_quantize(flat.model)
        program = self._export(flat, tensors, axes)
        if not flat.call.output_spec.names:
            raise CaptureError(
                model=self.name, where="", reason="it returns no tensor",
                remedy="An engine computes tensors: return at least one.",
            )
        for buffer in flat.call.assigned_buffers:
            raise BufferMutationError(
                model=self.name, kind="buffer", name=buffer, op="assignment", where=""
            )
        captured = self._captured(program, flat.call.output_spec, opaque)
        for attribute in flat.call.assigned_attributes:
            captured.notes.append(
                f"forward assigns the attribute {attribute!r}; the engine does not"
            )
        return captured

    def _export(
        self, flat: FlatModel, tensors: Sequence[torch.Tensor],
        axes: Sequence[dict[int, Any]] | None,
    ) -> ExportedProgram:
        shapes = None if axes is None else (tuple(axis or None for axis in axes),)
        # A tensor given twice would be one input to torch.export: hand it separate copies.
        copies = tuple(tensor.detach().clone() for tensor in tensors)
        try:
            with torch.no_grad(), _quiet():
                return torch.export.export(flat, copies, strict=False, dynamic_shapes=shapes)
        except Torch2rtError:
            raise
        except EXPORT_FAILURES as error:
            raise self._explain(error, flat) from error

    def _explain(self, error: Exception, flat: FlatModel) -> CaptureError:
        if isinstance(error, NeedsDataError):
            return CaptureError(
                model=self.name, where="", reason=str(error), remedy=error.remedy
            )
        where = _where(error, flat.model)
        text = str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        if "Constraints violated" in text:
            return DynamicShapeError(
                reason=f"{self.name} does not allow it: {self._constraint(text)}",
                remedy="Leave that axis out of dynamic_shapes, or narrow its range",
            )
        if "data-dependent" in text.lower() or "DataDependent" in type(error).__name__:
            return DataDependentError(model=self.name, where=where, reason=reason)
        return CaptureError(
            model=self.name, where=where, reason=f"{type(error).__name__}: {reason}",
            remedy="Check that the model runs on these inputs in eval mode. Code that torch.export "
            "cannot follow converts in pieces: torch2rt.capture.PartialModule.",
        )

    def _constraint(self, text: str) -> str:
        """The first complaint of torch.export about a free axis, in the inputs' own names."""
        found = next((line for line in text.splitlines() if line.strip().startswith("- ")), text)
        for index, name in enumerate(self.call_spec.names):
            found = found.replace(f"L['tensors'][{index}]", name)
        return found.strip().removeprefix("- ").split(". If you're using")[0].rstrip(".")

    def _captured(
        self, program: ExportedProgram, output_spec: OutputSpec, opaque: dict[str, OpaqueCall]
    ) -> CapturedGraph:
        names = {
            spec.arg.name: (_KINDS[spec.kind], _own_name(spec.target or spec.arg.name))
            for spec in program.graph_signature.input_specs if spec.kind in _KINDS
        }
        self._refuse_unknown(program)
        _own_origins(program.graph_module)
        memory = inline_regions(program.graph_module, self.name)
        functionaliser = Functionaliser(program.graph, memory, names, self.name)
        graph = functionaliser.run()
        _drop_unread_state(graph, names)
        check_graph(graph, self.name)
        inputs = self._inputs(program, graph)
        notes = [
            f"input {item.name!r} was mutated in place by the model; the engine leaves it unchanged"
            for item in inputs if item.placeholder in functionaliser.mutated_inputs
        ]
        if functionaliser.dropped_assertions:
            notes.append(f"{functionaliser.dropped_assertions} assertion(s) on values are dropped")
        return CapturedGraph(
            graph_module=fx.GraphModule(nn.Module(), graph), inputs=inputs,
            state=_state(program, graph), outputs=_outputs(graph, inputs, output_spec),
            call_spec=self.call_spec, output_spec=output_spec,
            symbols=_symbols(program, inputs), notes=notes, opaque=opaque,
        )

    def _refuse_unknown(self, program: ExportedProgram) -> None:
        known = {*_KINDS, InputKind.USER_INPUT}
        for spec in program.graph_signature.input_specs:
            if spec.kind not in known:
                raise CaptureError(
                    model=self.name, where="", reason=f"it holds a {spec.kind.name} {spec.target}",
                    remedy="Only parameters, buffers and tensors can be part of an engine.",
                )
        for output in program.graph_signature.output_specs:
            assert output.kind is OutputKind.USER_OUTPUT, output

    def _inputs(self, program: ExportedProgram, graph: fx.Graph) -> tuple[CapturedInput, ...]:
        placeholders = {node.name: node for node in graph.find_nodes(op="placeholder")}
        users = [
            placeholders[spec.arg.name] for spec in program.graph_signature.input_specs
            if spec.kind is InputKind.USER_INPUT
        ]
        return tuple(
            CapturedInput(name, node.name, node.meta["val"])
            for name, node in zip(self.call_spec.names, users, strict=True)
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export's remarks to itself: what matters of them is in the error we raise."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield  # where it fails it prints half a graph to stderr
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _own_name(target: str) -> str:
    return target.removeprefix(_PREFIX)


def _state(
    program: ExportedProgram, graph: fx.Graph
) -> dict[str, tuple[str, torch.Tensor]]:
    """Parameters, buffers and constants that the graph still reads."""
    present = {node.name for node in graph.find_nodes(op="placeholder")}
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind in _KINDS and spec.arg.name in present:
            assert spec.target is not None
            held = program.state_dict if spec.target in program.state_dict else program.constants
            tensor = held[spec.target]
            assert isinstance(tensor, torch.Tensor)
            found[spec.arg.name] = _own_name(spec.target), tensor.detach()
    return found


def _outputs(
    graph: fx.Graph, inputs: tuple[CapturedInput, ...], spec: OutputSpec
) -> tuple[CapturedOutput, ...]:
    positions = {item.placeholder: index for index, item in enumerate(inputs)}
    (output,) = graph.find_nodes(op="output")
    returned = output.args[0]
    assert isinstance(returned, tuple | list)
    found = []
    for name, node in zip(spec.names, returned, strict=True):
        assert isinstance(node, fx.Node)
        position = positions.get(node.name)
        found.append(CapturedOutput(name, node if position is None else None, position))
    return tuple(found)


def _symbols(
    program: ExportedProgram, inputs: tuple[CapturedInput, ...]
) -> dict[str, SymbolRange]:
    limits = {str(symbol): found for symbol, found in program.range_constraints.items()}
    found: dict[str, SymbolRange] = {}
    for item in inputs:
        sizes: tuple[object, ...] = tuple(item.value.shape)
        for axis, size in enumerate(sizes):
            name = str(size)
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol and name not in found:
                low, high = limits[name].lower, limits[name].upper
                maximum = int(high) if high.is_Integer and high < 2**62 else None
                # A trace takes no free size for 0 or 1, whatever range it was given.
                found[name] = SymbolRange(max(2, int(low)), maximum, item.name, axis)
    return found


def _own_origins(graph_module: fx.GraphModule) -> None:
    """Leave the wrapper and torch's own frames out of every node's origin."""
    for node in _all_nodes(graph_module):
        stack = node.meta.get("nn_module_stack")
        if stack:
            node.meta["nn_module_stack"] = {
                key: (_own_path(path), kind) for key, (path, kind) in stack.items()
                if path.startswith(_PREFIX) or path == _PREFIX[:-1]
            }
        if node.meta.get("stack_trace"):
            node.meta["stack_trace"] = _own_frames(str(node.meta["stack_trace"]))


def _all_nodes(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _drop_unread_state(graph: fx.Graph, state: Collection[str]) -> None:
    for node in graph.find_nodes(op="placeholder"):
        if node.name in state and not node.users:
            graph.erase_node(node)


def _own_path(path: str) -> str:
    return "" if path == _PREFIX[:-1] else path.removeprefix(_PREFIX)


def _own_frames(trace: str) -> str:
    frames = ["  File " + part for part in trace.split("File ")[1:]]
    own = [frame for frame in frames if __file__ not in frame]
    outside = [frame for frame in own if "/torch/" not in frame.split("\n")[0]]
    return "".join(outside or own)


def _where(error: Exception, model: nn.Module) -> str:
    """`` in layer1.0 at model.py:12``: the innermost module and user frame of a traceback."""
    paths = {id(module): name for name, module in model.named_modules()}
    path, line = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        path = paths.get(id(frame.f_locals.get("self")), path)
        if "/torch/" not in file and "<" not in file and file != __file__:
            line = f"{file.rsplit('/', 1)[-1]}:{number}"
    return (f" in {path}" if path else "") + (f" at {line}" if line else "")
