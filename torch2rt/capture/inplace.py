"""The functional form of an in-place ATen overload: same arguments, result instead of a write.

In place                               Functional
    aten.relu_.default(x)              aten.relu.default(x)
    aten.add_.Tensor(x, y)             aten.add.Tensor(x, y)
    aten.add.out(x, y, out=z)          aten.add.Tensor(x, y)
    aten.copy_.default(x, y)           aten.copy.default(x, y)
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import torch
from torch import fx

Overload: TypeAlias = torch._ops.OpOverload
_aten = torch.ops.aten

# In-place overloads whose functional form has another name.
_RENAMED: Final[dict[Overload, Overload]] = {
    _aten.zero_.default: _aten.zeros_like.default,
    _aten.fill_.Scalar: _aten.full_like.default,
    _aten.normal_.default: _aten.normal_functional.default,
}

# They change how a tensor looks at its memory, not the memory: each is a view of its argument.
VIEWS_IN_PLACE: Final[dict[Overload, Overload]] = {
    _aten.squeeze_.default: _aten.squeeze.default,
    _aten.squeeze_.dim: _aten.squeeze.dim,
    _aten.squeeze_.dims: _aten.squeeze.dims,
    _aten.unsqueeze_.default: _aten.unsqueeze.default,
    _aten.transpose_.default: _aten.transpose.int,
    _aten.swapaxes_.default: _aten.swapaxes.default,
    _aten.swapdims_.default: _aten.swapdims.default,
    _aten.t_.default: _aten.t.default,
}

# Nothing but the memory's size or identity changes: no value to compute.
UNSUPPORTED: Final = ("set_", "resize_", "resize_as_", "as_strided_", "set_data")


def written_arguments(node: fx.Node) -> dict[str, fx.Node]:
    """The arguments a node writes to, by schema name."""
    assert isinstance(node.target, torch._ops.OpOverload)
    found: dict[str, fx.Node] = {}
    for index, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        if isinstance(value, fx.Node):
            found[argument.name] = value
    return found


def has_list_writes(overload: Overload) -> bool:
    """Whether it writes to lists of tensors, as the ``_foreach_`` family does."""
    return any(
        argument.alias_info is not None and argument.alias_info.is_write
        and "[]" in str(argument.type) for argument in overload._schema.arguments
    ) or overload._schema.name.startswith("aten::_foreach_")


def functional_form(overload: Overload) -> Overload | None:
    """The overload that returns what this one writes, None where ATen has none."""
    if overload in _RENAMED:
        return _RENAMED[overload]
    namespace, _, name = overload._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), _functional_name(name), None)
    if packet is None:
        return None
    wanted = _signature(overload)
    for candidate in packet.overloads():
        found: Overload = getattr(packet, candidate)
        if not found._schema.is_mutable and _signature(found) == wanted:
            return found
    return None


def _functional_name(name: str) -> str:
    if name.startswith("__i") and name.endswith("__"):
        return f"__{name[3:]}"  # __iand__ is __and__ in place
    return name.removesuffix("_")


def _signature(overload: Overload) -> list[tuple[str, str]]:
    """Names and types of the arguments that are read; the first goes by many names."""
    read = [argument for argument in overload._schema.arguments if not argument.is_out]
    return [(item.name if index else "self", str(item.type)) for index, item in enumerate(read)]


def without_outs(overload: Overload, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an overload less those that only receive results."""
    outs = {argument.name for argument in overload._schema.arguments if argument.is_out}
    return {key: value for key, value in kwargs.items() if key not in outs}
