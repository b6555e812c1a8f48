"""The engine file: everything an engine is, in one safetensors file. Loads without torch.

Texts and JSON lie in the metadata of the container (see `torch2rt.engine.container`), constants
and blobs are its tensors ("constants/NAME", "blobs/NAME"), readable by any safetensors reader. A
file is written whole or not at all, and read through a memory map: constants are views of it.
Whatever is wrong with a file ends in EngineFileError.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from torch2rt.engine.container import (
    ALIGNMENT_BYTES,
    ContainerError,
    Metadata,
    Tensors,
    TypedArray,
    brief,
    damaged,
    not_storable,
    pack,
    parse_json,
    to_json,
    unpack,
)
from torch2rt.errors import EngineFileError
from torch2rt.network.dtype import Array, DType

JsonObject: TypeAlias = dict[str, Any]
StrPath: TypeAlias = str | os.PathLike[str]

_CONSTANTS = "constants/"
_BLOBS = "blobs/"
_IN_MEMORY = "engine bytes"


@dataclass(frozen=True, slots=True, eq=False)
class EngineFile:
    """The content of an engine file. JSON objects keep the order of their keys.

    Args:
        network_text: the network in its text form.
        plans: one JSON object per plan (`Plan.to_json`).
        constants: arrays by name; bfloat16 and float8 as bits (see `DType.numpy`).
        dtypes: the true dtype of every constant.
        precision: what `convert` was asked for.
        device: what the plans were made for.
        calls: call and output structure of the nn.Module face; may be empty.
        origins: per layer, the (module path, source line) pairs it stands for.
        report: what `convert` reports.
        environment: versions and hardware of the build.
        calibration: the calibration table, if there is one.
        blobs: bytes by name, such as compiled kernels.
    """

    network_text: str
    plans: tuple[JsonObject, ...]
    constants: Mapping[str, Array]
    dtypes: Mapping[str, DType]
    precision: str
    device: str
    calls: JsonObject = field(default_factory=dict)
    origins: dict[str, list[list[str]]] = field(default_factory=dict)
    report: JsonObject = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    calibration: JsonObject | None = None
    blobs: Mapping[str, bytes] = field(default_factory=dict)


def write(path: StrPath, engine: EngineFile) -> None:
    """Save an engine, atomically: readers see the old file or the new one, never a part.

    Raises EngineFileError, and leaves what was there, if that is not possible.
    """
    name = os.fspath(path)
    pieces = _pieces(name, engine)
    try:
        replace_file(name, pieces)
    except (OSError, ValueError) as error:
        raise EngineFileError(
            path=name, reason=f"it cannot be written ({_why(error)})",
            remedy="Give the name of a file in an existing folder that can be written to.",
        ) from error


def read(path: StrPath) -> EngineFile:
    """Load an engine; its constants are read-only views of the file, which stays mapped.

    Raises EngineFileError for whatever is not a sound engine file. Replacing or deleting the file
    later does no harm; overwriting its bytes in place does.
    """
    name = os.fspath(path)
    return _parsed(name, _mapped(name))


def to_bytes(engine: EngineFile) -> bytes:
    """The bytes `write` would write."""
    return b"".join(_pieces(_IN_MEMORY, engine))


def from_bytes(data: bytes) -> EngineFile:
    """The engine in what `to_bytes` returned; its constants are read-only views.

    Raises EngineFileError as `read` does.
    """
    return _parsed(_IN_MEMORY, _aligned(data))


def _pieces(name: str, engine: EngineFile) -> list[memoryview]:
    try:
        return pack(_metadata(engine), _tensors(engine))
    except ContainerError as error:
        raise EngineFileError(path=name, **error.facts) from error


def _parsed(name: str, data: memoryview) -> EngineFile:
    try:
        return _engine(*unpack(data))
    except ContainerError as error:
        raise EngineFileError(path=name, **error.facts) from error


# ---- bytes on disk ------------------------------------------------------------------------------


def replace_file(name: str, pieces: list[memoryview]) -> None:
    """Write a temporary file beside the target, then give it the target's name."""
    target = os.path.realpath(name)  # through a link, so that the link survives
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist")
    temporary = os.path.join(folder, f".torch2rt-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the new name last through a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mapped(name: str) -> memoryview:
    try:
        # A pipe would be waited for, a device read without end: look before opening.
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(name, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise EngineFileError(
            path=name, reason=f"it cannot be read ({_why(error)})",
            remedy="Check the path and its permissions.",
        ) from error


def _aligned(data: bytes) -> memoryview:
    """The bytes where tensors of the file are as aligned as in a mapped one: copied if need be."""
    source = np.frombuffer(data, np.uint8)
    if not source.size or _address(source) % ALIGNMENT_BYTES == 0:
        return memoryview(data)
    room = np.empty(source.size + ALIGNMENT_BYTES, np.uint8)
    start = -_address(room) % ALIGNMENT_BYTES
    copy = room[start:start + source.size]
    copy[:] = source
    return copy.data.toreadonly()


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _why(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


# ---- content ------------------------------------------------------------------------------------


def _metadata(engine: EngineFile) -> Metadata:
    texts = {
        "precision": engine.precision,
        "device": engine.device,
        "network": engine.network_text,
    }
    values = {
        "plans": list(engine.plans),
        "calls": engine.calls,
        "origins": engine.origins,
        "report": engine.report,
        "environment": engine.environment,
        "calibration": engine.calibration,
    }
    _check_values(values, not_storable)
    return texts | {name: to_json(value) for name, value in values.items()}


def _tensors(engine: EngineFile) -> Tensors:
    if engine.constants.keys() != engine.dtypes.keys():
        odd = brief(sorted(engine.constants.keys() ^ engine.dtypes.keys()))
        raise not_storable(f"the constants {odd} lack a dtype or an array")
    tensors: Tensors = {}
    for name, array in engine.constants.items():
        dtype = engine.dtypes[name]
        if array.dtype != dtype.numpy:
            raise not_storable(
                f"constant {brief(name)} of {dtype.value} is an array of {array.dtype}"
            )
        tensors[_CONSTANTS + name] = TypedArray(dtype, array)
    for name, blob in engine.blobs.items():
        tensors[_BLOBS + name] = TypedArray(DType.UINT8, np.frombuffer(blob, np.uint8))
    return tensors


def _engine(metadata: Metadata, tensors: Tensors) -> EngineFile:
    if odd := metadata.keys() ^ _FIELDS:
        raise damaged(f"fields are unknown or missing: {brief(sorted(odd))}")
    values = {name: parse_json(metadata[name], f"field {name!r}") for name in _IS_VALID}
    _check_values(values, damaged)
    constants: dict[str, Array] = {}
    dtypes: dict[str, DType] = {}
    blobs: dict[str, bytes] = {}
    for name, (dtype, array) in tensors.items():
        if name.startswith(_CONSTANTS):
            constants[name.removeprefix(_CONSTANTS)] = array
            dtypes[name.removeprefix(_CONSTANTS)] = dtype
        elif name.startswith(_BLOBS) and dtype is DType.UINT8 and array.ndim == 1:
            blobs[name.removeprefix(_BLOBS)] = array.tobytes()
        else:
            raise damaged(f"tensor {brief(name)} is neither a constant nor a blob")
    return EngineFile(
        network_text=metadata["network"],
        plans=tuple(values["plans"]),
        constants=constants,
        dtypes=dtypes,
        precision=metadata["precision"],
        device=metadata["device"],
        calls=values["calls"],
        origins=values["origins"],
        report=values["report"],
        environment=values["environment"],
        calibration=values["calibration"],
        blobs=blobs,
    )


def _check_values(
    values: Mapping[str, object], problem: Callable[[str], ContainerError]
) -> None:
    for name, value in values.items():
        if not _IS_VALID[name](value):
            raise problem(f"field {name!r} has another structure than expected: {brief(value)}")


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_origins(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(rows, list) and all(_is_texts(row) for row in rows) for rows in value.values()
    )


_IS_VALID: dict[str, Callable[[object], bool]] = {
    "plans": lambda value: isinstance(value, list) and all(_is_object(plan) for plan in value),
    "calls": _is_object,
    "origins": _is_origins,
    "report": _is_object,
    "environment": lambda value: isinstance(value, dict) and _is_texts(list(value.values())),
    "calibration": lambda value: value is None or _is_object(value),
}
_FIELDS = {"precision", "device", "network"} | _IS_VALID.keys()
