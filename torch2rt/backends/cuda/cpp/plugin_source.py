"""The text that stands before a user's kernel: our prelude, types of operands, the epilogue.

    extern "C" __global__ void leaky(const in0_t* x, out0_t* y, int n EPILOGUE_PARAMETERS) {
        ...
        y[i] = from_float<out0_t>(EPILOGUE(value, i));      // i counts elements, row-major
    }

Without an epilogue ``EPILOGUE(value, i)`` is the value. ``IN0_SCALE`` is the scale of an input that
is stored in 8 bits, and 1 for others.
"""

from __future__ import annotations

from torch2rt.backends.cuda.cpp.print_cpp import missing_op, print_cpp
from torch2rt.backends.cuda.cpp.walks import broadcast_strides
from torch2rt.backends.plugins import plugin_of
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.kernels.cuda.prelude import PRELUDE, c_type
from torch2rt.network.dtype import DType

_INDEX_LIMIT = 2**31


def epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    """Why the epilogue of a spec cannot stand in a kernel, or None."""
    if spec.epilogue is None:
        return None
    if DType.FLOAT64 in {tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}:
        return Refusal("an epilogue in float64")
    missing = missing_op(spec.epilogue)
    return Refusal(f"C++ has no {missing}") if missing is not None else None


def plugin_source(spec: LayerSpec, source: str) -> str:
    """The user's text behind our prelude, the types of the operands and the epilogue."""
    types = [
        f"typedef {c_type(operand.dtype)} {side}{index}_t;"
        for side, operands in (("in", spec.inputs[: spec.main_count]), ("out", spec.outputs))
        for index, operand in enumerate(operands)
    ]
    scales = plugin_of(spec).scales or (0.0,) * spec.main_count
    types += [
        f"#define IN{index}_SCALE {scale or 1.0!r}f" for index, scale in enumerate(scales)
    ]
    return "\n".join([PRELUDE, *types, _epilogue(spec), '#line 1 "plugin"', source])


def _epilogue(spec: LayerSpec) -> str:
    """The macros, and the function that they call."""
    if spec.epilogue is None:
        return "#define EPILOGUE_PARAMETERS\n#define EPILOGUE(value, index) (value)"
    output, extras = spec.outputs[0], spec.inputs[spec.main_count :]
    names = [f"t2r_e{number}" for number in range(len(extras))]
    pointers = "".join(
        f", const {c_type(tensor.dtype)}* {name}"
        for name, tensor in zip(names, extras, strict=True)
    )
    values = ["i0", *(
        f"{_read(tensor, name)}[{_offset(tensor, output)}]{_close(tensor)}"
        for name, tensor in zip(names, extras, strict=True)
    )]
    printed = print_cpp(
        spec.epilogue, values, [DType.FLOAT32, *(tensor.dtype for tensor in extras)], output.dtype
    )
    index_type = "u32" if output.element_count < _INDEX_LIMIT else "i64"
    return (
        f"T2R_DEVICE float t2r_epilogue(float i0, {index_type} at{pointers}) {{\n"
        f"    return (float)({printed});\n}}\n"
        f"#define EPILOGUE_PARAMETERS {pointers}\n"
        f"#define EPILOGUE(value, index) "
        f"t2r_epilogue({', '.join(['(value)', f'({index_type})(index)', *names])})"
    )


def _read(tensor: TensorSpec, name: str) -> str:
    return f"to_float({name}" if tensor.dtype.is_low_precision else name


def _close(tensor: TensorSpec) -> str:
    return ")" if tensor.dtype.is_low_precision else ""


def _offset(tensor: TensorSpec, output: TensorSpec) -> str:
    """Where the operand's element for output element ``at`` lies.

    The outermost size does not occur, so that one text serves every batch.
    """
    if tensor.shape == output.shape:
        return "at"
    terms = []
    inner = 1
    strides = broadcast_strides(tensor, output.shape)
    for axis in reversed(range(output.rank)):
        size = output.shape[axis]
        if strides[axis]:
            place = f"at / {inner}" if inner > 1 else "at"
            place = f"({place}) % {size}" if axis else f"({place})"
            terms.append(f"({place}) * {strides[axis]}")
        inner *= size
    return " + ".join(terms) or "0"
