"""NVRTC through ctypes: CUDA C++ source to machine code. Needs no driver and no GPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

from torch2rt.backends.cuda.libraries import LibraryMissing, load_library
from torch2rt.backends.tactic import Unprepared


def compile_cubin(source: str, name: str, arch: str) -> bytes:
    """Machine code of CUDA C++ source for one architecture, such as ``sm_90a``.

    Unprepared with the compiler's messages when it does not compile, or is not installed.
    """
    try:
        library = _library()
    except LibraryMissing as error:
        raise Unprepared(str(error)) from error
    program = ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None,
    ))
    try:
        options = [
            f"--gpu-architecture={arch}", "--std=c++17", "--device-as-default-execution-space",
            "--fmad=true", "-lineinfo",
        ]
        raw = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = library.nvrtcCompileProgram(program, len(options), raw)
        if status:
            raise Unprepared(f"{name} does not compile for {arch}:\n{_log(library, program)}")
        size = ctypes.c_size_t()
        _check(library.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        _check(library.nvrtcGetCUBIN(program, image))
        return image.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def version() -> tuple[int, int]:
    """NVRTC's version. LibraryMissing when it is not installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


@dataclass(frozen=True)
class CppJob:
    """Compile CUDA C++."""

    source: str
    name: str
    arch: str

    def run(self) -> bytes:
        """The machine code."""
        return compile_cubin(self.source, self.name, self.arch)


@cache
def _library() -> ctypes.CDLL:
    return load_library("nvrtc")


def _check(status: int) -> None:
    if status:
        text = _library().nvrtcGetErrorString
        text.restype = ctypes.c_char_p
        raise Unprepared(f"NVRTC: {text(status).decode()}")


def _log(library: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    return log.value.decode(errors="replace").strip()
