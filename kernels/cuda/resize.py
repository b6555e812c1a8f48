"""Images sampled at another size.

Idea: the host has computed, per axis, the input rows of every output row and their weights; a
thread adds up the taps of one vector of channels (channels-last) or of one pixel (row-major).
Nearest resizes move bits. Grid: vectors of the output. Bytes moved: the output, and the input as
often as caches miss. Limits: fewer than 2^31 elements. Architectures: any.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch2rt.kernels.cuda.moves import MOVES, array, ints

NAME = "t2r_resize"
THREADS = 256
_UNROLLED = 4  # taps; more are a loop


def resize_source(
    dtype: str, vector: int, rank: int, spatial: Sequence[int], taps: Sequence[int],
    is_weighted: bool,
) -> str:
    """The kernel for ``rank`` axes in the order of memory.

    ``spatial``: positions of the resized axes, ``taps``: how many rows each of them adds up.
    Arguments: source, target, vectors, sizes of the output, strides from (of resized axes: of the
    input's rows) and to, then per resized axis its rows [taps, size] and weights.
    """
    number = "double" if dtype == "double" else "float"
    arguments = ["const void* source", "void* target", "u32 count"]
    for name in ("size", "from", "to"):
        arguments += ints(name, rank)
    for k in range(len(spatial)):
        arguments += [f"const int* rows{k}", f"const {number}* weights{k}"]
    load = f"load_vec<{dtype}, {vector}>"
    body = _pick(spatial, load)
    if is_weighted:
        body = _accumulate(spatial, taps, number, vector, load, dtype)
    return f"""{MOVES}
typedef Vec<{dtype}, {vector}> Values;

extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    {", ".join(arguments)}
) {{
    {" ".join(array(name, rank) for name in ("size", "from", "to"))}
    const u32 flat = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (flat >= count) return;
    int at[{rank}];
    t2r_unflatten(flat, size, at);
    const Values* input = (const Values*)source;
    int offset = {_fixed_offset(rank, spatial)};
    Values result;
{body}
    store_vec<{dtype}, {vector}>((Values*)target + t2r_offset(at, to), result);
}}
"""


def _fixed_offset(rank: int, spatial: Sequence[int]) -> str:
    terms = [f"at[{axis}] * from[{axis}]" for axis in range(rank) if axis not in spatial]
    return " + ".join(terms) or "0"


def _pick(spatial: Sequence[int], load: str) -> str:
    steps = [
        f"    offset += rows{k}[at[{axis}]] * from[{axis}];" for k, axis in enumerate(spatial)
    ]
    return "\n".join([*steps, f"    result = {load}(input + offset);"])


def _accumulate(
    spatial: Sequence[int], taps: Sequence[int], number: str, vector: int, load: str, dtype: str
) -> str:
    is_double = number == "double"
    value = "values[i]" if is_double else "to_float(values[i])"
    rounded = "sums[i]" if is_double else f"from_float<{dtype}>(sums[i])"
    each = f"#pragma unroll\n    for (int i = 0; i < {vector}; i++)"
    lines = [f"    {number} sums[{vector}];", f"{each} sums[i] = 0;"]
    place, weight = "offset", ""
    for k, (axis, count) in enumerate(zip(spatial, taps, strict=True)):
        lines += [
            f"#pragma unroll {count if count <= _UNROLLED else 1}",
            f"    for (int t{k} = 0; t{k} < {count}; t{k}++) {{",
            f"    const int e{k} = t{k} * size[{axis}] + at[{axis}];",
            f"    const int o{k} = {place} + rows{k}[e{k}] * from[{axis}];",
            f"    const {number} w{k} = {weight}weights{k}[e{k}];",
        ]
        place, weight = f"o{k}", f"w{k} * "
    last = len(spatial) - 1
    return "\n".join([
        *lines,
        f"    const Values values = {load}(input + o{last});",
        f"{each} sums[i] += w{last} * {value};",
        "    " + "}" * len(spatial),
        f"{each} result[i] = {rounded};",
    ])
