"""Kernels of our own, generated as LLVM IR text and compiled in the process by llvmlite."""

from torch2rt.backends.cpu.jit.compiler import (
    JitUnavailable,
    Machine,
    address_of_kernel,
    has_bf16_products,
    jit_unavailable,
    machine,
    missing_package,
)
from torch2rt.backends.cpu.jit.function import Function, Loop

__all__ = [
    "Function",
    "JitUnavailable",
    "Loop",
    "Machine",
    "address_of_kernel",
    "has_bf16_products",
    "jit_unavailable",
    "machine",
    "missing_package",
]
