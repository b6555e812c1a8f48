"""Kernels that move elements compile for every architecture."""

import pytest
from cuda_compile import compile_for_all

from torch2rt.kernels.cuda import (
    combine,
    copy,
    fill,
    gather,
    pad,
    resize,
    sort,
    transpose,
    triangle,
)

SOURCES = {
    "copy": (copy.NAME, copy.copy_source(16, 16, 4, 8, 4)),
    "copy of bytes": (copy.NAME, copy.copy_source(1, 1, 1, 1, 1)),
    "copy that broadcasts": (copy.NAME, copy.copy_source(16, 2, 3, 2, 1)),
    "transpose of bytes": (transpose.NAME, transpose.transpose_source(1, 1)),
    "transpose of halves": (transpose.NAME, transpose.transpose_source(2, 3)),
    "transpose of doubles": (transpose.NAME, transpose.transpose_source(8, 4)),
    "pad": (pad.NAME, pad.pad_source(16, 3, "constant")),
    "pad by mirror": (pad.NAME, pad.pad_source(2, 4, "reflect")),
    "fill": (fill.NAME, fill.fill_source(4)),
    "triangle": (triangle.NAME, triangle.triangle_source(2, 8, True)),
    "take": (gather.NAME, gather.gather_source(16, 2, ["i64"])),
    "index": (gather.NAME, gather.gather_source(2, 4, ["i64", "i32", "u8"])),
    "put": (gather.NAME, gather.gather_source(8, 3, ["i64", "i64"], is_write=True)),
    "combine": (combine.NAME, combine.combine_source("f16", "mean", 2, 1, ["i64"])),
    "combine integers": (combine.NAME, combine.combine_source("i32", "mean", 1, 2, ["i32", "i64"])),
    "sort": (sort.NAME, sort.sort_source("f16", 2048, 1024, True)),
    "sort of doubles": (sort.NAME, sort.sort_source("double", 64, 32, False)),
    "resize": (resize.NAME, resize.resize_source("f16", 8, 4, [1, 2], [2, 2], True)),
    "resize of doubles": (resize.NAME, resize.resize_source("double", 1, 4, [2, 3], [9, 4], True)),
    "resize of bits": (resize.NAME, resize.resize_source("u16", 8, 5, [1, 2, 3], [1, 1, 1], False)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_compiles(name):
    kernel, source = SOURCES[name]
    compile_for_all(source, kernel)
