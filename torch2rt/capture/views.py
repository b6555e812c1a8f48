"""What a write to a view means for the tensor it is a view of.

    y = x.select(1, 0)      y' = y + 1        x' = select_scatter(x, y', 1, 0)
    y = x.transpose(0, 1)   y' = relu(y)      x' = transpose(y', 0, 1)
    y = x.view(4, -1)       y' = y * 2        x' = reshape(y', shape of x)
    a, b = x.chunk(2, 1)    b' = b + 1        x' = cat((a, b'), 1)

`unview` builds the right-hand column. A view without an entry (as_strided, unfold, a true expand)
has no exact answer there: the caller refuses the model.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import fx

_aten = torch.ops.aten


class Emitter(Protocol):
    """Adds nodes to the graph under construction."""

    def emit(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call and compute its fake value."""

    def size(self, node: fx.Node, axis: int) -> int | fx.Node:
        """A size of a new node: a number, or the node that computes it."""

    def arguments(self, node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of a captured node in the graph under construction."""


class NoInverse(Exception):
    """A view whose write has no exact functional form here; the text says why."""


def plain_size(size: object) -> object:
    """An int or a symbolic expression: comparable without adding a guard to the trace."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def geometry(value: torch.Tensor) -> tuple[object, ...]:
    """How a tensor looks at its memory: dtype, offset, sizes, strides."""
    numbers = (value.storage_offset(), *value.size(), *value.stride())
    return (value.dtype, value.dim(), *(plain_size(number) for number in numbers))


def unview(
    emitter: Emitter, view: fx.Node, source: fx.Node, base: fx.Node, written: fx.Node
) -> fx.Node:
    """The new value of a view's source.

    ``view`` and ``source`` are nodes of the captured graph; ``base`` is the source's value before
    the write and ``written`` the view's value after it, in the graph under construction.
    NoInverse where it cannot be told.
    """
    before, after = source.meta["val"], view.meta["val"]
    name = _name(view)
    if geometry(before) == geometry(after) or name in _DROPOUTS:
        return written
    if view.target is operator.getitem:
        return _unview_item(emitter, view, base, written)
    if name in _RESHAPES:
        return _reshape_like(emitter, base, written)
    if name in _PERMUTATIONS:
        return _unpermute(emitter, view, written)
    args, kwargs = emitter.arguments(view)
    if name in _SCATTERS:
        return emitter.emit(_SCATTERS[name], base, written, *args[1:], **kwargs)
    if name == "narrow":
        return _unnarrow(emitter, base, written, *args[1:])
    if name in _OPPOSITES:
        return emitter.emit(_OPPOSITES[name], written)
    if name in _EXPANSIONS and plain_size(before.numel()) == plain_size(after.numel()):
        return _reshape_like(emitter, base, written)
    raise NoInverse(f"it writes through {name}")


_RESHAPES: Final = frozenset({
    "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze", "squeeze_",
    "unsqueeze_", "_unsafe_view", "ravel", "atleast_1d", "atleast_2d", "atleast_3d",
})
_PERMUTATIONS: Final = frozenset({
    "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "numpy_T", "mT",
    "transpose_", "t_", "swapaxes_", "swapdims_",
})
_SCATTERS: Final = {
    "select": _aten.select_scatter.default,
    "slice": _aten.slice_scatter.default,
    "diagonal": _aten.diagonal_scatter.default,
}
_OPPOSITES: Final = {
    "view_as_complex": _aten.view_as_real.default,
    "view_as_real": _aten.view_as_complex.default,
}
_DROPOUTS: Final = frozenset({
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
})
_EXPANSIONS: Final = frozenset({"expand", "expand_as", "broadcast_to"})
_PARTS: Final = frozenset({
    "split", "split_with_sizes", "chunk", "tensor_split", "hsplit", "vsplit", "dsplit",
})


def _name(node: fx.Node) -> str:
    if not isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    if node.target is _aten.view.default:
        return "reshape"  # view.dtype is another matter
    return node.target._schema.name.removeprefix("aten::")


def _reshape_like(emitter: Emitter, base: fx.Node, written: fx.Node) -> fx.Node:
    rank = base.meta["val"].dim()
    return emitter.emit(
        _aten.reshape.default, written, [emitter.size(base, axis) for axis in range(rank)]
    )


def _unpermute(emitter: Emitter, view: fx.Node, written: fx.Node) -> fx.Node:
    """Invert any reordering of axes: run it once on a tensor whose sizes are its axis numbers."""
    rank = written.meta["val"].dim()
    numbered = torch.empty(tuple(range(1, rank + 1)), device="meta")
    assert callable(view.target)
    order = [int(size) - 1 for size in view.target(numbered, *view.args[1:], **view.kwargs).shape]
    inverse = [order.index(axis) for axis in range(rank)]
    return emitter.emit(_aten.permute.default, written, inverse)


def _unnarrow(
    emitter: Emitter, base: fx.Node, written: fx.Node, axis: int, start: object, length: object
) -> fx.Node:
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        raise NoInverse("it writes through a narrow whose place is not a plain number")
    end = start + length
    return emitter.emit(_aten.slice_scatter.default, base, written, axis, start, end)


def _unview_item(emitter: Emitter, view: fx.Node, base: fx.Node, written: fx.Node) -> fx.Node:
    parts, index = view.args
    assert isinstance(parts, fx.Node)
    assert isinstance(index, int)
    assert callable(parts.target)
    name = _name(parts)
    args, kwargs = emitter.arguments(parts)
    axis = _parts_axis(name, args, kwargs, base.meta["val"].dim())
    if name == "unbind":
        return emitter.emit(_aten.select_scatter.default, base, written, axis, index)
    if name not in _PARTS:
        raise NoInverse(f"it writes through a result of {name}")
    others = emitter.emit(parts.target, base, *args[1:], **kwargs)
    pieces = [
        written if position == index else emitter.emit(operator.getitem, others, position)
        for position in range(len(parts.meta["val"]))
    ]
    return emitter.emit(_aten.cat.default, pieces, axis)


def _parts_axis(name: str, args: list[Any], kwargs: dict[str, Any], rank: int) -> int:
    fixed = {"hsplit": 0 if rank == 1 else 1, "vsplit": 0, "dsplit": 2}
    if name in fixed:
        return fixed[name]
    position = 1 if name == "unbind" else 2
    return int(args[position] if len(args) > position else kwargs.get("dim", 0))
