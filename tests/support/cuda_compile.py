"""Compiles kernel sources with NVRTC for every architecture we care for. Needs no GPU."""

from __future__ import annotations

from torch2rt.backends.cuda.nvrtc import compile_cubin

ARCHITECTURES = ("sm_80", "sm_89", "sm_90a", "sm_100a")


def compile_for_all(source: str, name: str) -> dict[str, int]:
    """Compile ``extern "C" __global__ void name(...)``; size of the code by architecture.

    Unprepared with the compiler's messages if it does not compile.
    """
    sizes = {arch: len(compile_cubin(source, name, arch)) for arch in ARCHITECTURES}
    assert all(sizes.values())
    return sizes
