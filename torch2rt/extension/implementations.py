"""How a plugin may be run beside its torch body, as users write it down. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch2rt.network.dim import Dim
from torch2rt.network.dtype import DType

Sizes: TypeAlias = "tuple[Dim, ...]"


@dataclass(frozen=True, slots=True)
class Int64:
    """A number that a kernel takes as ``long long``; plain integers are ``int``."""

    value: Dim


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes of a plugin's tensors in order; sizes of free axes are symbols.

    Symbols compute with ``+ - * // %`` and `torch2rt.plugin.larger` and `smaller`; they do not
    compare, and have no value yet.
    """

    inputs: tuple[Sizes, ...]
    outputs: tuple[Sizes, ...]


# Attributes by name: the plain arguments of a function, the configuration of a module.
Attributes: TypeAlias = Mapping[str, Any]
Number: TypeAlias = "Dim | float | Int64"
# Functions of the user; what they return is checked when they are called: a size, or up to three;
# numbers (int, float, symbols, Int64); a size in bytes.
Grid: TypeAlias = "Callable[[Shapes, Attributes], object]"
Numbers: TypeAlias = "Callable[[Shapes, Attributes], Sequence[object]]"
Bytes: TypeAlias = "Callable[[Shapes, Attributes], object]"
# function(inputs, outputs, attributes) writes into the outputs.
ArrayFunction: TypeAlias = "Callable[[Sequence[Any], Sequence[Any], Attributes], object]"


@dataclass(frozen=True, slots=True)
class CudaKernel:
    r"""One launch of a kernel in CUDA C++.

        CudaKernel(r'''extern "C" __global__ void leaky(const float* x, float* y, int n, float a) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) y[i] = a * x[i];
        }''', "leaky", grid=lambda shapes, attributes: ceil_div(count(shapes.outputs[0]), 256))

    The kernel is given, in this order: a pointer per input, a pointer per output, a pointer to the
    workspace where the plugin has one, then ``numbers``: by default the number of elements of the
    first output and the attributes that are numbers, as ``int`` and ``float``.

    The source is compiled when an engine is built, travels in its file, and may use what stands in
    `torch2rt.kernels.cuda.prelude`, and the types ``in0_t``, ``in1_t``, ..., ``out0_t``, ...

    Args:
        source: CUDA C++ text.
        entry: name of the ``extern "C"`` kernel.
        grid: blocks along x, or along x, y, z, from the shapes and attributes.
        block: threads of a block, along x, or along x, y, z.
        shared: bytes of dynamic shared memory.
        numbers: what follows the pointers.
    """

    source: str
    entry: str
    grid: Grid
    block: int | tuple[int, ...] = 256
    shared: int = 0
    numbers: Numbers | None = None

    @staticmethod
    def from_raw(
        kernel: Any, grid: Grid, block: int | tuple[int, ...] = 256, shared: int = 0,
        numbers: Numbers | None = None,
    ) -> CudaKernel:
        """The launch of a `cupy.RawKernel`: its source and name are taken over."""
        return CudaKernel(kernel.code, kernel.name, grid, block, shared, numbers)


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """One launch of a ``@triton.jit`` function.

        TritonKernel(leaky_kernel, grid=lambda shapes, attributes: ceil_div(..., 1024),
                     constants={"BLOCK": 1024})

    Its parameters are, in this order: a pointer per input, a pointer per output, the workspace
    where the plugin has one, ``numbers`` as for `CudaKernel`, and the ``tl.constexpr`` ones, whose
    values ``constants`` gives by name. Functions and constants of its module that it names go
    along. Pointers are multiples of 16. It is compiled when an engine is built; the file keeps
    machine code alone.
    """

    function: Any
    grid: Grid
    constants: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2
    numbers: Numbers | None = None


@dataclass(frozen=True, slots=True)
class Implementations:
    """All that a plugin declares beside its torch body.

    Each of ``cuda`` and ``triton`` is a list of rival ways, all of which are timed; a way is a
    list of launches, one after the other. ``cpu`` and ``cupy`` are Python and stay in its package.
    """

    cuda: tuple[tuple[CudaKernel, ...], ...] = ()
    triton: tuple[tuple[TritonKernel, ...], ...] = ()
    cupy: ArrayFunction | None = None
    cpu: ArrayFunction | None = None
    workspace: Bytes | None = None
    precisions: tuple[DType, ...] = (DType.FLOAT32,)
    takes_epilogue: bool = False
    has_enqueue: bool = False
    is_capturable: bool = False
