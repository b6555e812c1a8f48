"""What kernels that move elements share: vectors of raw bytes, walks over axes known at launch.

These kernels know element sizes and the number of axes; sizes and strides are arguments, so that
one compiled kernel serves every shape. Strides count vectors, as signed 32-bit numbers.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.prelude import PRELUDE

_MOVES = r"""
// A vector whose items are all the same one, and one filled with a pattern of 8 bytes.
template <class V, class S> T2R_DEVICE V t2r_spread(const S& item) {
    S items[sizeof(V) / sizeof(S)];
#pragma unroll
    for (int i = 0; i < (int)(sizeof(V) / sizeof(S)); i++) items[i] = item;
    V vector;
    memcpy(&vector, items, sizeof(V));
    return vector;
}
template <class V> T2R_DEVICE V t2r_pattern(u64 pattern) {
    const u64 words[2] = {pattern, pattern};
    V vector;
    memcpy(&vector, words, sizeof(V));
    return vector;
}

// The index of element `flat` along every axis, the last one innermost.
template <int R> T2R_DEVICE void t2r_unflatten(u32 flat, const int (&sizes)[R], int (&at)[R]) {
#pragma unroll
    for (int axis = R - 1; axis > 0; axis--) {
        const u32 rest = flat / (u32)sizes[axis];
        at[axis] = (int)(flat - rest * (u32)sizes[axis]);
        flat = rest;
    }
    at[0] = (int)flat;
}
template <int R> T2R_DEVICE int t2r_offset(const int (&at)[R], const int (&strides)[R]) {
    int offset = 0;
#pragma unroll
    for (int axis = 0; axis < R; axis++) offset += at[axis] * strides[axis];
    return offset;
}
"""

MOVES = PRELUDE + _MOVES


def array(name: str, rank: int) -> str:
    """A kernel's array of ints that came as ``rank`` arguments."""
    return f"const int {name}[{rank}] = {{{', '.join(names(name, rank))}}};"


def names(name: str, rank: int) -> list[str]:
    """The names of an array's arguments."""
    return [f"{name}_{axis}" for axis in range(rank)]


def ints(name: str, rank: int) -> list[str]:
    """The declarations of an array's arguments."""
    return [f"int {argument}" for argument in names(name, rank)]


def vector_type(size_bytes: int) -> str:
    """The C++ type that moves that many bytes at once."""
    return f"RawBytes<{size_bytes}>::type"
