"""Compiles LLVM IR text for the CPU it runs on; llvmlite is imported when first needed."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

_ADDRESSES: dict[str, int] = {}
_LOCK = threading.Lock()


class JitUnavailable(Exception):
    """Kernels cannot be compiled in this process; the text says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The vectors kernels are written for, and how many of them a product keeps.

    ``lanes`` f32 numbers in a register; a block of a product is at most ``rows`` by ``columns``
    registers, which with its operands just fits the register file.
    """

    lanes: int
    rows: int
    columns: int


WIDE = Machine(lanes=16, rows=14, columns=2)
NARROW = Machine(lanes=8, rows=6, columns=2)


INSTALL = "pip install 'llvmlite>=0.45'"


def missing_package() -> str | None:
    """What to install for kernels of our own, or None; found out without importing it."""
    if importlib.util.find_spec("llvmlite") is not None:
        return None
    return f"kernels of our own are off, oneDNN's run instead: {INSTALL}"


@cache
def jit_unavailable() -> str | None:
    """Why no kernel can be compiled here, or None."""
    try:
        machine()
        return None
    except JitUnavailable as error:
        return str(error)


@cache
def machine() -> Machine:
    """The vectors of this CPU. Raises JitUnavailable."""
    features = _llvm().get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return WIDE
    if features.get("avx2") and features.get("fma"):
        return NARROW
    raise JitUnavailable("kernels of our own need a CPU with AVX2 and FMA")


@cache
def has_bf16_products() -> bool:
    """Whether this CPU multiplies pairs of bf16 numbers, 16 f32 sums at a time."""
    try:
        features = _llvm().get_host_cpu_features()
        return machine() == WIDE and bool(features.get("avx512bf16"))
    except JitUnavailable:
        return False


@cache
def has_byte_products() -> bool:
    """Whether this CPU multiplies bytes by four, 16 int32 sums at a time."""
    try:
        return machine() == WIDE and bool(_llvm().get_host_cpu_features().get("avx512vnni"))
    except JitUnavailable:
        return False


def address_of_kernel(name: str, make: Callable[[], str]) -> int:
    """Address of the function ``name``; ``make`` writes the text of a module that defines it.

    Compiled once per process and kept, with whatever else the module defines; names are unique in
    the process. Raises JitUnavailable.
    """
    with _LOCK:
        if name not in _ADDRESSES:
            _compile(make())
        return _ADDRESSES[name]


def _compile(text: str) -> None:
    module = _llvm().parse_assembly(text)
    names = [function.name for function in module.functions if not function.is_declaration]
    engine = _engine()
    engine.add_module(module)
    engine.finalize_object()
    _ADDRESSES.update((name, engine.get_function_address(name)) for name in names)


@cache
def _llvm() -> Any:
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError) as error:
        raise JitUnavailable(
            f"kernels of our own need llvmlite ({error}); {INSTALL}"
        ) from error
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()  # for instructions that a text spells out
    return llvm


@cache
def _engine() -> Any:
    """The compiler that owns all kernels, for the features of this CPU."""
    llvm = _llvm()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=1, jit=True
    )
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
