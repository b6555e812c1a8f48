"""Convolution by torch's private oneDNN operator, for machines without the oneDNN library.

Weights are packed once, bias, residual and activation are fused. The result is copied from torch's
memory into ours, so that oneDNN itself is faster wherever it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch2rt.backends.cpu.epilogue import choice
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.cpu.torch_operators import (
    NO_ACTIVATION,
    Epilogue,
    as_tensor,
    is_torch_float,
    mkldnn_operators,
    run_operator,
    split_epilogue,
    strided_operand,
)
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.convolution import Convolution

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


class MkldnnConvolution(Tactic):
    """One call of ``mkldnn._convolution_pointwise``."""

    name: ClassVar[str] = "convolution.torch.mkldnn"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    level: ClassVar[int] = 0

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Constant weights, two or three spatial axes, symmetric padding."""
        kind = _kind(spec)
        if spec.constants[1] is None or spec.constants[0] is not None:
            return Refusal("the weight is not a constant")
        if len(kind.stride) not in (2, 3):
            return Refusal(f"{len(kind.stride)} spatial axes")
        if kind.padding_before != kind.padding_after:
            return Refusal("the padding is not symmetric")
        return is_torch_float(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last, which torch computes in, and row-major, which it converts."""
        plain, last = Layout.PLAIN, Layout.CHANNELS_LAST
        return [choice(spec, (source, plain), target)
                for source, target in ((last, last), (plain, last), (plain, plain))]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack the weights for the input's shape."""
        kind = _kind(spec)
        operators = mkldnn_operators(spec.inputs[0].dtype)
        name = spec.constants[1]
        if name is None:
            raise Unprepared("the weight is not a constant")
        window = (list(kind.padding_before), list(kind.stride), list(kind.dilation), kind.groups)
        shape = list(spec.inputs[0].shape)

        def pack() -> TorchTensor:
            plain = as_tensor(weights.array(name), spec.inputs[1].dtype)
            packed: TorchTensor = operators._reorder_convolution_weight(plain, *window, shape)
            return packed

        packed = weights.packed((name, "torch convolution", repr(window), tuple(shape)), pack)
        epilogue = split_epilogue(spec, channel_axis=1, after_residual=("relu",))
        builder = StepBuilder(spec, weights)
        operands = [
            builder.array_input(index) if constant is not None
            else strided_operand("input", index, tensor)
            for index, (tensor, constant) in enumerate(
                zip(spec.inputs, spec.constants, strict=True)
            )
        ]
        accumulate = partial(_convolve, operators, packed, window, epilogue)
        builder.call(
            partial(run_operator, accumulate, epilogue.rest, spec),
            strided_operand("output", 0, spec.outputs[0]), *operands,
        )
        prepared = builder.finish()
        prepared.needs_torch = True
        return prepared


def _convolve(
    operators: object, packed: TorchTensor,
    window: tuple[list[int], list[int], list[int], int], epilogue: Epilogue,
    inputs: Sequence[TorchTensor],
) -> TorchTensor:
    x = inputs[0]
    bias = None if epilogue.bias is None else inputs[epilogue.bias].reshape(-1)
    attribute, algorithm = epilogue.activation
    operator = operators._convolution_pointwise  # type: ignore[attr-defined]
    result: TorchTensor
    if epilogue.residual is None:
        result = operator(x, packed, bias, *window, attribute, [], algorithm)
        return result
    residual = inputs[epilogue.residual]
    unary = None if epilogue.activation == NO_ACTIVATION else attribute
    result = operator.binary(x, residual, packed, bias, *window, "add", None, unary, [], None)
    return result


def _kind(spec: LayerSpec) -> Convolution:
    if not isinstance(spec.kind, Convolution):
        raise Unprepared(f"{spec.kind.name} is not a convolution")
    return spec.kind
