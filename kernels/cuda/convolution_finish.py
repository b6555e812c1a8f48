"""The end of our convolution kernels: the epilogue over V channels of a pixel, and their store."""

from __future__ import annotations

from collections.abc import Collection

from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, Operand

_ACCESS = r"""
// V channels from c on, of which those below CHANNELS exist; WIDTH of them lie aligned together.
template <int V, int WIDTH, int STEP, int CHANNELS, class T>
T2R_DEVICE void read_channels(float (&values)[V], const T* address, int c) {
    if (STEP == 0) {
        const float value = to_float(*address);
#pragma unroll
        for (int i = 0; i < V; i++) values[i] = value;
    } else if (CHANNELS % V == 0 || c + V <= CHANNELS) {
        constexpr int N = WIDTH < V ? WIDTH : V;
#pragma unroll
        for (int i = 0; i < V; i += N) {
            float piece[N];
            load_floats<T, N>(piece, address + (Index)i * STEP);
#pragma unroll
            for (int j = 0; j < N; j++) values[i + j] = piece[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            values[i] = c + i < CHANNELS ? to_float(address[(Index)i * STEP]) : 0.0f;
    }
}

template <class T, int N> T2R_DEVICE void store_made(T* address, const float (&values)[N]) {
    store_floats<T, N>(address, values);
}
template <class T, int N> T2R_DEVICE void store_made(i8* address, const i8 (&values)[N]) {
    Vec<i8, N> stored;
#pragma unroll
    for (int i = 0; i < N; i++) stored[i] = values[i];
    store_vec<i8, N>(address, stored);
}
template <class T> T2R_DEVICE T to_result(float value) { return from_float<T>(value); }
template <class T> T2R_DEVICE i8 to_result(i8 value) { return value; }

// Values are bytes already, or floats that are rounded here.
template <int V, int WIDTH, int STEP, int CHANNELS, class T, class Made>
T2R_DEVICE void write_channels(T* address, const Made (&values)[V], int c) {
    if (CHANNELS % V == 0 || c + V <= CHANNELS) {
        constexpr int N = WIDTH < V ? WIDTH : V;
#pragma unroll
        for (int i = 0; i < V; i += N) {
            Made piece[N];
#pragma unroll
            for (int j = 0; j < N; j++) piece[j] = values[i + j];
            store_made<T, N>(address + (Index)i * STEP, piece);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (c + i < CHANNELS) address[(Index)i * STEP] = to_result<T>(values[i]);
    }
}
"""


def extra_parameters(shape: ConvolutionShape) -> str:
    """Parameters of a kernel for its epilogue's inputs: ``, const float* e1``."""
    return "".join(
        f", const {extra.type}* e{number}"
        for number, extra in enumerate(shape.extras, 1)
    )


def extra_arguments(shape: ConvolutionShape) -> str:
    """The same as arguments of ``finish``: ``, e1``."""
    return "".join(f", e{number}" for number in range(1, len(shape.extras) + 1))


def channel_extras(shape: ConvolutionShape, most: int) -> tuple[int, ...]:
    """Numbers of the first epilogue operands with one value per channel, ``most`` of them."""
    numbers = [
        number for number, extra in enumerate(shape.extras, 1)
        if extra.strides[1] and not any(extra.strides[:1] + extra.strides[2:])
    ]
    return tuple(numbers[:most])


def read_channels_call(shape: ConvolutionShape, number: int, target: str, channel: str) -> str:
    """C++ that reads V values of an operand from a channel on, of the pixel at hand."""
    extra = shape.extras[number - 1]
    return (
        f"read_channels<V, {extra.vector}, {extra.strides[1]}, FILTERS>"
        f"({target}, e{number} + {_offset(extra, channel)}, {channel});"
    )


def finish_function(shape: ConvolutionShape, held: Collection[int] = ()) -> str:
    """C++ of ``finish<V>(sums, n, d, h, w, c, out, e1...)``: V channels from c on of one pixel.

    c is a multiple of V. Channels beyond the last are left out. Values of the operands ``held``
    are given at the end, as ``float v1[V]``, for kernels that keep them in registers.
    """
    reads, names, given = [], [], ""
    for number in range(1, len(shape.extras) + 1):
        if number in held:
            given += f", const float (&v{number})[V]"
        else:
            read = read_channels_call(shape, number, f"v{number}", "c")
            reads.append(f"    float v{number}[V];\n    {read}")
        names.append(f" i{number} = v{number}[i];")
    declared = "".join(f" const float{name}" for name in names)
    made = "i8" if shape.out.type == "i8" else "float"
    return f"""{_ACCESS}
template <int V>
T2R_DEVICE void finish(
    const float (&sums)[V], int n, int d, int h, int w, int c,
    Result* __restrict__ out{extra_parameters(shape)}{given}
) {{
{chr(10).join(reads)}
    {made} results[V];
#pragma unroll
    for (int i = 0; i < V; i++) {{
        const float i0 = sums[i];{declared}
        results[i] = {shape.expression};
    }}
    write_channels<V, {shape.out.vector}, {shape.out.strides[1]}, FILTERS>(
        out + {_offset(shape.out)}, results, c);
}}
"""


def _offset(operand: Operand, channel: str = "c") -> str:
    terms = [
        f"(Index){name} * {stride}"
        for name, stride in zip(("n", channel, *"dhw"), operand.strides, strict=True) if stride
    ]
    return f"({' + '.join(terms)})" if terms else "0"
