"""Which optional packages and libraries of the CUDA backend are installed here."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from torch2rt.backends.cuda.libraries import LibraryMissing, load_library


@cache
def missing_cudnn() -> str | None:
    """Why cuDNN cannot be used in this process, or None."""
    if find_spec("cudnn") is None:
        return (
            "nvidia-cudnn-frontend is not installed: convolutions run on torch2rt's own kernels "
            "alone. Install it: pip install 'torch2rt[cuda]'."
        )
    try:
        # cuDNN ends the process without cuBLASLt, and its frontend opens the run time by name.
        for name in ("cublasLt", "cudart", "cudnn"):
            load_library(name)
    except LibraryMissing as error:
        return f"cuDNN is off: {error}"
    return None


@cache
def cudnn_version() -> str:
    """Versions of cuDNN and of its frontend; "none" where they are not installed."""
    if missing_cudnn() is not None:
        return "none"
    return f"{load_library('cudnn').cudnnGetVersion()} {package_version('nvidia-cudnn-frontend')}"


def cupy_version() -> str:
    """CuPy's version, or "none". Its distribution is named after the CUDA it is for."""
    names = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
    return next((v for v in map(package_version, names) if v != "none"), "none")


def triton_version() -> str:
    """Triton's version, or "none"."""
    return package_version("triton")


def package_version(name: str) -> str:
    """Version of an installed package, or "none"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
