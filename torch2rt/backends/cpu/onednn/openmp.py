"""The OpenMP run time under oneDNN: one per process, and the thread count of the calling thread.

Measured: libdnnl and torch both ask for the file name `libgomp.so.1`, and the dynamic linker gives
the second one what the first one loaded, so importing torch before or after oneDNN ends with a
single run time either way. Two appear only when someone loads a second copy by its path. So the
copy that is already mapped is always kept; otherwise the system's is loaded by name, and torch's
own copy (found without importing torch) stands in where the system has none.
"""

import ctypes
import importlib.util
import threading
from functools import cache
from pathlib import Path

from torch2rt.backends.cpu.onednn.errors import OneDNNArgumentError, OneDNNUnavailable

SONAME = "libgomp.so.1"
_lock = threading.Lock()
_loaded: list[ctypes.CDLL] = []


def openmp() -> ctypes.CDLL:
    """The process's libgomp, loaded on first use. Raises OneDNNUnavailable when there is none."""
    with _lock:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


@cache
def openmp_unavailable() -> str | None:
    """Why there is no libgomp, or None."""
    try:
        openmp()
        return None
    except OneDNNUnavailable as error:
        return str(error)


def _load() -> ctypes.CDLL:
    tried = []
    for candidate in (SONAME, torch_openmp_path()):
        if candidate is None:
            continue
        try:
            return ctypes.CDLL(candidate, ctypes.RTLD_GLOBAL)
        except OSError as error:
            tried.append(str(error))
    raise OneDNNUnavailable(reason=f"the OpenMP run time is missing ({'; '.join(tried)})")


def torch_openmp_path() -> str | None:
    """Path of the libgomp inside an installed torch, found without importing torch, or None."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "lib" / SONAME
    return str(path) if path.exists() else None


def mapped_openmp_paths() -> list[str]:
    """Files of every OpenMP run time mapped into this process (GNU, LLVM and Intel)."""
    paths = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(("libgomp", "libomp", "libiomp5")):
            paths.add(path)
    return sorted(paths)


def set_threads(count: int) -> None:
    """Use `count` threads for primitives created and executed from the calling thread."""
    if count < 1:
        raise OneDNNArgumentError(where="set_threads", reason=f"{count} threads: at least 1 needed")
    openmp().omp_set_num_threads(count)


def get_threads() -> int:
    """Threads that primitives created or executed from the calling thread use."""
    return int(openmp().omp_get_max_threads())
