"""What tactics on torch's private oneDNN operators share: tensors over arrays, split epilogues.

These operators take a bias, then a residual of the output's shape or one activation. The rest of an
epilogue is computed by its torch printer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.cpu.steps import ArrayOperand, Place
from torch2rt.backends.spec import LayerSpec, Layout, TensorSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import widen

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

_FLOATS = (DType.FLOAT32, DType.BFLOAT16)
# Our activations as (attribute, algorithm) of torch's operators.
_ACTIVATIONS = {
    "relu": ("relu", ""), "sigmoid": ("sigmoid", ""), "tanh": ("tanh", ""),
    "silu": ("swish", ""), "hardswish": ("hardswish", ""), "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}
NO_ACTIVATION = ("none", "")

# accumulate(inputs): the part of a layer that the operator computes
Accumulate: TypeAlias = "Callable[[Sequence[TorchTensor]], TorchTensor]"


@dataclass(frozen=True, slots=True)
class Epilogue:
    """An epilogue in the order the operators apply it; indices are those of the layer's inputs.

    ``rest`` is an expression of the result so far (``i0``) and the epilogue's inputs.
    """

    bias: int | None = None
    residual: int | None = None
    activation: tuple[str, str] = NO_ACTIVATION
    rest: ex.Expression | None = None


def split_epilogue(
    spec: LayerSpec, channel_axis: int, after_residual: Sequence[str]
) -> Epilogue:
    """What the operator does of the layer's epilogue, and what is left.

    ``after_residual`` are the activations that may follow a residual; others follow a bias alone.
    """
    root = spec.epilogue
    if root is None:
        return Epilogue()
    done: ex.Expression = ex.Input(0)
    bias, done = _addend(spec, root, done, lambda index: _is_bias(spec, index, channel_axis))
    residual, done = _addend(spec, root, done, lambda index: _is_residual(spec, index))
    activation = NO_ACTIVATION
    user = _only_user(root, done)
    if user is not None and user.op in _ACTIVATIONS and len(user.arguments) == 1:
        if residual is None or user.op in after_residual:
            activation, done = _ACTIVATIONS[user.op], user
    return Epilogue(bias, residual, activation, None if done == root else _replaced(root, done))


def _addend(
    spec: LayerSpec, root: ex.Expression, done: ex.Expression, fits: Callable[[int], bool]
) -> tuple[int | None, ex.Expression]:
    """The input that is added to ``done`` next, and the sum; or None and ``done``."""
    user = _only_user(root, done)
    if user is None or user.op != "add":
        return None, done
    (*others,) = (argument for argument in user.arguments if argument != done)
    if len(others) != 1 or not isinstance(others[0], ex.Input):
        return None, done
    index = spec.main_count + others[0].index - 1
    return (index, user) if fits(index) else (None, done)


def _only_user(root: ex.Expression, part: ex.Expression) -> ex.Apply | None:
    """The one expression that takes ``part`` as an argument, however often it occurs."""
    users = {
        node for node in ex.walk(root) if isinstance(node, ex.Apply) and part in node.arguments
    }
    return users.pop() if len(users) == 1 else None


def _replaced(root: ex.Expression, part: ex.Expression) -> ex.Expression:
    """The expression with ``part`` as input 0."""
    if root == part:
        return ex.Input(0)
    if isinstance(root, ex.Apply):
        return ex.Apply(root.op, tuple(_replaced(argument, part) for argument in root.arguments))
    return root


def _is_bias(spec: LayerSpec, index: int, channel_axis: int) -> bool:
    """Whether it is a constant that varies along the channels alone."""
    operand, output = spec.inputs[index], spec.outputs[0]
    if spec.constants[index] is None or operand.dtype is not spec.inputs[0].dtype:
        return False
    shape = (1,) * (output.rank - operand.rank) + operand.shape
    wanted = [1] * output.rank
    wanted[channel_axis] = output.shape[channel_axis]
    return shape == tuple(wanted)


def _is_residual(spec: LayerSpec, index: int) -> bool:
    operand, output = spec.inputs[index], spec.outputs[0]
    return operand.shape == output.shape and operand.dtype is spec.inputs[0].dtype


def is_torch_float(spec: LayerSpec) -> Refusal | None:
    """A refusal unless inputs and output are of one float type that the operators compute in."""
    if not all(tensor.element_count for tensor in (*spec.inputs, *spec.outputs)):
        return Refusal("torch's operators refuse tensors without elements")
    dtype = spec.inputs[0].dtype
    if dtype not in _FLOATS:
        return Refusal(f"torch's oneDNN operators do not compute in {dtype.value}")
    if any(tensor.dtype is not dtype for tensor in (*spec.inputs[:2], *spec.outputs)):
        return Refusal("inputs and output differ in dtype")
    return None


def mkldnn_operators(dtype: DType) -> Any:
    """Torch's private oneDNN operators; Unprepared where this build of torch has none."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise Unprepared("this build of torch has no oneDNN")
    operators = torch.ops.mkldnn
    if dtype is DType.BFLOAT16 and not operators._is_mkldnn_bf16_supported():
        raise Unprepared("torch's oneDNN has no fast bfloat16 on this CPU")
    return operators


def strided_operand(where: str, index: int, spec: TensorSpec) -> ArrayOperand:
    """Input or output ``index`` in its logical shape, whichever of both dense layouts it has."""
    if spec.layout is not Layout.CHANNELS_LAST:
        return ArrayOperand(Place(where, index), spec)
    n, c, *spatial = spec.shape
    stored = TensorSpec((n, *spatial, c), spec.dtype)
    return ArrayOperand(Place(where, index), stored, _channels_second)


def _channels_second(array: Array) -> Array:
    return np.moveaxis(array, -1, 1)


def as_tensor(array: Array, dtype: DType) -> TorchTensor:
    """A tensor over an array's memory; a constant that may not be written to is copied."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(getattr(torch, dtype.value)) if dtype.is_stored_as_bits else tensor


def run_operator(
    accumulate: Accumulate, rest: ex.Expression | None, spec: LayerSpec, *arrays: Array
) -> None:
    """Run on the output's array and then the inputs'; ``rest`` is computed in float32."""
    with torch.inference_mode():
        output, *inputs = (
            as_tensor(array, tensor.dtype)
            for array, tensor in zip(arrays, (spec.outputs[0], *spec.inputs), strict=True)
        )
        result = accumulate(inputs)
        if rest is not None:
            extra = [widen(tensor) for tensor in inputs[spec.main_count :]]
            result = ex.evaluate_torch(rest, [widen(result), *extra])
        output.copy_(result)
