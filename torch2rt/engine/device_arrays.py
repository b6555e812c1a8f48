"""Runs an engine of a GPU on arrays, without torch: CuPy arrays, numpy arrays, DLPack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.errors import InputError
from torch2rt.network.dtype import Array

if TYPE_CHECKING:
    from torch2rt.engine.engine import Binding, Engine


def run_on_device(engine: Engine, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by name, on CuPy's current stream; numpy arrays if all inputs are numpy arrays.

    InputError says which input does not fit, and how.
    """
    with engine.backend.building():
        arrays = [_accept(binding, inputs) for binding in engine.bindings.inputs]
        if len(inputs) != len(arrays):
            engine.refuse_extra(inputs)
        runnable = engine.runnable(tuple([array.shape for array in arrays]))
        outputs = [cupy.empty(shape, dtype) for shape, dtype in runnable.output_arrays]
        runnable.run(
            [array.data.ptr for array in arrays], [array.data.ptr for array in outputs],
            cupy.cuda.get_current_stream().ptr,
        )
        results: list[Any] = outputs
        if inputs and all(isinstance(value, np.ndarray) for value in inputs.values()):
            results = [cupy.asnumpy(array) for array in outputs]
    return dict(zip(runnable.output_names, results, strict=True))


def _accept(binding: Binding, inputs: Mapping[str, Any]) -> Any:
    """The input as a contiguous, aligned CuPy array of the binding's dtype."""
    value = inputs.get(binding.name)
    if value is None:
        raise InputError(
            name=binding.name, reason="it is missing", expected=binding.type,
            got=f"inputs {sorted(inputs)}", remedy="Pass every input by name.",
        )
    array = _to_device(binding, value)
    if array.dtype != binding.type.dtype.numpy:
        raise InputError(
            name=binding.name, reason="wrong dtype", expected=binding.type.dtype.value,
            got=array.dtype, remedy=f"Convert it: array.astype({binding.type.dtype.numpy}).",
        )
    array = cupy.ascontiguousarray(array)
    return array.copy() if array.data.ptr % VECTOR_BYTES else array


def _to_device(binding: Binding, value: Any) -> Any:
    if isinstance(value, cupy.ndarray):
        return value
    if isinstance(value, np.ndarray):
        return cupy.asarray(value)
    if not hasattr(value, "__dlpack__"):
        raise InputError(
            name=binding.name, reason="not an array", expected=binding.type,
            got=type(value).__name__,
            remedy="Pass a CuPy or numpy array, or anything with DLPack.",
        )
    if binding.type.dtype.is_stored_as_bits:
        value = _as_bits(value)
    if value.__dlpack_device__()[0] == _HOST:
        host: Array = np.from_dlpack(value)
        return cupy.asarray(host)
    return cupy.from_dlpack(value)


_HOST = 1  # DLPack's number of CPU memory


def _as_bits(value: Any) -> Any:
    """Bits of a tensor whose dtype CuPy cannot hold, as unsigned numbers of the same size."""
    module = __import__(type(value).__module__.split(".")[0])
    return value.view(module.uint16 if value.itemsize == 2 else module.uint8)
