"""Lowering: the captured fx graph becomes a network, one converter rule per ATen overload.

A node without a rule, or whose rule does not take its arguments, becomes a fallback layer with
the reason kept; `fallback="error"` lists all such nodes at once.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from torch2rt import expression as ex
from torch2rt.errors import LoweringError, UnsupportedNodesError
from torch2rt.layers.aten import Aten
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.registry import import_all_kinds
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.rules import Unsupported, find_rule, overriding_rule
from torch2rt.layers.shapes import promote
from torch2rt.layers.symbolic_number_rules import lower_number
from torch2rt.network.dim import Dim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind, Origin
from torch2rt.network.network import Network
from torch2rt.network.tensor import Shape, Tensor, TensorType
from torch2rt.torch_values import constant_from_torch, dim_from_torch, dtype_from_torch

if TYPE_CHECKING:
    from torch2rt.capture.captured import CapturedGraph

UNLIMITED = (1 << 31) - 1  # a symbol without a largest value


@dataclass(frozen=True, slots=True)
class FallbackNode:
    """A captured node that runs through torch, and why."""

    op: str
    module_path: str
    source: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.module_path or '(top)'}" + (f" [{self.source}]" if self.source else "")
        return f"  {self.op} at {place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Lowered:
    """The network, the nodes that became fallback layers, and what else the report tells."""

    network: Network
    fallbacks: tuple[FallbackNode, ...]
    notes: tuple[str, ...] = ()


def lower(captured: CapturedGraph, *, fallback: str = "torch", name: str = "network") -> Lowered:
    """Turn a captured graph into a network.

    UnsupportedNodesError lists every node without a rule when ``fallback`` is ``"error"``.
    """
    import_all_kinds()
    lowering = Lowering(Network(name))
    for symbol, limits in captured.symbols.items():
        largest = limits.maximum if limits.maximum is not None else UNLIMITED
        lowering.network.symbols[symbol] = (limits.minimum, largest)
    _declare_inputs(lowering, captured)
    for node in captured.graph_module.graph.nodes:
        if node.op == "call_function":
            lowering.lower_node(node)
    _declare_outputs(lowering, captured)
    fallbacks = tuple(lowering.fallbacks)
    if fallbacks and fallback == "error":
        listing = "\n".join(str(node) for node in fallbacks)
        raise UnsupportedNodesError(count=len(fallbacks), listing=listing)
    return Lowered(lowering.network, fallbacks, tuple(lowering.notes))


def _declare_inputs(lowering: Lowering, captured: CapturedGraph) -> None:
    by_placeholder = {item.placeholder: item for item in captured.inputs}
    for node in captured.graph_module.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in captured.state:
            fqn, value = captured.state[node.name]
            lowering.state[node] = (fqn, value)
        elif node.name in by_placeholder:
            type = type_of(node.meta["val"])
            lowering.values[node] = lowering.network.add_input(by_placeholder[node.name].name, type)


def _declare_outputs(lowering: Lowering, captured: CapturedGraph) -> None:
    inputs = [lowering.network.inputs[item.name] for item in captured.inputs]
    for output in captured.outputs:
        if output.node is not None:
            value = lowering.value_of(output.node)
        else:
            assert output.input_index is not None
            value = inputs[output.input_index]
        assert isinstance(value, Tensor)
        lowering.network.add_output(output.name, value)


@dataclass
class Lowering:
    """What a rule works with: the network under construction and the node being lowered."""

    network: Network
    values: dict[fx.Node, Any] = field(default_factory=dict)
    state: dict[fx.Node, tuple[str, torch.Tensor]] = field(default_factory=dict)
    fallbacks: list[FallbackNode] = field(default_factory=list)
    node: fx.Node | None = None
    notes: list[str] = field(default_factory=list)

    # ---- what rules call -------------------------------------------------------------------

    def add(self, kind: LayerKind, *inputs: Tensor) -> Tensor:
        """Add a layer with one output and return it."""
        return self.add_many(kind, *inputs)[0]

    def add_many(self, kind: LayerKind, *inputs: Tensor) -> list[Tensor]:
        """Add a layer and return all its outputs."""
        layer = self.network.add(kind, inputs, origins=(self.origin,))
        return list(layer.outputs)

    def pointwise(
        self, op: str, *operands: Tensor | float | int | bool, dtype: DType | None = None
    ) -> Tensor:
        """Add ``op(operands)``. ``dtype`` of the result: the node's own unless given."""
        tensors = [operand for operand in operands if isinstance(operand, Tensor)]
        arguments: list[ex.Expression] = []
        index = 0
        for operand in operands:
            if isinstance(operand, Tensor):
                arguments.append(ex.Input(index))
                index += 1
            else:
                arguments.append(ex.Constant(operand))
        return self.expression(ex.Apply(op, tuple(arguments)), *tensors, dtype=dtype)

    def expression(
        self, expression: ex.Expression, *tensors: Tensor, dtype: DType | None = None
    ) -> Tensor:
        """Add a pointwise layer. ``dtype`` of the result: the node's own unless given."""
        if dtype is None:
            dtype = self.output_type.dtype
        return self.add(Pointwise(expression, dtype), *tensors)

    def cast(self, tensor: Tensor, dtype: DType) -> Tensor:
        """The tensor as another dtype; itself if it has it."""
        if tensor.dtype == dtype:
            return tensor
        return self.expression(ex.cast(dtype, ex.Input(0)), tensor, dtype=dtype)

    def promoted(self, *tensors: Tensor) -> DType:
        """The dtype torch promotes these to."""
        return promote(*(tensor.type for tensor in tensors))

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The tensor under another shape (one size may be -1); constants reshape in place."""
        if tensor.data is not None and all(isinstance(dim, int) for dim in shape):
            data = tensor.data.reshape([int(dim) for dim in shape])
            if data.shape == tensor.data.shape:
                return tensor
            return self.network.add_constant(tensor.name, data, tensor.dtype)
        if shape == tensor.shape:
            return tensor
        return self.add(Reshape(shape), tensor)

    def constant(self, name: str, value: torch.Tensor) -> Tensor:
        """A constant from a torch tensor."""
        data, dtype = constant_from_torch(value)
        return self.network.add_constant(name, data, dtype)

    @property
    def output_type(self) -> TensorType:
        """Type of the node's result as captured."""
        assert self.node is not None
        return type_of(self.node.meta["val"])

    @property
    def output_types(self) -> list[TensorType]:
        """Types of the node's results as captured, for ops with several."""
        assert self.node is not None
        return [type_of(v) for v in self.node.meta["val"] if isinstance(v, torch.Tensor)]

    def is_result_used(self, index: int) -> bool:
        """Whether the model reads this result of the node, for ops with several."""
        assert self.node is not None
        return any(
            user.target is operator.getitem and user.args[1] == index and user.users
            for user in self.node.users
        )

    @property
    def origin(self) -> Origin:
        """Where the node comes from."""
        assert self.node is not None
        return origin_of(self.node)

    # ---- the driver ------------------------------------------------------------------------

    def lower_node(self, node: fx.Node) -> None:
        """Give a node its value: a dim, an element of a list, or the result of its rule."""
        self.node = node
        if node.target is operator.getitem:
            if not node.users:  # results that nobody reads need not exist
                return
            sequence, index = node.args
            self.values[node] = self.value_of(sequence)[index]
        elif isinstance(node.meta.get("val"), torch.SymInt | int):
            self.values[node] = dim_from_torch(node.meta["val"])
        elif isinstance(node.meta.get("val"), torch.SymFloat):
            self._lower_symbolic_number(node)
        elif isinstance(node.target, torch._ops.OpOverload) and node.meta.get("val") is not None:
            self._lower_op(node, node.target)  # assertions have no value and need no layer

    def _lower_symbolic_number(self, node: fx.Node) -> None:
        assert callable(node.target)
        try:
            operands = [self.value_of(argument) for argument in node.args]
            self.values[node] = lower_number(self, node.target, operands)
        except Unsupported as error:
            raise LoweringError(
                op=node.name, where=str(self.origin), reason=str(error)
            ) from error

    def _lower_op(self, node: fx.Node, overload: torch._ops.OpOverload) -> None:
        name = overload_name(overload)
        function = find_rule(name)
        reason = "no converter rule"
        if function is not None:
            existing = {id(layer) for layer in self.network.layers}
            try:
                bound = self._arguments(node, overload)
                value = function(self, **bound)
                self._check(node, name, value)
                self.values[node] = value
                self._note_override(name)
                return
            except (Unsupported, ValueError) as error:
                reason = str(error)
                self._discard_since(existing)
        self.values[node] = self._fallback(node, overload)
        origin = self.origin
        self.fallbacks.append(FallbackNode(name, origin.module_path, origin.source, reason))

    def _note_override(self, name: str) -> None:
        where = overriding_rule(name)
        note = f"{name} is converted by {where}, which goes before torch2rt's own rule"
        if where is not None and note not in self.notes:
            self.notes.append(note)

    def _discard_since(self, existing: set[int]) -> None:
        for layer in reversed(self.network.layers):
            if id(layer) not in existing:
                self.network.remove(layer)

    def _arguments(self, node: fx.Node, overload: torch._ops.OpOverload) -> dict[str, Any]:
        """The node's arguments by schema name, defaults filled in, values resolved."""
        bound: dict[str, Any] = {}
        for index, argument in enumerate(overload._schema.arguments):
            if index < len(node.args):
                value = node.args[index]
            elif argument.name in node.kwargs:
                value = node.kwargs[argument.name]
            else:
                value = argument.default_value
            bound["input" if argument.name == "self" else argument.name] = self.value_of(value)
        return bound

    def value_of(self, argument: Any) -> Any:
        """An fx argument as a rule sees it."""
        match argument:
            case fx.Node():
                if argument in self.state:
                    return self._state_constant(argument)
                if argument not in self.values:
                    raise LoweringError(
                        op=argument.name, where=str(self.origin),
                        reason="it computes a number from sizes in a way that is not known",
                    )
                return self.values[argument]
            case torch.dtype():
                return dtype_from_torch(argument)
            case torch.SymInt():
                return dim_from_torch(argument)
            case list() | tuple():
                return [self.value_of(item) for item in argument]
        return argument

    def _state_constant(self, node: fx.Node) -> Tensor:
        if node not in self.values:
            fqn, value = self.state[node]
            self.values[node] = self.constant(fqn, value)
        value = self.values[node]
        assert isinstance(value, Tensor)
        return value

    def _check(self, node: fx.Node, name: str, value: Tensor | list[Tensor]) -> None:
        expected = node.meta["val"]
        if isinstance(value, Tensor):
            pairs = [(expected, value)]
        else:  # torch 2.11 gives states of an LSTM that nobody reads an axis too many
            results = zip(expected, value, strict=False)
            pairs = [pair for i, pair in enumerate(results) if self.is_result_used(i)]
        for want, got in pairs:
            if isinstance(want, torch.Tensor) and not _same_type(type_of(want), got.type):
                raise LoweringError(
                    op=name, where=str(self.origin),
                    reason=f"the rule gives {got.type}, the model {type_of(want)}",
                )

    def _fallback(self, node: fx.Node, overload: torch._ops.OpOverload) -> Tensor | list[Tensor]:
        tensors: list[Tensor] = []

        def encode(argument: Any) -> Any:
            match argument:
                case Tensor():
                    tensors.append(argument)
                    return ("tensor", len(tensors) - 1)
                case list() | tuple():
                    return ("list", *(encode(item) for item in argument))
                case torch.device():
                    return "cpu"
                case torch.layout() | torch.memory_format():
                    return None
            return argument

        arguments = tuple(encode(self.value_of(argument)) for argument in node.args)
        named = tuple(
            (key, encode(self.value_of(argument)))
            for key, argument in node.kwargs.items()
            if key not in ("layout", "memory_format", "pin_memory", "device")
        )
        value = node.meta["val"]
        is_single = isinstance(value, torch.Tensor)
        types = (type_of(value),) if is_single else tuple(self.output_types)
        kind = Aten(overload_name(overload), arguments, named, types)
        outputs = self.add_many(kind, *tensors)
        if is_single:
            return outputs[0]
        remaining = iter(outputs)
        return [next(remaining) if isinstance(v, torch.Tensor) else v for v in value]


def overload_name(overload: torch._ops.OpOverload) -> str:
    """``aten.relu.default``."""
    return f"{overload.namespace}.{overload._schema.name.split('::')[1]}.{overload._overloadname}"


def type_of(value: torch.Tensor) -> TensorType:
    """Type of a fake tensor; symbolic sizes become dims."""
    shape = tuple(dim_from_torch(size) for size in value.shape)
    return TensorType(shape, dtype_from_torch(value.dtype))


def origin_of(node: fx.Node) -> Origin:
    """Innermost module path and source line of a captured node."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    op = overload_name(node.target) if isinstance(node.target, torch._ops.OpOverload) else node.name
    return Origin(_clean_path(path), op, _source_line(node.meta.get("stack_trace")))


def _clean_path(path: str) -> str:
    """``L['self'].layer1`` and ``_modules.layer1`` as ``layer1``."""
    return path.removeprefix("L['self']").removeprefix("self").lstrip(".")


def _source_line(trace: str | None) -> str:
    """The innermost ``file:line`` of a stack trace."""
    lines = [line.strip() for line in (trace or "").splitlines() if line.strip().startswith("File")]
    if not lines:
        return ""
    file, _, rest = lines[-1].removeprefix('File "').partition('", line ')
    return f"{file.rsplit('/', 1)[-1]}:{rest.split(',')[0]}"


def _same_type(expected: TensorType, got: TensorType) -> bool:
    if expected.dtype != got.dtype or expected.rank != got.rank:
        return False
    return all(_may_equal(a, b) for a, b in zip(expected.shape, got.shape, strict=True))


def _may_equal(left: Dim, right: Dim) -> bool:
    return left == right or not isinstance(left, int) or not isinstance(right, int)


