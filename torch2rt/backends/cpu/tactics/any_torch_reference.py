"""Any layer by its reference in torch: the last resort, which makes an engine need torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch2rt.backends.cpu.steps import ArrayOperand, StepBuilder, StepsPrepared
from torch2rt.backends.cpu.torch_operators import as_tensor
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import Array
from torch2rt.network.layer import run_reference
from torch2rt.network.tensor import TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


class TorchReference(Tactic):
    """The reference on tensors that share the buffers' memory, row-major."""

    name: ClassVar[str] = "any.torch.reference"
    kinds: ClassVar[tuple[str, ...]] = ("*",)
    level: ClassVar[int] = 0

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every layer."""
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Nothing to prepare but the types."""
        builder = StepBuilder(spec, weights)
        outputs = [
            replace(builder.array_output(index), view=_viewed(operand))
            for index, operand in enumerate(spec.outputs)
        ]
        inputs = [_input(builder, index) for index in range(len(spec.inputs))]
        types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
        builder.call(partial(_run, spec, types), *outputs, *inputs)
        prepared: StepsPrepared = builder.finish()
        prepared.needs_torch = True
        return prepared


def _run(spec: LayerSpec, types: Sequence[TensorType], *tensors: TorchTensor) -> None:
    count = len(types)
    with torch.inference_mode():
        results = run_reference(spec.kind, spec.epilogue, tensors[count:], types)
        for target, result in zip(tensors[:count], results, strict=True):
            target.copy_(result)


def _input(builder: StepBuilder, index: int) -> Any:
    """An operand that is seen as a tensor; constants are copied once, for they are read-only."""
    operand = builder.array_input(index)
    view = _viewed(builder.spec.inputs[index])
    return replace(operand, view=view) if isinstance(operand, ArrayOperand) else view(operand)


def _viewed(spec: TensorSpec) -> Callable[[Array], Any]:
    """Makes a tensor over an array's memory, once and whenever the memory moves."""
    return partial(as_tensor, dtype=spec.dtype)
