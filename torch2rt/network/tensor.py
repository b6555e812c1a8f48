"""Tensors of a network: a name, a shape, a dtype; constants also carry their data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch2rt.network.dim import Dim, is_static, product
from torch2rt.network.dtype import Array, DType

if TYPE_CHECKING:
    from torch2rt.network.layer import Layer

Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and dtype. Text form: ``float32[s0,3,224,224]``."""

    shape: Shape
    dtype: DType

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(str(dim) for dim in self.shape)}]"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def element_count(self) -> Dim:
        """Number of elements, symbolic if the shape is."""
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dim is a plain integer."""
        return is_static(*self.shape)


class Tensor:
    """A value in a network. Identity is the object; the name is unique in its network.

    ``producer`` is the layer that writes it, None for network inputs and constants. Both fields
    below the line are kept by the network alone.
    """

    __slots__ = ("data", "name", "producer", "type", "users")

    def __init__(self, name: str, type: TensorType, data: Array | None = None) -> None:
        self.name = name
        self.type = type
        self.data = data
        # kept by the network:
        self.producer: Layer | None = None
        self.users: dict[Layer, None] = {}

    @property
    def shape(self) -> Shape:
        """The dims of its axes."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.type.dtype

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    @property
    def is_constant(self) -> bool:
        """Whether its value is known: a weight, or a folded result."""
        return self.data is not None

    def __repr__(self) -> str:
        return f"{'@' if self.is_constant else '%'}{self.name}: {self.type}"
