"""Elements by index: take (embeddings), gather, advanced indexing, and their writing counterparts.

Idea: the walk has one stride per index tensor; a vector's place is its own offset plus, for each
indexed axis, the index found there times the stride of that axis. Negative indices count from the
end. Out of range, nothing outside the tensor is touched: a read gives a pattern (NaN for floats,
0 otherwise), a write does nothing.
Grid: vectors moved. Bytes moved: elements twice, indices once per row (caches serve the rest).
Limits: fewer than 2^31 elements. Architectures: any.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch2rt.kernels.cuda.moves import MOVES, array, ints, vector_type

NAME = "t2r_gather"
THREADS = 256


def gather_source(
    vector_bytes: int, rank: int, indices: Sequence[str], is_write: bool = False
) -> str:
    """The kernel for index tensors of these C++ types; ``is_write``: they index the target.

    Arguments: source, target, the index tensors, vectors, pattern, sizes, strides from, to, then
    per index tensor its strides, the stride of its axis, the length of its axis.
    """
    vector, count = vector_type(vector_bytes), len(indices)
    arguments = ["const void* source", "void* target"]
    arguments += [f"const {dtype}* index{k}" for k, dtype in enumerate(indices)]
    arguments += ["u32 count", "u64 pattern"]
    arrays = [("size", rank), ("from", rank), ("to", rank)]
    for k in range(count):
        arguments += [f"int step{k}", f"int length{k}"]
        arrays.append((f"walk{k}", rank))
    arguments += [argument for name, size in arrays for argument in ints(name, size)]
    moved = "place" if is_write else "offset"
    lookups = "".join(f"""
    {{
        i64 p = (i64)index{k}[t2r_offset(at, walk{k})];
        p = p < 0 ? p + length{k} : p;
        inside = inside && p >= 0 && p < length{k};
        {moved} += inside ? (int)p * step{k} : 0;
    }}""" for k in range(count))
    store = f"if (inside) (({vector}*)target)[place] = ((const {vector}*)source)[offset];"
    if not is_write:
        store = f"""{vector} value = t2r_pattern<{vector}>(pattern);
    if (inside) value = ((const {vector}*)source)[offset];
    (({vector}*)target)[place] = value;"""
    return f"""{MOVES}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    {", ".join(arguments)}
) {{
    {" ".join(array(name, size) for name, size in arrays)}
    const u32 flat = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (flat >= count) return;
    int at[{rank}];
    t2r_unflatten(flat, size, at);
    int offset = t2r_offset(at, from), place = t2r_offset(at, to);
    bool inside = true;{lookups}
    {store}
}}
"""
