"""An expression over broadcast operands, element by element.

Idea: a thread takes ``unroll`` vectors of consecutive elements, loads all it needs of every
operand before it computes, and stores vectors. Operands that broadcast have stride 0.
Grid: blocks of ``threads`` threads, each block ``threads * unroll`` vectors side by side.
Bytes moved: every operand once, broadcast ones from cache. Architectures: any.

The axes are those of the output in the order of memory, merged where all operands allow it. A
single axis has its length as an argument, and the last ``count % vector`` elements are done one
by one; of several axes the sizes are part of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.kernels.cuda.prelude import PRELUDE

NAME = "t2r_pointwise"


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor: the C++ types it is stored and computed in, its stride along every axis."""

    type: str
    compute_type: str
    strides: tuple[int, ...]

    @property
    def is_narrow(self) -> bool:
        """Whether it is a 16-bit float, computed with as float."""
        return self.type != self.compute_type


@dataclass(frozen=True, slots=True)
class PointwiseKernel:
    """What one kernel is made for. ``expression`` is C++ in ``i0``, ``i1``, ..."""

    expression: str
    inputs: tuple[Operand, ...]
    output: Operand
    sizes: tuple[int, ...]
    vector: int
    unroll: int
    threads: int
    is_wide: bool  # offsets need 64 bits

    @property
    def source(self) -> str:
        """``void t2r_pointwise(x0, x1, ..., y, count)``; count of elements, int or long long."""
        index = "i64" if self.is_wide else "u32"
        count = "i64" if self.is_wide else "i32"
        parameters = "".join(f"const {x.type}* x{i}, " for i, x in enumerate(self.inputs))
        return f"""{PRELUDE}
typedef {index} Index;
{evaluate_function(self.expression, self.inputs, self.output)}
struct Operands {{
{self._members()}}};
struct Offsets {{ Index {", ".join([*[f"x{i}" for i in range(len(self.inputs))], "y"])}; }};

T2R_DEVICE Offsets offsets_of(Index item) {{
    Offsets at;
{self._offsets()}    return at;
}}

extern "C" __global__ void __launch_bounds__({self.threads}) {NAME}(
    {parameters}{self.output.type}* y, {count} count
) {{
    const Index items = (Index)count / {self.vector};
    const Index first = (Index)blockIdx.x * {self.threads * self.unroll} + threadIdx.x;
    t2r_wait();
    Operands loaded[{self.unroll}];
    Offsets at[{self.unroll}];
#pragma unroll
    for (int u = 0; u < {self.unroll}; u++) {{
        const Index item = first + u * {self.threads};
        if (item >= items) continue;
        at[u] = offsets_of(item);
{self._loads()}    }}
#pragma unroll
    for (int u = 0; u < {self.unroll}; u++) {{
        if (first + u * {self.threads} >= items) continue;
{self._store()}    }}
{self._tail()}}}
"""

    def _members(self) -> str:
        return "".join(
            f"    {_loaded_type(x, self.vector)} x{i};\n" for i, x in enumerate(self.inputs)
        )

    def _offsets(self) -> str:
        """From the number of a vector to the offset of its first element in every operand."""
        lines = []
        rest = "item"
        for axis in reversed(range(len(self.sizes))):
            size = self.sizes[axis] // (self.vector if axis == len(self.sizes) - 1 else 1)
            if axis == 0:
                lines.append(f"    const Index a0 = {rest};\n")
            else:
                lines.append(
                    f"    const Index a{axis} = {rest} % {size}u;\n"
                    f"    const Index r{axis} = {rest} / {size}u;\n"
                )
                rest = f"r{axis}"
        operands = [*((f"x{i}", x) for i, x in enumerate(self.inputs)), ("y", self.output)]
        for name, operand in operands:
            lines.append(f"    at.{name} = {self._offset(operand)};\n")
        return "".join(lines)

    def _offset(self, operand: Operand) -> str:
        last = len(self.sizes) - 1
        terms = []
        for axis, stride in enumerate(operand.strides):
            step = stride * (self.vector if axis == last else 1)
            if step:
                terms.append(f"a{axis} * {step}u" if step != 1 else f"a{axis}")
        return " + ".join(terms) or "0"

    def _loads(self) -> str:
        lines = []
        for i, x in enumerate(self.inputs):
            step = x.strides[-1]
            if self.vector == 1 or step == 0:
                lines.append(f"        loaded[u].x{i} = x{i}[at[u].x{i}];\n")
            elif step == 1:
                lines.append(
                    f"        loaded[u].x{i} = load_vec<{x.type}, {self.vector}>"
                    f"(x{i} + at[u].x{i});\n"
                )
            else:
                lines.append(
                    f"#pragma unroll\n        for (int j = 0; j < {self.vector}; j++)"
                    f" loaded[u].x{i}[j] = x{i}[at[u].x{i} + j * {step}];\n"
                )
        return "".join(lines)

    def _store(self) -> str:
        values = ", ".join(
            widen(x, f"loaded[u].x{i}" + ("" if _is_single(x, self.vector) else "[j]"))
            for i, x in enumerate(self.inputs)
        )
        return store_vector(self.output, self.vector, f"evaluate({values})", "y + at[u].y")

    def _tail(self) -> str:
        if len(self.sizes) > 1 or self.vector == 1:
            return ""
        values = ", ".join(
            widen(x, f"x{i}[k * {x.strides[0]}]") for i, x in enumerate(self.inputs)
        )
        return f"""    const Index k = items * {self.vector} + threadIdx.x;
    if (blockIdx.x == 0 && k < (Index)count) y[k] = {narrow(self.output, f"evaluate({values})")};
"""


def evaluate_function(expression: str, inputs: Sequence[Operand], output: Operand) -> str:
    """``evaluate(i0, i1, ...)`` in the types of computation."""
    parameters = ", ".join(f"{x.compute_type} i{i}" for i, x in enumerate(inputs))
    return (
        f"T2R_DEVICE {output.compute_type} evaluate({parameters}) {{\n"
        f"    return {expression};\n}}\n"
    )


def widen(operand: Operand, value: str) -> str:
    """A stored value as one to compute with."""
    return f"to_float({value})" if operand.is_narrow else value


def narrow(operand: Operand, value: str) -> str:
    """A computed value as one to store."""
    return f"from_float<{operand.type}>({value})" if operand.is_narrow else value


def store_vector(output: Operand, vector: int, value: str, address: str) -> str:
    """C++ that stores ``vector`` values, ``value`` being an expression in ``j``."""
    if vector == 1:
        return f"        *({address}) = {narrow(output, value)};\n"
    if output.is_narrow:
        declared, store = f"float result[{vector}]", f"store_floats({address}, result)"
    else:
        declared = f"Vec<{output.type}, {vector}> result"
        store = f"store_vec<{output.type}, {vector}>({address}, result)"
    return (
        f"        {declared};\n#pragma unroll\n"
        f"        for (int j = 0; j < {vector}; j++) result[j] = {value};\n        {store};\n"
    )


def _is_single(operand: Operand, vector: int) -> bool:
    return vector == 1 or operand.strides[-1] == 0


def _loaded_type(operand: Operand, vector: int) -> str:
    return operand.type if _is_single(operand, vector) else f"Vec<{operand.type}, {vector}>"
