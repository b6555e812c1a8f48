"""Finds NVIDIA's shared libraries: in their wheels, beside torch, or on the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

# Sonames by library, newest first.
_SONAMES = {
    "cuda": ("libcuda.so.1",),
    "cudart": ("libcudart.so.13", "libcudart.so.12"),
    "nvrtc": ("libnvrtc.so.13", "libnvrtc.so.12"),
    "cudnn": ("libcudnn.so.9",),
    "cublasLt": ("libcublasLt.so.13", "libcublasLt.so.12"),
}


class LibraryMissing(Exception):
    """A shared library is not installed; the text says which and what installs it."""


@cache
def load_library(name: str) -> ctypes.CDLL:
    """One of NVIDIA's libraries: "cuda", "cudart", "nvrtc", "cudnn" or "cublasLt".

    Loaded globally, so that a library that asks for it by name finds this one. LibraryMissing
    when it is nowhere.
    """
    reasons = []
    for soname in _SONAMES[name]:
        for path in (*_in_wheels(soname), soname):
            try:
                return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                reasons.append(str(error))
    raise LibraryMissing(
        f"{_SONAMES[name][0]} was not found ({reasons[-1]}). " + (
            "Install the NVIDIA driver." if name == "cuda"
            else "Install it: pip install 'torch2rt[cuda]'."
        )
    )


def _in_wheels(soname: str) -> list[Path]:
    """Where NVIDIA's wheels on the path put it."""
    found = []
    for folder in dict.fromkeys(sys.path):
        root = Path(folder) / "nvidia"
        if root.is_dir():
            found += sorted(root.glob(f"*/lib/{soname}"), reverse=True)
    return found
