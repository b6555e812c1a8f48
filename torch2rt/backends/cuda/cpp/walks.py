"""From the spec of a layer to the walks and epilogues of our strided kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.print_cpp import compute_type, missing_op, print_cpp
from torch2rt.backends.cuda.launch import Argument
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec, plain_choice
from torch2rt.backends.tactic import Refusal, Weights
from torch2rt.kernels.cuda.operands import Epilogue, Extra
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, merge_axes
from torch2rt.network.dtype import DType

_FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)


def accumulator_type(dtype: DType) -> str:
    """The C++ type in which values of a dtype are computed with."""
    if dtype in _FLOATS:
        return "float"
    return "double" if dtype is DType.FLOAT64 else "i64"


def epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    """Why the dtypes or the epilogue of a spec are not for our strided kernels, or None."""
    if spec.inputs[0].dtype is DType.FLOAT8_E4M3:
        return Refusal("float8")
    if spec.epilogue is None:
        return None
    if not spec.inputs[0].dtype.is_float:
        return Refusal(f"an epilogue after {spec.inputs[0].dtype.value}")
    missing = missing_op(spec.epilogue)
    return Refusal(f"C++ has no {missing}") if missing is not None else None


def image_choice(spec: LayerSpec) -> LayoutChoice:
    """Images of four or five axes in CHANNELS_LAST, constants and all else in PLAIN."""

    def fitting(tensor: TensorSpec, constant: str | None = None) -> Layout:
        is_image = tensor.rank in (4, 5) and constant is None
        return Layout.CHANNELS_LAST if is_image else Layout.PLAIN

    return LayoutChoice(
        tuple(map(fitting, spec.inputs, spec.constants)), tuple(map(fitting, spec.outputs))
    )


def image_or_plain_choices(spec: LayerSpec) -> Sequence[LayoutChoice]:
    """For layers whose tensors of four axes need not be images: both."""
    image, plain = image_choice(spec), plain_choice(spec)
    return [plain] if image == plain else [image, plain]


def broadcast_strides(tensor: TensorSpec, shape: Sequence[int]) -> tuple[int, ...]:
    """Stride of a tensor along each axis of a shape that it broadcasts to; 0 where it does."""
    lead = (0,) * (len(shape) - tensor.rank)
    return lead + tuple(
        0 if size == 1 else stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )


def extra_strides(spec: LayerSpec) -> list[tuple[int, ...]]:
    """Strides of the epilogue's operands along the axes of the output."""
    shape = spec.outputs[0].shape
    return [broadcast_strides(tensor, shape) for tensor in spec.inputs[spec.main_count :]]


def itemsize_bytes(accumulator: str) -> int:
    """Bytes of a value of an accumulator type."""
    return 4 if accumulator in ("float", "i32") else 8


def make_epilogue(
    spec: LayerSpec, strides: Sequence[tuple[int, ...]], accumulator: str
) -> Epilogue:
    """The epilogue of a spec; strides of its operands along the axes of the kernel's walk."""
    if spec.epilogue is None:
        return Epilogue("i0", accumulator)
    tensors = spec.inputs[spec.main_count :]
    extras = tuple(
        Extra(c_type(tensor.dtype), step) for tensor, step in zip(tensors, strides, strict=True)
    )
    dtypes = [_widened(spec.inputs[0].dtype), *(tensor.dtype for tensor in tensors)]
    names = [f"i{i}" for i in range(len(dtypes))]
    y = spec.outputs[0].dtype
    return Epilogue(print_cpp(spec.epilogue, names, dtypes, y), compute_type(y), extras)


def _widened(dtype: DType) -> DType:
    return DType.FLOAT32 if dtype.is_low_precision else dtype


def extra_arguments(spec: LayerSpec, weights: Weights) -> list[Argument]:
    """Addresses of the epilogue's operands."""
    return [operand(spec, weights, i) for i in range(spec.main_count, len(spec.inputs))]


def walk(order: Iterable[int], shape: Sequence[int], *strides: Sequence[int]) -> list[Axis]:
    """Axes of a shape in an order, with the strides of several operands."""
    return [Axis(shape[i], tuple(steps[i] for steps in strides)) for i in order]


def lanes_of_warp(vectors: int, rows: int, multiprocessors: int) -> int:
    """Lanes of a warp for a row of so many vectors: a power of two.

    A vector each, where rows are few; up to four each, where there are rows enough for all.
    """
    held = 4 if rows >= 64 * multiprocessors else 1
    return min(32, 1 << (-(-vectors // held) - 1).bit_length())


def kept_walk(spec: LayerSpec, axes: Sequence[int], keepdim: bool) -> list[Axis]:
    """Axes that a reduction keeps, in the order of x's memory: x, y and epilogue operands."""
    x, y = spec.inputs[0], spec.outputs[0]
    kept = [axis for axis in range(x.rank) if axis not in axes]
    places = {axis: axis if keepdim else i for i, axis in enumerate(kept)}
    others = [y.strides, *extra_strides(spec)]
    return list(merge_axes(
        Axis(x.shape[axis], (x.strides[axis], *(strides[places[axis]] for strides in others)))
        for axis in x.memory_order if axis in places
    ))


def first_overwritten(spec: LayerSpec) -> tuple[int, ...]:
    """(0,) where output 0 lies in memory as input 0 does, element by element; else nothing."""
    x, y = spec.inputs[0], spec.outputs[0]
    alike = x.dtype is y.dtype and x.shape == y.shape and x.strides == y.strides
    return (0,) if alike and spec.constants[0] is None else ()
