"""Layers: a kind with its attributes, the tensors it reads and writes, and where it came from.

A *kind* is a frozen dataclass, one per file in `torch2rt.layers`. It needs no torch until its
`reference` is called. A `Layer` is one use of a kind in a network; only the network changes it.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt import expression as ex
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.network.torch_cast import to_dtype

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of a layer at concrete shapes: floating-point operations, and bytes it must move."""

    flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The captured node a layer stems from. Fused layers have several."""

    module_path: str
    op: str
    source: str = ""

    def __str__(self) -> str:
        return self.module_path or self.op


@dataclass(frozen=True)
class LayerKind(abc.ABC):
    """Attributes and meaning of one kind of layer.

    ``name`` is the kind's name in texts, tactics and errors, and the name of its file.
    ``takes_epilogue`` says whether an expression that follows may become its epilogue.
    """

    name: ClassVar[str]
    takes_epilogue: ClassVar[bool] = False

    @abc.abstractmethod
    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Types of the outputs for main inputs of these types (no epilogue). Symbolic dims work.

        ValueError when the inputs do not fit.
        """

    @abc.abstractmethod
    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The outputs in plain torch, without epilogue: the oracle and the last resort."""

    def computes_in(self, dtype: DType) -> bool:
        """Whether operands and results may be given this float dtype, where kinds leave it open.

        Default: no. `torch2rt.passes.lower_precision` lists the kinds that always may.
        """
        return False

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Floating-point operations at concrete shapes. Default: one per output element."""
        return sum(int(output.element_count) for output in outputs)


class Layer:
    """One layer of a network. ``inputs`` are the kind's main inputs, then the epilogue's.

    In the epilogue expression ``i0`` is the kind's (only) output, ``i1`` and later are the
    epilogue inputs, which broadcast to it as torch tensors do.
    """

    __slots__ = ("epilogue", "inputs", "kind", "name", "network", "origins", "outputs")

    def __init__(
        self,
        name: str,
        kind: LayerKind,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        epilogue: ex.Expression | None,
        origins: tuple[Origin, ...],
    ) -> None:
        self.name = name
        self.kind = kind
        self.inputs = inputs
        self.outputs = outputs
        self.epilogue = epilogue
        self.origins = origins
        self.network: object | None = None  # set while it is part of a network

    @property
    def is_alive(self) -> bool:
        """Whether it is still part of a network."""
        return self.network is not None

    @property
    def epilogue_count(self) -> int:
        """Number of epilogue inputs."""
        return max(0, ex.arity(self.epilogue) - 1) if self.epilogue is not None else 0

    @property
    def main_inputs(self) -> tuple[Tensor, ...]:
        """The inputs of the kind itself."""
        return self.inputs[: len(self.inputs) - self.epilogue_count]

    @property
    def epilogue_inputs(self) -> tuple[Tensor, ...]:
        """The inputs the epilogue reads besides the accumulator."""
        return self.inputs[len(self.inputs) - self.epilogue_count :]

    @property
    def output(self) -> Tensor:
        """The only output; ValueError if there are several."""
        (output,) = self.outputs
        return output

    @property
    def where(self) -> str:
        """Module paths it stems from, for messages."""
        return " + ".join(dict.fromkeys(str(origin) for origin in self.origins)) or self.name

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Outputs in torch, epilogue included, cast to the dtypes of the outputs."""
        return run_reference(self.kind, self.epilogue, inputs, [o.type for o in self.outputs])

    def __repr__(self) -> str:
        return f"<Layer {self.name}: {self.kind.name}>"


def run_reference(
    kind: LayerKind,
    epilogue: ex.Expression | None,
    inputs: Sequence[TorchTensor],
    outputs: Sequence[TensorType],
    is_exact: bool | None = None,
) -> tuple[TorchTensor, ...]:
    """A kind and its epilogue in torch.

    Low-precision floats are computed in float32 and rounded once, at the end, so that the
    reference is at least as precise as any fused kernel. With ``is_exact`` every float result is
    float64, whatever the outputs say; None: where an input is.
    """
    wide = [widen(tensor) for tensor in inputs]
    extra = max(0, ex.arity(epilogue) - 1) if epilogue is not None else 0
    results = kind.reference(wide[: len(wide) - extra])
    if epilogue is not None:
        results = (ex.evaluate_torch(epilogue, [results[0], *wide[len(wide) - extra :]]),)
    if is_exact is None:
        is_exact = any(tensor.dtype == torch.float64 for tensor in inputs)
    return tuple(
        _narrow(result, output, is_exact)
        for result, output in zip(results, outputs, strict=True)
    )


def widen(tensor: TorchTensor) -> TorchTensor:
    """A low-precision float as float32; anything else as it is."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize <= 2 else tensor


def _narrow(result: TorchTensor, output: TensorType, is_exact: bool) -> TorchTensor:
    return to_dtype(result, DType.FLOAT64 if is_exact and output.dtype.is_float else output.dtype)
