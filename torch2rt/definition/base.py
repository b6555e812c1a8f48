"""What all layers of a written network share: inputs, weights, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from torch2rt.errors import DefinitionError
from torch2rt.network.dim import Dim, SymbolicDim, symbol, symbols_of
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer, LayerKind, Origin
from torch2rt.network.network import Network as Graph
from torch2rt.network.tensor import Tensor, TensorType

# A weight: a numpy array, a torch tensor, nested lists of numbers, or a tensor of the network.
Value: TypeAlias = Any
UNLIMITED = (1 << 31) - 1


class Base:
    """A network under construction. ``graph`` is what passes and builders work on.

    Sizes may be names: ``("batch", 3, 224, 224)`` leaves the first axis open, ``sizes`` says from
    where to where.
    """

    def __init__(
        self, name: str = "network", sizes: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.graph = Graph(name)
        self._sizes = dict(sizes or {})

    def add_input(
        self, name: str, shape: Sequence[int | str], dtype: str = "float32"
    ) -> Tensor:
        """A new input; names among its sizes are open axes."""
        type = TensorType(tuple(self._dim(size) for size in shape), self._dtype(dtype))
        if name in self.graph.inputs:
            raise DefinitionError(layer=name, reason="there is an input of this name already")
        return self.graph.add_input(name, type)

    def add_constant(self, value: Value, name: str = "constant") -> Tensor:
        """A constant: an array, a tensor of torch, or numbers. Floats without a dtype are float32.

        A tensor of the network is returned as it is.
        """
        if isinstance(value, Tensor):
            self._check_own(value, name)
            return value
        if hasattr(value, "detach"):  # a tensor of torch, which numpy may not be able to hold
            from torch2rt.torch_values import constant_from_torch

            data, dtype = constant_from_torch(value.detach().cpu().contiguous())
            return self.graph.add_constant(name, data, dtype)
        array: Array = np.asarray(value)
        if array.dtype == np.float64 and not isinstance(value, np.ndarray):
            array = array.astype(np.float32)
        return self.graph.add_constant(name, np.ascontiguousarray(array).reshape(array.shape))

    def mark_output(self, tensor: Tensor, name: str = "output") -> None:
        """Make a tensor an output of the network."""
        self._check_own(tensor, name)
        try:
            self.graph.add_output(name, tensor)
        except ValueError as error:
            raise DefinitionError(layer=name, reason=str(error)) from error

    def add_layer(self, kind: LayerKind, *inputs: Value, name: str | None = None) -> Layer:
        """A layer of any kind of `torch2rt.layers`. DefinitionError where the inputs do not fit."""
        title = name or kind.name
        tensors = [self.add_constant(value, f"{title}.weight") for value in inputs]
        try:
            return self.graph.add(
                kind, tensors, name=title, origins=(Origin(title, f"add_{kind.name}"),)
            )
        except (ValueError, TypeError, IndexError) as error:
            raise DefinitionError(layer=title, reason=str(error)) from error

    def _check_own(self, tensor: Tensor, user: str) -> None:
        """DefinitionError for a tensor of another network."""
        name = tensor.name
        if not self.graph.has_tensor(name) or self.graph.tensor(name) is not tensor:
            raise DefinitionError(layer=user, reason=f"{tensor} is a tensor of another network")

    def _one(self, kind: LayerKind, *inputs: Value, name: str | None = None) -> Tensor:
        return self.add_layer(kind, *inputs, name=name).output

    def _dim(self, size: int | str | SymbolicDim) -> Dim:
        if not isinstance(size, str):
            for name in symbols_of(size):
                self._dim(name)
            return size
        if not size.isidentifier():
            raise DefinitionError(layer=size, reason="it is no name of a size")
        self.graph.symbols.setdefault(size, self._sizes.get(size, (1, UNLIMITED)))
        return symbol(size)

    @staticmethod
    def _dtype(name: str) -> DType:
        try:
            return DType(name)
        except ValueError as error:
            names = ", ".join(dtype.value for dtype in DType)
            raise DefinitionError(
                layer=name, reason=f"it is no dtype; there are {names}"
            ) from error


def pair(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number per spatial axis."""
    return (value,) * count if isinstance(value, int) else tuple(value)
