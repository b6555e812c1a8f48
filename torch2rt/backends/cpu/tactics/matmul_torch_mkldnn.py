"""Matrix products with one constant weight by torch's private oneDNN operator.

For machines without the oneDNN library, as `convolution_torch_mkldnn`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.cpu.torch_operators import (
    Epilogue,
    as_tensor,
    is_torch_float,
    mkldnn_operators,
    run_operator,
    split_epilogue,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.matmul import Matmul

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


class MkldnnMatmul(Tactic):
    """One call of ``mkldnn._linear_pointwise``."""

    name: ClassVar[str] = "matmul.torch.mkldnn"
    kinds: ClassVar[tuple[str, ...]] = ("matmul",)
    level: ClassVar[int] = 0

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """One constant weight for all rows."""
        if spec.constants[1] is None or spec.constants[0] is not None:
            return Refusal("the weight is not a constant")
        shape = spec.inputs[1].shape
        if _kind(spec).transpose_a or any(size != 1 for size in shape[:-2]):
            return Refusal("there is not one weight for all rows")
        if len(shape) > spec.inputs[0].rank:
            return Refusal("the weight adds axes to the output")
        return is_torch_float(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack the weights for the number of rows."""
        is_transposed = _kind(spec).transpose_b
        operators = mkldnn_operators(spec.inputs[0].dtype)
        name = spec.constants[1]
        if name is None:
            raise Unprepared("the weight is not a constant")
        rows = math.prod(spec.inputs[0].shape[:-1])

        def pack() -> TorchTensor:
            matrix = as_tensor(weights.array(name), spec.inputs[1].dtype)
            matrix = matrix.reshape(spec.inputs[1].shape[-2:])
            matrix = matrix if is_transposed else matrix.mT.contiguous()
            packed: TorchTensor = operators._reorder_linear_weight(matrix, rows)
            return packed

        packed = weights.packed((name, "torch linear", is_transposed, rows), pack)
        epilogue = split_epilogue(spec, channel_axis=-1, after_residual=())
        builder = StepBuilder(spec, weights)
        operands = [builder.array_input(index) for index in range(len(spec.inputs))]
        accumulate = partial(_multiply, operators, packed, epilogue)
        builder.call(
            partial(run_operator, accumulate, epilogue.rest, spec), builder.array_output(),
            *operands,
        )
        prepared = builder.finish()
        prepared.needs_torch = True
        return prepared


def _multiply(
    operators: object, packed: TorchTensor, epilogue: Epilogue, inputs: Sequence[TorchTensor]
) -> TorchTensor:
    x = inputs[0]
    bias = None if epilogue.bias is None else inputs[epilogue.bias].reshape(-1)
    operator = operators._linear_pointwise  # type: ignore[attr-defined]
    result: TorchTensor
    if epilogue.residual is None:
        attribute, algorithm = epilogue.activation
        result = operator(x, packed, bias, attribute, [], algorithm)
        return result
    result = operator.binary(x, inputs[epilogue.residual], packed, bias, "add")
    return result


def _kind(spec: LayerSpec) -> Matmul:
    if not isinstance(spec.kind, Matmul):
        raise Unprepared(f"{spec.kind.name} is not a matmul")
    return spec.kind
