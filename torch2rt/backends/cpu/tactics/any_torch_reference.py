"""Any layer by its reference in torch: the last resort, which makes an engine need torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch2rt.backends.cpu.steps import StepBuilder, StepsPrepared
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
        operands = [builder.array_output(index) for index in range(len(spec.outputs))]
        arguments = [builder.array_input(index) for index in range(len(spec.inputs))]
        builder.call(partial(_run, spec), *operands, *arguments)
        prepared: StepsPrepared = builder.finish()
        prepared.needs_torch = True
        return prepared


def _run(spec: LayerSpec, *arrays: Array) -> None:
    count = len(spec.outputs)
    inputs = [_tensor(a, s) for a, s in zip(arrays[count:], spec.inputs, strict=True)]
    types = [TensorType(output.shape, output.dtype) for output in spec.outputs]
    with torch.inference_mode():
        results = run_reference(spec.kind, spec.epilogue, inputs, types)
        _store(arrays[:count], spec.outputs, results)


def _store(
    arrays: Sequence[Array], specs: Sequence[TensorSpec], results: Sequence[TorchTensor]
) -> None:
    for array, spec, result in zip(arrays, specs, results, strict=True):
        _tensor(array, spec).copy_(result)


def _tensor(array: Array, spec: TensorSpec) -> Any:
    """A tensor over an array's memory; constants that may not be written to are copied."""
    if not array.flags.writeable:
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.view(getattr(torch, spec.dtype.value)) if spec.dtype.is_stored_as_bits else tensor
