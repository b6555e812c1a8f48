"""Find, load and describe libdnnl, once per process."""

import ctypes
import ctypes.util
import logging
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from torch2rt.backends.cpu.onednn.constants import Isa, Status
from torch2rt.backends.cpu.onednn.errors import (
    OneDNNError,
    OneDNNUnavailable,
    OneDNNUnsupported,
)
from torch2rt.backends.cpu.onednn.openmp import openmp
from torch2rt.backends.cpu.onednn.prototypes import CODES, OPTIONAL, PROTOTYPES, RESULTS

logger = logging.getLogger(__name__)

SONAME: Final = "libdnnl.so.3"
OLDEST: Final = (3, 1)
_UNSUPPORTED: Final = (Status.unimplemented, Status.last_impl_reached)

CFunction = Callable[..., int]


class _Version(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
        ("cpu_runtime", ctypes.c_uint),
        ("gpu_runtime", ctypes.c_uint),
    )


class Library:
    """A loaded libdnnl: typed functions by C name, version and path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._dll = ctypes.CDLL(path)
        self._functions: dict[str, CFunction] = {}
        for name, codes in PROTOTYPES.items():
            self._functions[name] = self._bind(name, codes)
        for name, codes in OPTIONAL.items():
            if hasattr(self._dll, name):
                self._functions[name] = self._bind(name, codes)
        # No argtypes: the arguments are prebuilt C objects, and converting costs time per step.
        self.execute: CFunction = self._dll["dnnl_primitive_execute"]
        record = _Version.from_address(self.function("dnnl_version")())
        self.version: tuple[int, int, int] = (record.major, record.minor, record.patch)
        self.commit: str = (record.hash or b"").decode()

    def _bind(self, name: str, codes: str) -> CFunction:
        function = self._dll[name]
        function.argtypes = [CODES[code] for code in codes]
        function.restype = CODES[RESULTS.get(name, "i")]
        return function

    def has(self, name: str) -> bool:
        """Whether this version of the library exports the C function."""
        return name in self._functions

    def function(self, name: str) -> CFunction:
        """The C function, with argument types declared."""
        return self._functions[name]


_lock = threading.Lock()
_loaded: list[Library] = []


def library() -> Library:
    """The process's oneDNN, loaded on first use. Raises OneDNNUnavailable with the reason."""
    with _lock:
        if not _loaded:
            _loaded.append(load_first(candidate_paths()))
            logger.debug("oneDNN %s from %s", _loaded[0].version, _loaded[0].path)
        return _loaded[0]


def candidate_paths() -> Iterator[str]:
    """Where libdnnl may be: environment prefixes, per-user data, then the system's own search."""
    prefixes = [sys.prefix, sysconfig.get_path("data"), sys.base_prefix, site.getuserbase()]
    for prefix in dict.fromkeys(prefixes):
        path = Path(prefix) / "lib" / SONAME
        if path.exists():
            yield str(path)
    found = ctypes.util.find_library("dnnl")
    if found is not None and found.endswith(".so.3"):
        yield found
    yield SONAME


def load_first(candidates: Iterator[str]) -> Library:
    """The first candidate that loads and is new enough."""
    openmp()
    reasons = []
    for path in candidates:
        try:
            found = Library(path)
        except (OSError, AttributeError) as error:
            reasons.append(str(error))
            continue
        if found.version[:2] >= OLDEST:
            return found
        reasons.append(f"{path} is version {'.'.join(map(str, found.version))}, 3.1 is needed")
    raise OneDNNUnavailable(reason="; ".join(reasons) or f"no {SONAME} was found")


def version() -> tuple[int, int, int]:
    """Version of the loaded library: major, minor, patch."""
    return library().version


def path() -> str:
    """File that the library was loaded from, or its bare name when the system found it."""
    return library().path


def effective_isa() -> str:
    """Name of the highest instruction set that oneDNN generates code for here."""
    value = library().function("dnnl_get_effective_cpu_isa")()
    names = {int(isa): isa.name for isa in Isa}
    return names.get(value, hex(value))


def set_max_isa(isa: Isa) -> None:
    """Limit generated code to an instruction set. Only before the first primitive is made."""
    call("dnnl_set_max_cpu_isa", isa, what=f"limiting code to {isa.name}")


def prefer_ymm() -> None:
    """Hint at 256-bit vectors in AVX-512 code. Only before the first primitive is made."""
    call("dnnl_set_cpu_isa_hints", 1, what="preferring 256-bit vectors")


def fail(status: int, call: str, what: str) -> NoReturn:
    """Raise the error that fits a status; OneDNNUnsupported where there is no implementation."""
    names = {int(member): member.name for member in Status}
    name = names.get(status, f"status {status}")
    kind = OneDNNUnsupported if status in _UNSUPPORTED else OneDNNError
    raise kind(status=name, call=call, what=what)


def check(status: int, call: str, what: str) -> None:
    """Raise unless `status` is success; `what` completes "... while"."""
    if status != Status.success:
        fail(status, call, what)


def call(name: str, *arguments: object, what: str) -> None:
    """Call a C function that returns a status, and check it."""
    check(library().function(name)(*arguments), name, what)
