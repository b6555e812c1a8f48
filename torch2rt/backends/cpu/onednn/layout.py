"""Names of memory layouts, in oneDNN's own notation.

"abcd": axes outermost to innermost, here row-major; "acdb": channels last; "aBcd16b": axis b is
split, and blocks of 16 of it are innermost. Layouts without blocks are strides and need no table;
for the others the number that the C API wants is found by asking the library, once per rank.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from torch2rt.backends.cpu.onednn.constants import MAX_DIMS, DataType, Query
from torch2rt.backends.cpu.onednn.loader import library

_LETTERS = "abcdefghijkl"
_FIRST_TAG = 2
_TAG_BOUND = 1500


def row_major_strides(dims: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a contiguous tensor."""
    return permuted_strides(dims, _LETTERS[: len(dims)])


def permuted_strides(dims: Sequence[int], tag: str) -> tuple[int, ...]:
    """Strides in elements of a dense tensor whose axes lie in the order of `tag`."""
    strides = [0] * len(dims)
    step = 1
    for letter in reversed(tag):
        axis = _LETTERS.index(letter)
        strides[axis] = step
        step *= max(dims[axis], 1)
    return tuple(strides)


def is_permutation(tag: str) -> bool:
    """Whether `tag` names every axis once and splits none."""
    return "".join(sorted(tag)) == _LETTERS[: len(tag)]


def rank(tag: str) -> int:
    """Number of axes that `tag` describes."""
    return len({letter.lower() for letter in tag if letter.isalpha()})


def channels_last_tag(ndim: int) -> str:
    """Axes n, c, ... with channels innermost: "ab", "acb", "acdb", "acdeb"."""
    return "a" + _LETTERS[2:ndim] + "b"


def channel_blocked_tag(ndim: int, block: int) -> str:
    """Axes n, c, ... with channels in innermost blocks: "aBcd16b"."""
    return f"aB{_LETTERS[2:ndim]}{block}b"


def tag_name(
    padded_dims: Sequence[int], strides: Sequence[int], inner_blocks: Sequence[tuple[int, int]]
) -> str:
    """The name of a blocked layout; gaps between rows are shown as a trailing "*"."""
    blocked = {axis for axis, _ in inner_blocks}
    outer, innermost = _split(padded_dims, inner_blocks)
    order = sorted(range(len(strides)), key=lambda axis: (-strides[axis], -outer[axis], axis))
    name = "".join(_LETTERS[a].upper() if a in blocked else _LETTERS[a] for a in order)
    name += "".join(f"{size}{_LETTERS[axis]}" for axis, size in inner_blocks)
    return name if _is_dense(order, outer, strides, innermost) else name + "*"


def reach_elements(
    padded_dims: Sequence[int], strides: Sequence[int], inner_blocks: Sequence[tuple[int, int]]
) -> int:
    """Elements from the first to one past the last of a blocked layout (0 when it is empty)."""
    if 0 in padded_dims:
        return 0
    outer, innermost = _split(padded_dims, inner_blocks)
    return innermost + sum((n - 1) * s for n, s in zip(outer, strides, strict=True))


def _split(
    padded_dims: Sequence[int], inner_blocks: Sequence[tuple[int, int]]
) -> tuple[list[int], int]:
    """Blocks per axis, and elements in one whole innermost block."""
    outer = list(padded_dims)
    innermost = 1
    for axis, size in inner_blocks:
        outer[axis] //= size
        innermost *= size
    return outer, innermost


def _is_dense(
    order: Sequence[int], outer: Sequence[int], strides: Sequence[int], innermost: int
) -> bool:
    kept = [axis for axis in order if outer[axis] != 1]
    if not kept:
        return True
    if strides[kept[-1]] != innermost:
        return False
    return all(strides[a] == strides[b] * outer[b] for a, b in pairwise(kept))


@cache
def tag_values(ndim: int) -> dict[str, int]:
    """Every blocked layout of that rank the loaded library knows, by name."""
    dims = (ctypes.c_int64 * MAX_DIMS)(*([512 if ndim < 6 else 256] * ndim))
    create = library().function("dnnl_memory_desc_create_with_tag")
    destroy = library().function("dnnl_memory_desc_destroy")
    values: dict[str, int] = {}
    for value in range(_FIRST_TAG, _TAG_BOUND):
        cell = ctypes.c_void_p()
        if create(ctypes.byref(cell), ndim, dims, DataType.f32, value) == 0:
            values.setdefault(_name_at(cell, ndim), value)
            destroy(cell)
    return values


def _name_at(desc: ctypes.c_void_p, ndim: int) -> str:
    count = ctypes.c_int()
    query = library().function("dnnl_memory_desc_query")
    query(desc, Query.inner_nblks_s32, ctypes.byref(count))

    def numbers(what: Query, length: int) -> list[int]:
        cell = ctypes.POINTER(ctypes.c_int64)()
        query(desc, what, ctypes.byref(cell))
        return cell[:length]

    axes = numbers(Query.inner_idxs, count.value)
    sizes = numbers(Query.inner_blks, count.value)
    blocks = list(zip(axes, sizes, strict=True))
    return tag_name(numbers(Query.padded_dims, ndim), numbers(Query.strides, ndim), blocks)
