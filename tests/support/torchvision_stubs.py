"""Load torchvision's own operators where its extension was built for CUDA and torch was not.

The extension of the CUDA wheel holds the CPU kernels too; it only wants symbols of two CUDA
libraries that a CPU torch lacks. `preload` gives it libraries of these names in which every such
function is an illegal instruction, so its CPU operators run and nothing of CUDA is ever called.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from pathlib import Path

_CUDA_SYMBOL = re.compile(r"_ZN?K?(?:3c104cuda|2at4cuda)\w+")
_DATA = "_ZN3c104cuda20CUDACachingAllocator9allocatorE"


def preload(extension: Path) -> None:
    """Make the libraries that the extension needs known to the loader. OSError if that fails."""
    for library in extension.parent.with_name("torchvision.libs").glob("libcudart*"):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "stub.s")
        source.write_text(_assembly(_undefined(extension)))
        for name in ("libc10_cuda.so", "libtorch_cuda.so"):
            made = Path(folder, name)
            _run("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", str(made), str(source))
            ctypes.CDLL(str(made), ctypes.RTLD_GLOBAL)
            source.write_text("")


def _undefined(extension: Path) -> list[str]:
    listing = _run("nm", "-D", "--undefined-only", str(extension))
    return sorted(set(_CUDA_SYMBOL.findall(listing)))


def _assembly(names: list[str]) -> str:
    lines = [".bss", f".globl {_DATA}", f".type {_DATA},@object", f"{_DATA}: .zero 64", ".text"]
    for name in names:
        if name != _DATA:
            lines += [f".globl {name}", f".type {name},@function", f"{name}: ud2"]
    return "\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr[:1000]}")
    return done.stdout
