"""A copy of the input in the form that tiles read: unsigned, with its padding.

Signed bytes become unsigned by adding 128, which adds 128 times the sum of the weights to every
sum; that is taken off where the sums start. So that it holds at the borders too, the padding is
there, as 128. Where channels come not by four, a row of taps is read as one tap with the channels
of all: they lie on end, and what is read beyond them has weights of zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torch2rt.backends.cpu.jit import Function, address_of_kernel
from torch2rt.backends.cpu.vnni.field import Field
from torch2rt.backends.cpu.vnni.tile import Geometry
from torch2rt.backends.spec import LayerSpec
from torch2rt.network.dtype import Array, DType

LANES = 64
# What may be read behind the last row.
SLACK_BYTES = 64
_VECTOR = f"<{LANES} x i8>"


def is_copied(spec: LayerSpec) -> bool:
    """Whether tiles cannot read the input as it comes."""
    return spec.inputs[0].dtype is DType.INT8 or has_flat_rows(spec)


def has_flat_rows(spec: LayerSpec) -> bool:
    """Whether a row of taps becomes one tap."""
    return spec.inputs[0].shape[1] % 4 != 0


def copied(shape: Geometry, is_flat: bool) -> Geometry:
    """The geometry of the copy: no padding but what is part of the image."""
    height, width = (
        (size - 1) * stride + (window - 1) * dilation + 1 for size, stride, window, dilation in zip(
            (shape.out_height, shape.out_width), shape.stride, shape.window, shape.dilation,
            strict=True,
        )
    )
    height = max(height, shape.height + shape.padding[0])
    width = max(width, shape.width + shape.padding[1])
    padded = replace(shape, height=height, width=width, padding=(0, 0))
    if not is_flat:
        return padded
    rows, columns = shape.window
    return replace(padded, channels=-(-columns * shape.channels // 4) * 4, window=(rows, 1))


def flat_rows(values: Array) -> Array:
    """Weights [k, c, r, s] as [k, s c, r, 1], padded to a multiple of 4 channels with zeros."""
    k, c, r, s = values.shape
    flat = values.transpose(0, 3, 1, 2).reshape(k, s * c, r, 1)
    padded: Array = np.pad(flat, [(0, 0), (0, -(s * c) % 4), (0, 0), (0, 0)])
    return padded


def copy_fields(shape: Geometry, padded: Geometry, images: int, dtype: DType) -> dict[Field, int]:
    """The numbers that describe a copy of images of ``shape``."""
    row = shape.width * shape.pixel_bytes
    left = shape.padding[1] * shape.pixel_bytes
    return {
        Field.copy_rows: images * padded.height, Field.copy_height: padded.height,
        Field.copy_row_bytes: padded.width * shape.pixel_bytes, Field.copy_top: shape.padding[0],
        Field.copy_left_bytes: left, Field.row_bytes: row, Field.height: shape.height,
        Field.flip: 0x80 if dtype is DType.INT8 else 0,
    }


def copy_kernel() -> int:
    """Address of the function that copies rows.

    Its arguments are the address of the `Field` numbers, the first row, and the last one plus 1.
    """
    name = "vnni_copy"
    return address_of_kernel(name, lambda: _Copy(name).text())


class _Copy:
    def __init__(self, name: str) -> None:
        self.f = Function(name, [("ptr", "data"), ("i64", "begin"), ("i64", "end")], LANES)
        f = self.f
        self.get = {
            field: f.load("i64", f.at("%data", field.value, "i64"), 8) for field in Field
        }
        self.flip = f.value(f"trunc i64 {self.get[Field.flip]} to i8")
        single = f.value(f"insertelement {_VECTOR} poison, i8 {self.flip}, i64 0")
        zeros = f"<{LANES} x i32> zeroinitializer"
        self.flips = f.value(f"shufflevector {_VECTOR} {single}, {_VECTOR} poison, {zeros}")

    def text(self) -> str:
        """Rows one after the other."""
        f, get = self.f, self.get
        source, target = (
            f.value(f"inttoptr i64 {get[field]} to ptr") for field in (Field.given, Field.source)
        )
        with f.loop("%begin", "%end") as row:
            image = f.integer("sdiv", row.counter, get[Field.copy_height])
            y = f.integer("srem", row.counter, get[Field.copy_height])
            y = f.integer("sub", y, get[Field.copy_top])
            number = f.integer("add", f.integer("mul", image, get[Field.height]), y)
            given = f.at(source, f.integer("mul", number, get[Field.row_bytes]), "i8")
            made = f.at(target, f.integer("mul", row.counter, get[Field.copy_row_bytes]), "i8")
            # Compared as unsigned numbers, negative ones are outside as well.
            inside = f.compare("ult", y, get[Field.height])
            with f.when(inside):
                right = f.integer("add", get[Field.copy_left_bytes], get[Field.row_bytes])
                self._fill(made, "0", get[Field.copy_left_bytes])
                self._copy(given, f.at(made, get[Field.copy_left_bytes], "i8"))
                self._fill(made, right, get[Field.copy_row_bytes])
            with f.when(f.value(f"xor i1 {inside}, true")):
                self._fill(made, "0", get[Field.copy_row_bytes])
        return f"{f.text}\ndeclare i64 @llvm.smin.i64(i64, i64)\n"

    def _fill(self, row: str, begin: str, end: str) -> None:
        """Padding from byte ``begin`` to before ``end`` of a row."""
        f = self.f
        with f.when(f.compare("slt", begin, end)), f.loop(begin, end) as place:
            f.store("i8", self.flip, f.at(row, place.counter, "i8"), 1)

    def _copy(self, given: str, made: str) -> None:
        """A row of at least a register; the last register may overlap the one before."""
        f, size = self.f, self.get[Field.row_bytes]
        count = f.integer("sdiv", f.integer("add", size, LANES - 1), LANES)
        with f.loop(0, count) as block:
            start = f.integer("mul", block.counter, LANES)
            last = f.integer("sub", size, LANES)
            start = f.value(f"call i64 @llvm.smin.i64(i64 {start}, i64 {last})")
            value = f.load(_VECTOR, f.at(given, start, "i8"), 1)
            value = f.value(f"xor {_VECTOR} {value}, {self.flips}")
            f.store(_VECTOR, value, f.at(made, start, "i8"), 1)
