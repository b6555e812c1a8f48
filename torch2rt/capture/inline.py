"""Regions of a captured graph that ran under another mode are put back into the main graph.

torch.export keeps ``with torch.no_grad()`` and ``with torch.autocast(...)`` as one node with a
graph of its own. An engine never has gradients, so the former means nothing; the latter becomes
the casts that autocast would have made.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from torch2rt.capture.captured import place
from torch2rt.capture.errors import CaptureError

_GRAD_MODE = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_TO_COPY = torch.ops.aten._to_copy.default
_CASTABLE = (torch.float32, torch.float16, torch.bfloat16)  # autocast leaves other dtypes alone


class SharedMemory:
    """Which fake values share memory.

    Fake values of one trace that share memory share a storage. A region's outputs are given fresh
    storages outside of it; `join` records that two storages are one memory.
    """

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def of(self, value: torch.Tensor) -> int:
        """A number for the memory behind a value."""
        found = int(value.untyped_storage()._cdata)
        while found in self._parent:
            found = self._parent[found]
        return found

    def merge(self, other: SharedMemory) -> None:
        """Take over what another trace's record knows."""
        self._parent.update(other._parent)

    def join(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Both values live in the same memory."""
        a, b = self.of(left), self.of(right)
        if a != b:
            self._parent[a] = b


def inline_regions(graph_module: fx.GraphModule, model: str) -> SharedMemory:
    """Replace every region in place. CaptureError for control flow operators such as cond."""
    memory = SharedMemory()
    graph = graph_module.graph
    for node in list(graph.nodes):
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            _inline(graph_module, node, memory, model)
    for node in graph.find_nodes(op="get_attr"):
        if not node.users:
            graph.erase_node(node)
    return memory


def _inline(owner: fx.GraphModule, node: fx.Node, memory: SharedMemory, model: str) -> None:
    autocast_device: str | None = None
    if node.target is _GRAD_MODE:
        _, body, *operands = node.args
    elif node.target is _AUTOCAST:
        device, _, enabled, _, body, *operands = node.args
        autocast_device = str(device) if enabled else None
    else:
        raise CaptureError(
            model=model, where=place(node), reason=f"it uses the operator {node.target}",
            remedy="Convert the parts around it, or run the model through PartialModule.",
        )
    assert isinstance(body, fx.Node)
    region = owner.get_submodule(str(body.target))
    assert isinstance(region, fx.GraphModule)
    memory.merge(inline_regions(region, model))
    with owner.graph.inserting_before(node):
        outputs = _copy_region(owner.graph, region, operands, autocast_device, memory)
    for user in list(node.users):
        assert user.target is operator.getitem
        output = outputs[user.args[1]]  # type: ignore[index]
        _join(memory, user, output)
        user.replace_all_uses_with(output)
        owner.graph.erase_node(user)
    owner.graph.erase_node(node)


def _copy_region(
    graph: fx.Graph, region: fx.GraphModule, operands: Sequence[Any],
    autocast_device: str | None, memory: SharedMemory,
) -> list[fx.Node]:
    """Copy the region's nodes to where the graph inserts. Returns the region's outputs."""
    copied: dict[fx.Node, fx.Node] = {}
    for inner, operand in zip(region.graph.find_nodes(op="placeholder"), operands, strict=True):
        copied[inner] = operand
        _join(memory, inner, operand)
    for inner in region.graph.nodes:
        if inner.op != "call_function":
            continue
        cast = partial(_cast, copied, inner, _autocast_dtype(inner, autocast_device))
        copied[inner] = graph.node_copy(inner, cast)
    (output,) = region.graph.find_nodes(op="output")
    returned = output.args[0]
    assert isinstance(returned, tuple | list)
    return [copied[item] for item in returned if isinstance(item, fx.Node)]


def _autocast_dtype(node: fx.Node, device: str | None) -> torch.dtype | None:
    """The dtype autocast gives the operands of a node: that of its result as captured."""
    value = node.meta.get("val")
    if device is None or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name, key = node.target._schema.name, f"Autocast{device.upper()}"
    if node.target._overloadname != "default":
        name = f"{name}.{node.target._overloadname}"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, key):
        return None
    first = value[0] if isinstance(value, list | tuple) else value
    return first.dtype if isinstance(first, torch.Tensor) else None


def _cast(
    copied: dict[fx.Node, fx.Node], user: fx.Node, dtype: torch.dtype | None, argument: fx.Node
) -> fx.Node:
    """The copy of an operand of ``user``, as the dtype that autocast wants."""
    operand = copied[argument]
    value = operand.meta.get("val")
    if dtype is None or not isinstance(value, torch.Tensor) or value.dtype == dtype:
        return operand
    if value.dtype not in _CASTABLE or dtype not in _CASTABLE:
        return operand
    cast = operand.graph.call_function(_TO_COPY, (operand,), {"dtype": dtype})
    cast.meta = {**user.meta, "val": value.detach().to(dtype)}
    return cast


def _join(memory: SharedMemory, left: fx.Node, right: object) -> None:
    if isinstance(right, fx.Node):
        outer, inner = left.meta.get("val"), right.meta.get("val")
        if isinstance(outer, torch.Tensor) and isinstance(inner, torch.Tensor):
            memory.join(outer, inner)
