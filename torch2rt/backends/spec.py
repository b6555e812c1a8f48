"""What a tactic is shown of a layer: the kind, and every operand at a concrete shape and layout."""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

from torch2rt import expression as ex
from torch2rt.backends.alike import alike_attributes, alike_text
from torch2rt.layers.registry import Json, attributes_to_json
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind


class Layout(enum.Enum):
    """How the axes [n, c, *spatial] of a tensor lie in memory.

    PLAIN is row-major and fits any rank. CHANNELS_LAST puts c innermost. BLOCKED8 and BLOCKED16
    put blocks of that many channels innermost, c padded with zeros to a whole block.
    """

    PLAIN = "plain"
    CHANNELS_LAST = "channels_last"
    BLOCKED8 = "blocked8"
    BLOCKED16 = "blocked16"

    @property
    def block(self) -> int:
        """Channels of a block; 1 when the layout is not blocked."""
        return {"blocked8": 8, "blocked16": 16}.get(self.value, 1)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape, dtype and layout of one operand.

    A tensor that lies inside a wider one is *pitched*: ``run`` elements are contiguous, the next
    run starts ``pitch`` elements later. 0 means dense. Runs are whole trailing axes in the order
    of memory: the channels of a pixel in CHANNELS_LAST, for instance.
    """

    shape: tuple[int, ...]
    dtype: DType
    layout: Layout = Layout.PLAIN
    run: int = 0
    pitch: int = 0

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def element_count(self) -> int:
        """Number of elements, padding not counted."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its storage, channel padding included."""
        shape = self.shape
        if self.layout.block > 1:
            block = self.layout.block
            shape = (shape[0], -(-shape[1] // block) * block, *shape[2:])
        return math.prod(shape) * self.dtype.itemsize_bytes

    @property
    def extent_bytes(self) -> int:
        """Bytes from the start of the first run to the end of the last, gaps included."""
        if self.is_dense:
            return self.size_bytes
        rows = self.element_count // self.run
        return (max(rows - 1, 0) * self.pitch + self.run) * self.dtype.itemsize_bytes

    @property
    def is_dense(self) -> bool:
        """Whether its elements are contiguous."""
        return self.pitch == 0

    @property
    def memory_order(self) -> tuple[int, ...]:
        """Axes from the outermost to the innermost in memory. PLAIN and CHANNELS_LAST only."""
        axes = tuple(range(self.rank))
        if self.layout is Layout.CHANNELS_LAST and self.rank > 2:
            return (0, *axes[2:], 1)
        return axes

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index to the next, per axis. PLAIN and CHANNELS_LAST only."""
        strides = [0] * self.rank
        size = 1
        for axis in reversed(self.memory_order):
            strides[axis] = size if self.is_dense or size < self.run else (
                size // self.run * self.pitch
            )
            size *= self.shape[axis]
        return tuple(strides)

    def with_layout(self, layout: Layout) -> TensorSpec:
        """The same tensor in another layout, dense."""
        return replace(self, layout=layout, run=0, pitch=0)

    def with_pitch(self, run: int, pitch: int) -> TensorSpec:
        """The same tensor inside a wider one. ValueError if runs are not whole trailing axes."""
        sizes = [1]
        for axis in reversed(self.memory_order):
            sizes.append(sizes[-1] * self.shape[axis])
        if run not in sizes or pitch < run:
            raise ValueError(f"{self} cannot lie in runs of {run} every {pitch} elements")
        return replace(self, run=run, pitch=pitch)

    def __str__(self) -> str:
        pitch = "" if self.is_dense else f"/{self.run}:{self.pitch}"
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]:{self.layout.value}{pitch}"


@dataclass(frozen=True)
class LayerSpec:
    """One layer at concrete shapes. ``constants[i]`` names the constant that input i is, or None.

    Inputs are the kind's main inputs, then the epilogue's, as in `torch2rt.network.layer.Layer`.
    """

    name: str
    where: str
    kind: LayerKind
    epilogue: ex.Expression | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: tuple[str | None, ...]

    @property
    def main_count(self) -> int:
        """Number of inputs of the kind itself."""
        extra = max(0, ex.arity(self.epilogue) - 1) if self.epilogue is not None else 0
        return len(self.inputs) - extra

    def with_layouts(self, choice: LayoutChoice) -> LayerSpec:
        """The spec with the layouts of a choice."""
        return replace(
            self,
            inputs=_with_layouts(self.inputs, choice.inputs),
            outputs=_with_layouts(self.outputs, choice.outputs),
        )

    @cached_property
    def signature(self) -> str:
        """Equal for layers that take the same time: everything but names, weights and factors."""
        epilogue = alike_text(self.epilogue) if self.epilogue is not None else ""
        return self._text(alike_attributes(self.kind), epilogue)

    @cached_property
    def code_signature(self) -> str:
        """Equal for layers of the same code: factors count too."""
        epilogue = self.epilogue.text if self.epilogue is not None else ""
        return self._text(attributes_to_json(self.kind), epilogue)

    def _text(self, attributes: dict[str, Json], epilogue: str) -> str:
        inputs = ",".join(
            f"{spec}{'' if constant is None else '@'}"
            for spec, constant in zip(self.inputs, self.constants, strict=True)
        )
        pairs = sorted(attributes.items(), key=lambda item: item[0])
        outputs = ",".join(str(spec) for spec in self.outputs)
        text = f"{self.kind.name}{pairs}({inputs})|{epilogue}->{outputs}"
        return text if len(text) <= 400 else text[:300] + hashlib.sha256(text.encode()).hexdigest()


def _with_layouts(
    specs: tuple[TensorSpec, ...], layouts: tuple[Layout, ...]
) -> tuple[TensorSpec, ...]:
    return tuple(
        spec.with_layout(layout) for spec, layout in zip(specs, layouts, strict=True)
    )


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """Layouts a tactic reads and writes, one per input and output."""

    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]


def plain_choice(spec: LayerSpec) -> LayoutChoice:
    """Everything row-major."""
    return LayoutChoice((Layout.PLAIN,) * len(spec.inputs), (Layout.PLAIN,) * len(spec.outputs))


def canonical_layout(spec: TensorSpec) -> Layout:
    """The first layout that means the same bytes for this shape.

    With one channel, or one pixel and whole blocks of channels, all layouts are row-major.
    """
    if spec.layout is Layout.PLAIN or spec.rank < 3:
        return Layout.PLAIN
    pixels = math.prod(spec.shape[2:])
    channels = spec.shape[1]
    if spec.layout is Layout.CHANNELS_LAST:
        return Layout.PLAIN if channels == 1 or pixels == 1 else spec.layout
    if channels % spec.layout.block == 0:
        if pixels == 1:
            return Layout.PLAIN
        if channels == spec.layout.block:
            return Layout.CHANNELS_LAST
    return spec.layout
