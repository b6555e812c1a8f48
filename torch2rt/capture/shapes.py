"""`dynamic_shapes` in its several forms -> one torch.export specification per input tensor.

All of these say the same of ``forward(x, mask=None)``:

    {"x": {0: "batch", 2: (16, 512)}, "mask": {0: "batch"}}
    {"x": {0: Dim("batch"), 2: Dim("width", min=16, max=512)}, "mask": {0: Dim("batch")}}
    ({0: "batch", 2: (16, 512)}, {0: "batch"})
    {"x": ["batch", None, (16, 512)], "mask": ["batch"]}

An axis is free (a name, ``(min, max)``, ``(name, min, max)``, a torch.export.Dim, Dim.AUTO,
Dim.DYNAMIC) or fixed (None, an int, Dim.STATIC). Containers are followed as in the arguments, or
named whole: ``{"batch.image": {0: "batch"}}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch

from torch2rt.calls import tree as trees
from torch2rt.calls.pytree import CallSpec
from torch2rt.capture.errors import DynamicShapeError

_FORMS = (
    'Give {"input": {axis: "name"}}, with (min, max) or torch.export.Dim in place of the name'
)


AxisOf: TypeAlias = tuple[int, int]  # index of a tensor, axis


class ShapeRequest:
    """What a user asked for: per input tensor, axis -> specification.

    Axes of one name must be ``equal``; ``limits`` are the ranges given as (min, max).
    """

    def __init__(self, spec: CallSpec, tensors: Sequence[torch.Tensor], given: object) -> None:
        self.spec = spec
        self.tensors = tensors
        self.axes: list[dict[int, Any]] = [{} for _ in tensors]
        self.limits: dict[AxisOf, tuple[int, int]] = {}
        self._named: dict[str, list[AxisOf]] = {}
        self._read(given)
        if not any(self.axes):
            raise _error("it leaves every axis fixed")

    @property
    def equal(self) -> list[tuple[AxisOf, AxisOf]]:
        """Pairs of axes that must have one size."""
        return [pair for group in self._named.values() for pair in pairwise(group)]

    def axis_names(self) -> list[tuple[str, int, int]]:
        """Every free axis as (input name, input index, axis)."""
        return [
            (self.spec.names[index], index, axis)
            for index, axes in enumerate(self.axes) for axis in axes
        ]

    def _read(self, given: object) -> None:
        if isinstance(given, Mapping):
            for key, value in given.items():
                self._read_named(str(key), value)
        elif isinstance(given, list | tuple):
            taken = [item for item in self.spec.parameters if item.tree is not None]
            if len(given) > len(taken):
                raise _error(f"{len(given)} entries for {len(taken)} argument(s)")
            for item, value in zip(taken, given, strict=False):
                self._read_named(item.name, value)
        else:
            raise _error(f"{given!r} is neither a dict nor a tuple")

    def _read_named(self, name: str, value: object) -> None:
        if name in self.spec.names:
            self._read_axes(self.spec.names.index(name), value)
            return
        parameter = next((p for p in self.spec.parameters if p.name == name), None)
        if parameter is None:
            raise _error(f"the model has no input {name!r}; it takes {', '.join(self.spec.names)}")
        if value is None or parameter.tree is None or isinstance(parameter.tree, trees.Constant):
            return
        spread = parameter.kind == "VAR_KEYWORD"
        self._read_container(parameter.tree, value, "" if spread else name)

    def _read_container(self, tree: trees.Tree, value: object, path: str) -> None:
        if value is None or isinstance(tree, trees.Constant):
            return
        if isinstance(tree, trees.Leaf):
            self._read_axes(self.spec.names.index(path), value)
            return
        if isinstance(value, Mapping):
            children = dict(value)
        elif isinstance(value, list | tuple) and len(value) == len(tree.keys):
            children = dict(zip(tree.keys, value, strict=True))
        else:
            raise _error(f"{value!r} does not match the structure of {path!r}")
        for key, child in zip(tree.keys, tree.children, strict=True):
            self._read_container(child, children.pop(key, None), trees.join(path, key))
        if children:
            raise _error(f"{path!r} has no entries {list(children)}")

    def _read_axes(self, index: int, value: object) -> None:
        name, rank = self.spec.names[index], self.tensors[index].dim()
        if value is None:
            return
        if isinstance(value, Mapping):
            axes = dict(value)
        elif isinstance(value, list | tuple):
            axes = dict(enumerate(value))
        else:
            raise _error(f"{value!r} for input {name!r} is neither a dict nor a list of axes")
        for axis, wanted in axes.items():
            if not isinstance(axis, int) or not -rank <= axis < rank:
                raise _error(f"input {name!r} of rank {rank} has no axis {axis!r}")
            self._read_axis(index, axis % rank, wanted, f"{name!r} axis {axis}")

    def _read_axis(self, index: int, axis: int, wanted: Any, place: str) -> None:
        free = _free_axis(wanted, place)
        if free is not None:
            self.axes[index][axis] = free
        if isinstance(wanted, tuple):
            self.limits[index, axis] = wanted[-2:]
        name = wanted[0] if isinstance(wanted, tuple) else wanted
        if isinstance(name, str):
            self._named.setdefault(name, []).append((index, axis))


def _free_axis(wanted: Any, place: str) -> Any:
    """torch.export's specification of a free axis, None for a fixed one."""
    dims = torch.export.Dim
    if wanted is None or wanted is dims.STATIC or isinstance(wanted, int):
        return None
    if isinstance(wanted, str):
        return dims.DYNAMIC
    if isinstance(wanted, tuple):
        limits = wanted[1:] if wanted and isinstance(wanted[0], str) else wanted
        if len(limits) == 2 and all(isinstance(limit, int) for limit in limits):
            low, high = limits
            if 0 < low < high:
                return dims.DYNAMIC(min=low, max=high)
            raise _error(f"{place}: the range {low}..{high} is empty")
    if isinstance(wanted, dims | type(dims.AUTO)):
        return wanted
    raise _error(f"{place}: {wanted!r} is no specification of an axis")


def _error(reason: str) -> DynamicShapeError:
    return DynamicShapeError(reason=reason, remedy=_FORMS)


def resized(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """The tensor with other sizes along some axes, its entries repeated in order.

    Repeated entries of a floating tensor are scaled a little, so that no two are alike.
    """
    if tensor.is_floating_point() and tensor.itemsize == 1:  # torch does not compute in float8
        return resized(tensor.float(), sizes).to(tensor.dtype)
    for axis, size in sizes.items():
        old = tensor.size(axis)
        if old == size:
            continue
        index = torch.arange(size, device=tensor.device)
        tensor = tensor.index_select(axis, index % old)
        if tensor.is_floating_point():
            factor = 1 - (index // old).to(tensor.dtype) / 16
            shape = [size if other == axis else 1 for other in range(tensor.dim())]
            tensor = tensor * factor.reshape(shape)
    return tensor
