"""What a cuDNN graph computes, as plain data: hashable, picklable, made without cuDNN.

Values are numbered: operands first, then the result of each node.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from torch2rt.network.dtype import DType

# Number of a value, or a literal that kernels get as a parameter.
Value: TypeAlias = "int | Literal"
Attribute: TypeAlias = "bool | int | float | tuple[int, ...]"


class NotInCudnn(Exception):
    """A layer that cuDNN graphs cannot express as we build them; the text says why."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A number in a graph."""

    value: float


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor in memory: sizes, strides in elements, and dtype."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Node:
    """One operation, named as the method of ``cudnn.pygraph`` that adds it."""

    op: str
    inputs: tuple[Value, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()


@dataclass(frozen=True)
class GraphDescription:
    """A graph whose last node's result is the output.

    Everything between operands and output is float32. ``is_full_float32`` bars plans that round
    float32 operands before they multiply.
    """

    operands: tuple[Operand, ...]
    nodes: tuple[Node, ...]
    output: Operand
    is_full_float32: bool = False

    @cached_property
    def digest(self) -> str:
        """Equal for equal descriptions, in every process."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:32]

    @property
    def output_uid(self) -> int:
        """CuDNN's number of the output; operand i has the number i + 1."""
        return len(self.operands) + 1


class GraphWriter:
    """Collects operands, then nodes."""

    def __init__(self) -> None:
        self.operands: list[Operand] = []
        self.nodes: list[Node] = []

    def operand(self, operand: Operand) -> int:
        """Add an operand; its value. All operands come before the first node."""
        if self.nodes:
            raise ValueError("operands come before nodes")
        self.operands.append(operand)
        return len(self.operands) - 1

    def node(self, op: str, *inputs: Value, **attributes: Attribute) -> int:
        """Add a node; its value."""
        self.nodes.append(Node(op, inputs, tuple(attributes.items())))
        return len(self.operands) + len(self.nodes) - 1

    def is_computed(self, value: Value) -> bool:
        """Whether a value is the result of a node."""
        return isinstance(value, int) and value >= len(self.operands)

    def finish(self, result: Value, output: Operand, *, is_full_float32: bool) -> GraphDescription:
        """The graph whose output is ``result``, the value of the last node."""
        if result != len(self.operands) + len(self.nodes) - 1:
            # The last node is another one, or there is none: the output is a copy of the result.
            self.node("identity", result)
        return GraphDescription(
            tuple(self.operands), tuple(self.nodes), output, is_full_float32
        )
