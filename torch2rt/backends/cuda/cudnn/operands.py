"""What the graphs of all layers ask of their operands."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch2rt import expression as ex
from torch2rt.backends.cuda.cudnn.description import NotInCudnn
from torch2rt.backends.cuda.rounding import integer_arithmetic, rounded_bytes
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.network.dtype import DType

FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)


def check_floats(spec: LayerSpec) -> None:
    """NotInCudnn unless all operands are floats that cuDNN multiplies, of less than 2 ** 31."""
    _check_tensors((*spec.inputs, *spec.outputs), FLOATS)
    if spec.inputs[0].dtype is not spec.inputs[1].dtype:
        raise NotInCudnn("inputs of different dtypes")


def _check_tensors(tensors: Sequence[TensorSpec], dtypes: Collection[DType]) -> None:
    for tensor in tensors:
        if tensor.dtype not in dtypes:
            raise NotInCudnn(f"an operand of {tensor.dtype.value}")
        if tensor.element_count >= 1 << 31:
            raise NotInCudnn("a tensor of 2 ** 31 elements or more")


def check_factors(spec: LayerSpec) -> None:
    """NotInCudnn unless all operands are floats, or bytes that an epilogue makes numbers of."""
    x, weight = spec.inputs[0].dtype, spec.inputs[1].dtype
    extras = spec.inputs[spec.main_count :]
    if DType.INT8 not in (x, weight):
        check_floats(spec)
        return
    if x is not weight:
        raise NotInCudnn(f"{x.value} times {weight.value}")
    _check_tensors((*spec.inputs, *spec.outputs), (*FLOATS, DType.INT8))
    integers = {i for i, extra in enumerate(extras, 1) if extra.dtype is DType.INT8} | {0}
    computed = integer_arithmetic(spec.epilogue, integers)
    if spec.epilogue is None or computed is not None:
        raise NotInCudnn("integers that stay integers")


def before_storing(expression: ex.Expression, out: DType) -> ex.Expression:
    """What a graph computes of an expression: cuDNN stores bytes rounded to even and saturated.

    NotInCudnn for bytes that are not rounded so.
    """
    if out is not DType.INT8:
        return expression
    found = rounded_bytes(expression)
    if found is None:
        raise NotInCudnn("bytes that are not rounded and clamped")
    x, low, high = found
    is_implied = (low, high) == (-128, 127)
    return x if is_implied else ex.apply("clamp", x, low, high)


def check_rows(dtype: DType, *lengths: int) -> None:
    """NotInCudnn unless rows of these lengths are multiples of 16 bytes, read at once."""
    vector = 16 // dtype.itemsize_bytes
    for length in lengths:
        if length % vector:
            raise NotInCudnn(f"rows of {length} elements, no multiple of {vector}")


def merged(shape: Sequence[int], strides: Sequence[int], what: str) -> tuple[int, int]:
    """Size and stride of some axes as one. NotInCudnn when their strides do not allow it."""
    size, stride = 1, 0
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1:
            continue
        if size != 1 and strides[axis] != stride * size:
            raise NotInCudnn(f"{what} has gaps between rows")
        stride = stride if size != 1 else strides[axis]
        size *= shape[axis]
    return size, stride


def settled(
    dims: Sequence[int], strides: Sequence[int], order: Sequence[int]
) -> tuple[int, ...]:
    """The strides, those of axes of one element as a dense tensor has them.

    ``order`` names the axes from the innermost. CuDNN tells layouts by strides, and axes of one
    element have none that mean anything.
    """
    chosen, size = list(strides), 1
    for axis in order:
        if dims[axis] == 1:
            chosen[axis] = size
        size = chosen[axis] * dims[axis]
    return tuple(chosen)
