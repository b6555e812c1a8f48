"""A plugin's implementations at the shapes of one call: what its layer keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch2rt.errors import PluginError
from torch2rt.extension.implementations import CudaKernel, Int64, Shapes, TritonKernel
from torch2rt.extension.registry import Definition, PluginCall
from torch2rt.extension.triton_source import parameter_names, source_text
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.plugin_with_epilogue import PluginWithEpilogue
from torch2rt.network.dim import Dim, SymbolicDim, product
from torch2rt.network.tensor import TensorType

_SYMBOLS = (
    "Sizes of free axes are symbols here, which have no value yet: use + - * // %, and ceil_div, "
    "count, larger and smaller of torch2rt.plugin"
)


def bound_kind(
    definition: Definition, call: PluginCall, inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> Plugin:
    """The layer kind of one call. PluginError where a grid or a number cannot be computed."""
    binder = _Binder(
        definition, Shapes(tuple(t.shape for t in inputs), tuple(t.shape for t in outputs)),
        definition.attributes(call),
    )
    given = definition.implementations
    host = {
        "cpu": given.cpu, "cupy": given.cupy, "enqueue": given.has_enqueue,
        "capturable": given.is_capturable,
    }
    is_fusing = given.takes_epilogue and len(outputs) == 1
    return (PluginWithEpilogue if is_fusing else Plugin)(
        definition.name, definition.version, definition.package, tuple(outputs),
        arguments=call.arguments, state=call.state,
        cuda=tuple(tuple(binder.cuda(launch) for launch in way) for way in given.cuda),
        triton=tuple(tuple(binder.triton(launch) for launch in way) for way in given.triton),
        host=tuple(way for way, function in host.items() if function),
        workspace=binder.workspace(), precisions=given.precisions,
    )


class _Binder:
    """Calls a plugin's functions of shapes and attributes, and checks what they return."""

    def __init__(
        self, definition: Definition, shapes: Shapes, attributes: Mapping[str, Any]
    ) -> None:
        self.definition = definition
        self.shapes = shapes
        self.attributes = attributes

    def cuda(self, kernel: CudaKernel) -> tuple[Any, ...]:
        """(source, entry, grid, block, shared bytes, numbers)."""
        block = kernel.block if isinstance(kernel.block, tuple) else (kernel.block,)
        return (
            kernel.source, kernel.entry, self._grid(kernel), self._three("block", block),
            kernel.shared, self._numbers(kernel),
        )

    def triton(self, kernel: TritonKernel) -> tuple[Any, ...]:
        """(source, entry, parameters, constants, warps, stages, grid, numbers, has workspace)."""
        try:
            source, entry = source_text(kernel.function)
            names = parameter_names(kernel.function, kernel.constants)
        except (ValueError, TypeError, OSError) as error:
            raise self._error(
                f"its Triton kernel cannot be used: {error}",
                "Give a function decorated with triton.jit that stands in a file",
            ) from error
        constants = tuple(sorted(kernel.constants.items()))
        return (
            source, entry, names, constants, kernel.warps, kernel.stages, self._grid(kernel),
            self._numbers(kernel), self.definition.implementations.workspace is not None,
        )

    def workspace(self) -> Dim:
        """Bytes of workspace."""
        function = self.definition.implementations.workspace
        return 0 if function is None else self._size("workspace", self._call("workspace", function))

    def _grid(self, kernel: CudaKernel | TritonKernel) -> tuple[Dim, ...]:
        found = self._call("grid", kernel.grid)
        sizes = tuple(found) if isinstance(found, tuple | list) else (found,)
        return self._three("grid", sizes)

    def _three(self, what: str, sizes: Sequence[Any]) -> tuple[Dim, ...]:
        if not 1 <= len(sizes) <= 3:
            raise self._error(f"its {what} has {len(sizes)} sizes", "Give one to three")
        return (*(self._size(what, size) for size in sizes), 1, 1)[:3]

    def _size(self, what: str, value: Any) -> Dim:
        if isinstance(value, SymbolicDim) or (isinstance(value, int) and value >= 0):
            return value
        raise self._error(f"its {what} has the size {value!r}", "Give integers")

    def _numbers(self, kernel: CudaKernel | TritonKernel) -> tuple[Any, ...]:
        if kernel.numbers is not None:
            found = self._call("numbers", kernel.numbers)
        else:
            plain = [v for v in self.attributes.values() if _is_number(v)]
            found = [*(product(shape) for shape in self.shapes.outputs[:1]), *plain]
        return tuple(self._number(value) for value in found)

    def _number(self, value: Any) -> Any:
        if isinstance(value, Int64):
            return ("int64", value.value)
        if not _is_number(value):
            raise self._error(f"{value!r} is no number that a kernel can be given", "")
        return int(value) if isinstance(value, bool) else value

    def _call(self, what: str, function: Callable[..., Any]) -> Any:
        try:
            return function(self.shapes, self.attributes)
        except Exception as error:  # whatever the user's function raises is told as its own
            raise self._error(
                f"its {what} function raised {type(error).__name__}: {error} for {self.shapes} "
                f"and {dict(self.attributes)}", _SYMBOLS,
            ) from error

    def _error(self, reason: str, remedy: str) -> PluginError:
        return PluginError(
            name=self.definition.name, where="", reason=reason, remedy=remedy or _SYMBOLS
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | SymbolicDim)
