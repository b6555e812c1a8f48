"""The fallback layer: the original ATen op, run by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch2rt.lazy_torch import torch
from torch2rt.network.dim import SymbolicDim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

# Ops that touch files or processes; an engine file must not be able to name them.
_FORBIDDEN = ("from_file", "save", "_from_file")


@dataclass(frozen=True)
class Aten(LayerKind):
    """outputs = torch.ops.<op>(*arguments, **named).

    ``op`` is ``namespace.name.overload``. ``arguments`` and ``named`` (pairs) hold plain values;
    ``("tensor", i)`` stands for input i and ``("list", ...)`` for a list; dtypes are `DType`.
    ``outputs`` are the types of the results in order; ``keep`` tells, for each result of the op,
    whether it is a tensor. Source: the ATen op of that name.
    """

    name: ClassVar[str] = "aten"
    op: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    outputs: tuple[TensorType, ...]

    def __post_init__(self) -> None:
        parts = self.op.split(".")
        if len(parts) != 3 or parts[1] in _FORBIDDEN:
            raise ValueError(f"{self.op!r} is not an op that a fallback layer may run")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The types seen at capture."""
        return self.outputs

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Call the op."""
        namespace, name, overload = self.op.split(".")
        function = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        arguments = [_value(argument, inputs) for argument in self.arguments]
        named = {key: _value(argument, inputs) for key, argument in self.named}
        result = function(*arguments, **named)
        results = result if isinstance(result, tuple | list) else (result,)
        return tuple(item for item in results if isinstance(item, torch.Tensor))

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Unknown: counted as none."""
        return 0


def _value(argument: Any, inputs: Sequence[TorchTensor]) -> Any:
    match argument:
        case ("tensor", int(index)):
            return inputs[index]
        case ("list", *items):
            return [_value(item, inputs) for item in items]
        case DType():
            return getattr(torch, argument.value)
        case SymbolicDim():
            raise ValueError(f"size {argument} of a fallback layer has no value yet")
    return argument
