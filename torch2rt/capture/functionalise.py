"""A captured graph without in-place operations, of the same meaning.

Before                                  After
    y = relu_(x)                            y = relu(x)
    v = select(y, 1, 0)                     v = select(y, 1, 0)
    w = add_(v, 1)                          w = add(v, 1)
    z = mul(y, 2)                           y' = select_scatter(y, w, 1, 0); z = mul(y', 2)

Tensors that share memory form a tree: a *root* owns the memory, every other is a view of its
*source*. Each root has a version. A write computes the written tensor's new value, carries it to
the root through the inverse of each view (`views.unview`), and raises the version; a tensor whose
version is behind is computed again from its source when it is next read. Values nobody reads
afterwards are removed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from torch2rt.capture.captured import place
from torch2rt.capture.errors import BufferMutationError, MutationError
from torch2rt.capture.inline import SharedMemory
from torch2rt.capture.inplace import (
    UNSUPPORTED,
    VIEWS_IN_PLACE,
    functional_form,
    has_list_writes,
    without_outs,
    written_arguments,
)
from torch2rt.capture.views import NoInverse, geometry, unview

_aten = torch.ops.aten

# Checks of torch.export on sizes and of the user on values: a plan's shapes are checked by the
# engine's bindings, and an engine does not raise from inside.
_ASSERTIONS = frozenset({
    "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range",
    "sym_constrain_range_for_size",
})
# They copy, though their fake value shares memory with the argument.
_COPIES = frozenset({_aten.lift_fresh_copy.default})
# They return their argument under another name.
_SAME_VALUE = frozenset({
    _aten.detach.default, _aten.detach_.default, _aten.alias.default, _aten.lift_fresh.default,
})
# Outside of training they return their argument itself, though their fake value does not say so.
_DROPOUTS = frozenset({
    _aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default,
    _aten.feature_alpha_dropout.default,
})
# Views that fail where strides do not allow them; strides are no part of a value.
_FREE_OF_STRIDES: dict[Callable[..., Any], Callable[..., Any]] = {
    _aten.view.default: _aten.reshape.default,
    _aten.view_as.default: _aten.reshape_as.default,
    _aten._unsafe_view.default: _aten.reshape.default,
}
# They update running statistics without saying so in their schema: position of the flag.
_STATISTICS = {_aten.batch_norm.default: 5, _aten.instance_norm.default: 5}
_KEPT_META = ("nn_module_stack", "stack_trace", "source_fn_stack", "custom", "seq_nr")


@dataclass(slots=True)
class Alias:
    """A captured tensor and its value in the new graph.

    ``source`` is the captured tensor it is a view of, None for a root. ``version`` is the root's
    version that ``value`` belongs to. ``view`` computes it from its source again.
    """

    root: fx.Node
    source: fx.Node | None
    version: int
    value: fx.Node
    view: Callable[..., Any] | None = None


class Functionaliser:
    """One run over a graph. ``state`` maps placeholders of the model's own tensors to names."""

    def __init__(
        self, graph: fx.Graph, memory: SharedMemory, state: dict[str, tuple[str, str]], model: str
    ) -> None:
        self.old = graph
        self.new = fx.Graph()
        self.memory = memory
        self.state = state
        self.model = model
        self.values: dict[fx.Node, Any] = {}
        self.aliases: dict[fx.Node, Alias] = {}
        self.versions: dict[fx.Node, int] = {}
        self.drifted: set[fx.Node] = set()
        self.mutated_inputs: set[str] = set()
        self.dropped_assertions = 0
        self.current: fx.Node | None = None
        mode = detect_fake_mode([node.meta.get("val") for node in graph.nodes])
        self.fake_mode = mode or FakeTensorMode()
        self._replayed: dict[tuple[fx.Node, int], fx.Node] = {}

    def run(self) -> fx.Graph:
        """The functional graph. BufferMutationError, MutationError where there is none."""
        for node in self.old.nodes:
            self.current = node
            match node.op:
                case "placeholder":
                    self._define(node, self.new.node_copy(node), None)
                case "output":
                    self.new.node_copy(node, self.read)
                case "call_function":
                    self._call(node)
        self.new.eliminate_dead_code()
        self.new.lint()
        return self.new

    # ---- reading ---------------------------------------------------------------------------

    def read(self, node: fx.Node) -> Any:
        """Value of a captured node as of now."""
        if node not in self.aliases:
            return self.values[node]
        alias = self.aliases[node]
        if alias.source is None or alias.version == self.versions[alias.root]:
            return alias.value
        source, current = self.read(alias.source), self.current
        alias.value = self._view_again(node, alias, source)
        alias.version = self.versions[alias.root]
        self.current = current
        return alias.value

    def _view_again(self, node: fx.Node, alias: Alias, source: fx.Node) -> fx.Node:
        assert alias.source is not None
        if geometry(node.meta["val"]) == geometry(alias.source.meta["val"]):
            return source
        self.current = node
        if node.target is not operator.getitem:
            args, kwargs = self.arguments(node)
            assert alias.view is not None
            return self.emit(alias.view, *args, **kwargs)
        parts, index = node.args
        assert isinstance(parts, fx.Node)
        key = parts, self.versions[alias.root]
        if key not in self._replayed:
            args, kwargs = self.arguments(parts)
            self._replayed[key] = self.emit(parts.target, *args, **kwargs)  # type: ignore[arg-type]
        return self.emit(operator.getitem, self._replayed[key], index)

    def arguments(self, node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of a captured node in the new graph, as of now."""
        return list(fx.map_arg(node.args, self.read)), dict(fx.map_arg(node.kwargs, self.read))

    # ---- adding nodes ----------------------------------------------------------------------

    def emit(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call, attributed to the captured node at hand, with its fake value."""
        assert self.current is not None
        target = _FREE_OF_STRIDES.get(target, target)
        value = self._fake(target, args, kwargs)
        node = self.new.call_function(target, args, kwargs)
        node.meta = {key: self.current.meta[key] for key in _KEPT_META if key in self.current.meta}
        node.meta["val"] = value
        return node

    def _fake(self, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        values = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
        if target is operator.getitem:
            return values[0][0][args[1]]
        try:
            with self.fake_mode, torch.no_grad():
                return target(*values[0], **values[1])
        except (RuntimeError, ValueError) as error:
            assert self.current is not None
            reason = f"{target} does not take its result ({str(error).splitlines()[0]})"
            raise self._refusal(self.current, reason) from error

    def size(self, node: fx.Node, axis: int) -> int | fx.Node:
        """A size of a new node: a number, or the node that computes it."""
        size = node.meta["val"].size(axis)
        return self.emit(_aten.sym_size.int, node, axis) if isinstance(size, torch.SymInt) else size

    def _copy(self, node: fx.Node) -> fx.Node:
        """The captured node in the new graph; its fake value anew where an operand's changed."""
        copied = self.new.node_copy(node, self.read)
        assert callable(copied.target)
        copied.target = _FREE_OF_STRIDES.get(copied.target, copied.target)
        if not self.drifted.isdisjoint(copied.all_input_nodes) and not _has_unbacked(node):
            value = self._fake(copied.target, copied.args, copied.kwargs)
            if not _same_geometry(value, copied.meta["val"]):
                copied.meta["val"] = value
                self.drifted.add(copied)
        return copied

    def _define(self, node: fx.Node, value: fx.Node, source: fx.Node | None) -> None:
        """Record the value of a captured node."""
        if not isinstance(node.meta.get("val"), torch.Tensor):
            self.values[node] = value
            return
        if not _same_geometry(value.meta["val"], node.meta["val"]):
            self.drifted.add(value)
        root = node if source is None else self.aliases[source].root
        version = self.versions.setdefault(root, 0)
        view = node.target if callable(node.target) else None
        if isinstance(view, torch._ops.OpOverload):
            view = VIEWS_IN_PLACE.get(view, view)
        self.aliases[node] = Alias(root, source, version, value, view)

    # ---- the kinds of captured nodes -------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        overload = node.target
        if not isinstance(overload, torch._ops.OpOverload):
            self._define_call(node)
            return
        if overload._schema.name.removeprefix("aten::") in _ASSERTIONS:
            self.dropped_assertions += "_assert_async" in overload._schema.name
            return
        if overload in _STATISTICS:
            self._refuse_statistics(node, _STATISTICS[overload])
        if overload in VIEWS_IN_PLACE:
            args, kwargs = self.arguments(node)
            written = self.emit(VIEWS_IN_PLACE[overload], *args, **kwargs)
            self._define(node, written, node.all_input_nodes[0])
        elif overload._schema.is_mutable and overload not in _SAME_VALUE:
            self._call_in_place(node, overload)
        else:
            self._define_call(node)

    def _define_call(self, node: fx.Node) -> None:
        source = self._source_of(node)
        if node.target is operator.getitem and source is not None:
            parts = node.args[0]
            assert isinstance(parts, fx.Node)
            if parts not in self.values:  # a result of an in-place operation: the argument itself
                self._define(node, self.read(source), source)
                return
        if node.target in _SAME_VALUE and source is not None:
            self._define(node, self.read(source), source)
            return
        self._define(node, self._copy(node), source)

    def _source_of(self, node: fx.Node) -> fx.Node | None:
        """The captured tensor that a node is a view of."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or node.target in _COPIES:
            return None
        if node.target in _DROPOUTS and not (node.args[2] and node.args[1]):
            return node.all_input_nodes[0]
        if node.target is operator.getitem:
            assert isinstance(node.args[0], fx.Node)
            candidates = node.args[0].all_input_nodes
        else:
            candidates = node.all_input_nodes
        own = self.memory.of(value)
        for candidate in candidates:
            if candidate in self.aliases and self.memory.of(candidate.meta["val"]) == own:
                return candidate
        return None

    def _call_in_place(self, node: fx.Node, overload: torch._ops.OpOverload) -> None:
        targets = written_arguments(node)
        for target in targets.values():
            self._note_write(node, target)
        if overload is _aten.copy_.default and self._is_same_memory(node.args[0], node.args[1]):
            self._define(node, self.read(node.args[0]), node.args[0])  # type: ignore[arg-type]
            return
        results = self._compute(node, overload)
        for target, result in zip(targets.values(), results, strict=True):
            self._write(node, target, self._fit(result, target))
        if isinstance(node.meta.get("val"), torch.Tensor):
            (target,) = targets.values()
            self._define(node, self.read(target), target)

    def _compute(self, node: fx.Node, overload: torch._ops.OpOverload) -> list[fx.Node]:
        """What an in-place operation writes, one value per written argument."""
        name = overload._schema.name.removeprefix("aten::")
        args, kwargs = self.arguments(node)
        if name == "copy_" or overload is _aten.fill_.Tensor:
            return [args[1]]
        if name == "zero_":
            return [self.emit(_aten.full_like.default, args[0], 0)]
        functional = None
        if name not in UNSUPPORTED and not has_list_writes(overload):
            functional = functional_form(overload)
        if functional is None:
            raise self._refusal(node, "ATen has no overload that returns its result")
        result = self.emit(functional, *args, **without_outs(overload, kwargs))
        if isinstance(result.meta["val"], torch.Tensor):
            return [result]
        count = len(written_arguments(node))
        return [self.emit(operator.getitem, result, index) for index in range(count)]

    def _fit(self, result: fx.Node, target: fx.Node) -> fx.Node:
        """The result as an in-place operation stores it: in the target's dtype and sizes."""
        assert self.current is not None
        before, value = target.meta["val"], result.meta["val"]
        if value.dtype != before.dtype:
            result = self.emit(_aten._to_copy.default, result, dtype=before.dtype)
        if _sizes(value) == _sizes(before):
            return result
        if self.current.target not in (_aten.copy_.default, _aten.fill_.Tensor):
            raise self._refusal(self.current, "the result has another shape than the tensor")
        shape = [self.size(self.read(target), axis) for axis in range(before.dim())]
        return self.emit(_aten.expand.default, result, shape)

    def _write(self, node: fx.Node, target: fx.Node, value: fx.Node) -> None:
        """Give a captured tensor a new value, and so every tensor that shares its memory."""
        changed = {target: value}
        while (source := self.aliases[target].source) is not None:
            try:
                value = unview(self, target, source, self.read(source), value)
            except NoInverse as error:
                raise self._refusal(node, str(error)) from error
            changed[source] = value
            target = source
        self.versions[target] += 1
        for written, new in changed.items():
            alias = self.aliases[written]
            alias.value, alias.version = new, self.versions[target]
            if not _same_geometry(new.meta["val"], written.meta["val"]):
                self.drifted.add(new)

    def _is_same_memory(self, left: object, right: object) -> bool:
        """Whether two captured tensors are one view of one memory: ``x[0] += 1`` ends in such."""
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            return False
        if right not in self.aliases or self.aliases[left].root != self.aliases[right].root:
            return False
        return geometry(left.meta["val"]) == geometry(right.meta["val"])

    # ---- refusals --------------------------------------------------------------------------

    def _note_write(self, node: fx.Node, target: fx.Node) -> None:
        root = self.aliases[target].root
        if root.op == "placeholder" and root.name in self.state:
            kind, name = self.state[root.name]
            raise BufferMutationError(
                model=self.model, kind=kind, name=name, op=_op_name(node), where=place(node)
            )
        if root.op == "placeholder":
            self.mutated_inputs.add(root.name)

    def _refuse_statistics(self, node: fx.Node, flag: int) -> None:
        running = node.args[3]
        if isinstance(running, fx.Node) and node.args[flag]:
            self._note_write(node, running)
            raise self._refusal(node, "it updates running statistics")

    def _refusal(self, node: fx.Node, reason: str) -> MutationError:
        return MutationError(
            model=self.model, op=_op_name(node), where=place(node), reason=reason
        )


def _op_name(node: fx.Node) -> str:
    return str(node.target)


def _sizes(value: torch.Tensor) -> tuple[object, ...]:
    return geometry(value)[3 : 3 + value.dim()]


def _same_geometry(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        dims = slice(3, None)  # an offset into memory is no part of a value
        return left.dtype == right.dtype and geometry(left)[dims] == geometry(right)[dims]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return all(_same_geometry(a, b) for a, b in zip(left, right, strict=True))
    return True


def _has_unbacked(node: fx.Node) -> bool:
    return bool(free_unbacked_symbols(node.meta.get("val")))

