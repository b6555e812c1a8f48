"""Max and mean pooling over sliding windows, and adaptive pooling.

Idea: one thread makes a small tile of outputs for a few neighbouring channels (CHANNELS_LAST) or
one output (PLAIN). The rows of the tile's inputs are loaded once each and combined along the row
first, so that windows that overlap share loads and comparisons. 16-bit maxima stay packed in
pairs; a maximum reads the nearest element instead of padding: it is in the window too. Grid: one
thread per tile. Moves: the input once from memory (what tiles share comes from the caches), the
output once. All architectures; windows of any size, up to three spatial axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch2rt.kernels.cuda.operands import VALUES, Epilogue
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import constants

THREADS = 128
# Windows with more elements than this are loops.
UNROLLED_LOADS = 64
Three = tuple[int, int, int]

_WIDE = r"""
struct Lanes {
    A v[V];
    static T2R_MEMBER Lanes identity() {
        Lanes r;
#pragma unroll
        for (int j = 0; j < V; j++) r.v[j] = @IDENTITY@;
        return r;
    }
    // What is at an address, or the identity. Zero bits are the number 0 in every type.
    static T2R_MEMBER Lanes load(const X* address, bool is_inside) {
        Vec<X, V> stored;
        memset(&stored, 0, sizeof(stored));
        if (is_inside) stored = load_vec<X, V>(address);
        Lanes r;
#pragma unroll
        for (int j = 0; j < V; j++)
            r.v[j] = IS_SUM || is_inside ? (A)widened(stored[j]) : @IDENTITY@;
        return r;
    }
    T2R_MEMBER void add(const Lanes& other) {
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = @COMBINE@;
    }
    T2R_MEMBER A get(int j) const { return v[j]; }
};
"""

_PACKED = r"""
T2R_DEVICE u32 larger_pair(u32 a, u32 b) {
#if !defined(T2R_EMULATED) && __CUDA_ARCH__ >= 800
    u32 r;
    asm("max.NaN.@PTX@ %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#else
    const X low_a = {(u16)a}, high_a = {(u16)(a >> 16)};
    const X low_b = {(u16)b}, high_b = {(u16)(b >> 16)};
    return pack2<X>(nan_max(to_float(low_a), to_float(low_b)),
                    nan_max(to_float(high_a), to_float(high_b)));
#endif
}
struct Lanes {
    Vec<u32, V / 2> v;
    static T2R_MEMBER Lanes identity() {
        Lanes r;
#pragma unroll
        for (int j = 0; j < V / 2; j++) r.v[j] = @LOWEST@u;
        return r;
    }
    static T2R_MEMBER Lanes load(const X* address, bool is_inside) {
        Lanes r = identity();
        if (is_inside) r.v = load_vec<u32, V / 2>(address);
        return r;
    }
    T2R_MEMBER void add(const Lanes& other) {
#pragma unroll
        for (int j = 0; j < V / 2; j++) v[j] = larger_pair(v[j], other.v[j]);
    }
    T2R_MEMBER float get(int j) const {
        const X half = {(u16)(v[j / 2] >> (16 * (j & 1)))};
        return to_float(half);
    }
};
"""

_NEAREST = r"""
// The coordinate, or the last one inside if it is outside and outside counts as that.
T2R_DEVICE INDEX nearest(int i, int size) {
    return (INDEX)(IS_CLAMPED ? min(max(i, 0), size - 1) : i);
}
"""

# Of the window in the walk's three spatial axes, TH x TW outputs share ROWS x COLUMNS inputs.
_WINDOW = r"""
    Lanes sums[TH][TW];
#pragma unroll
    for (int a = 0; a < TH; a++)
#pragma unroll
        for (int b = 0; b < TW; b++) sums[a][b] = Lanes::identity();
    const int z0 = (int)od * SD - PD, y0 = (int)oh * SH - PH, x0 = (int)ow * SW - PW;
#pragma unroll UNROLL
    for (int kd = 0; kd < KD; kd++) {
#pragma unroll UNROLL
        for (int row = 0; row < ROWS; row += ROW_STEP) {
            const int z = z0 + kd * DD, yy = y0 + row;
            const bool has_row = (unsigned)z < (unsigned)ID && (unsigned)yy < (unsigned)IH;
            const X* line = x + (base + nearest(z, ID) * XD + nearest(yy, IH) * XH);
            Lanes across[TW];
#pragma unroll
            for (int b = 0; b < TW; b++) across[b] = Lanes::identity();
#pragma unroll UNROLL
            for (int column = 0; column < COLUMNS; column += COLUMN_STEP) {
                const int xx = x0 + column;
                const Lanes value = Lanes::load(
                    line + nearest(xx, IW) * XW,
                    IS_CLAMPED || (has_row && (unsigned)xx < (unsigned)IW));
#pragma unroll
                for (int b = 0; b < TW; b++)
                    if (column >= b * SW && column - b * SW < SPAN_W) across[b].add(value);
            }
#pragma unroll
            for (int a = 0; a < TH; a++)
                if (row >= a * SH && row - a * SH < SPAN_H)
#pragma unroll
                    for (int b = 0; b < TW; b++) sums[a][b].add(across[b]);
        }
    }
"""

_ADAPTIVE = r"""
    Lanes sums[1][1];
    sums[0][0] = Lanes::identity();
    const int z0 = (int)od * ID / OD, z1 = ((int)od * ID + ID + OD - 1) / OD;
    const int y0 = (int)oh * IH / OH, y1 = ((int)oh * IH + IH + OH - 1) / OH;
    const int x0 = (int)ow * IW / OW, x1 = ((int)ow * IW + IW + OW - 1) / OW;
    for (int z = z0; z < z1; z++)
        for (int yy = y0; yy < y1; yy++) {
            const X* line = x + (base + (INDEX)z * XD + (INDEX)yy * XH);
#pragma unroll 4
            for (int xx = x0; xx < x1; xx++)
                sums[0][0].add(Lanes::load(line + (INDEX)xx * XW, true));
        }
"""

_STORE = r"""
#pragma unroll
    for (int a = 0; a < TH; a++)
#pragma unroll
        for (int b = 0; b < TW; b++) {
            const INDEX ph = oh + a, pw = ow + b;
            if ((TH > 1 && ph >= OH) || (TW > 1 && pw >= OW)) continue;
            A value[V];
#pragma unroll
            for (int j = 0; j < V; j++) value[j] = sums[a][b].get(j);
            @DIVIDE@
            @EPILOGUE@
            store_values<@RESULT@, Y, V>(y + (@Y@), stored);
        }
"""

_DIVIDE_BY_COUNT = r"""
            {
                const int z = (int)od * SD - PD, yy = (int)ph * SH - PH, xx = (int)pw * SW - PW;
                const int count = (min(z + KD, ID) - max(z, 0)) * (min(yy + KH, IH) - max(yy, 0))
                    * (min(xx + KW, IW) - max(xx, 0));
#pragma unroll
                for (int j = 0; j < V; j++) value[j] *= (A)1 / (A)count;
            }
"""

_DIVIDE_BY_WINDOW = r"""
#pragma unroll
            for (int j = 0; j < V; j++) value[j] *= (A)1 / (A)(@WINDOW@);
"""


@dataclass(frozen=True)
class PoolProblem:
    """A pooling over [n, c, d, h, w]; absent axes have size 1.

    ``window`` is None for adaptive pooling, whose windows follow from the sizes. Strides are
    elements per axis n, c, d, h, w. ``is_channels_last``: c is innermost in memory, else w.
    """

    mode: str
    x_type: str
    y_type: str
    accumulator: str
    channels: int
    sizes: Three
    out_sizes: Three
    x_strides: tuple[int, ...]
    y_strides: tuple[int, ...]
    window: Window | None
    is_channels_last: bool
    vector: int
    tile: tuple[int, int]
    epilogue: Epilogue
    index: str = "unsigned"

    def tiles(self, batch: int) -> int:
        """Number of threads that have work."""
        d, h, w = self.out_sizes
        outputs = d * -(-h // self.tile[0]) * -(-w // self.tile[1])
        return batch * outputs * (self.channels // self.vector)


@dataclass(frozen=True)
class Window:
    """Size, step and padding in front, per spatial axis d, h, w."""

    kernel: Three
    stride: Three
    before: Three
    dilation: Three
    count_padding: bool

    @property
    def loads(self) -> int:
        """Elements of the window."""
        return math.prod(self.kernel)


def pool_source(problem: PoolProblem) -> str:
    """Source of the kernel ``pool(x, y, extras..., tiles)``, `THREADS` threads a block."""
    extras = problem.epilogue.parameters()
    return "".join([
        PRELUDE, VALUES, _definitions(problem), _lanes(problem),
        _NEAREST if problem.window is not None else "",
        problem.epilogue.function(problem.accumulator),
        f'extern "C" __global__ void __launch_bounds__({THREADS})\n'
        f"pool(const X* x, Y* y{extras}, u64 tiles) {{\n"
        f"    INDEX i = (INDEX)blockIdx.x * {THREADS}u + threadIdx.x;\n"
        "    t2r_wait();\n    if (i >= tiles) return;\n",
        _coordinates(problem),
        "    const INDEX base = n * XN + c * XC;\n",
        _WINDOW if problem.window is not None else _ADAPTIVE,
        _store(problem), "}\n",
    ])


def _definitions(problem: PoolProblem) -> str:
    d, h, w = problem.sizes
    od, oh, ow = problem.out_sizes
    th, tw = problem.tile
    strides = dict(zip(("XN", "XC", "XD", "XH", "XW"), problem.x_strides, strict=True))
    text = (f"typedef {problem.x_type} X;\ntypedef {problem.y_type} Y;\n"
            f"typedef {problem.accumulator} A;\ntypedef {problem.index} INDEX;\n")
    text += str(constants(IS_SUM=int(problem.mode == "mean"), ID=d, IH=h, IW=w, OD=od, OH=oh,
                          OW=ow, TH=th, TW=tw, V=problem.vector))
    text += "".join(f"constexpr INDEX {name} = {value};\n" for name, value in strides.items())
    window = problem.window
    if window is None:
        return text
    (kd, kh, kw), (sd, sh, sw) = window.kernel, window.stride
    (pd, ph, pw), (dd, dh, dw) = window.before, window.dilation
    return text + str(constants(
        KD=kd, KH=kh, KW=kw, SD=sd, SH=sh, SW=sw, PD=pd, PH=ph, PW=pw, DD=dd,
        SPAN_H=(kh - 1) * dh + 1, SPAN_W=(kw - 1) * dw + 1,
        ROWS=(th - 1) * sh + (kh - 1) * dh + 1, COLUMNS=(tw - 1) * sw + (kw - 1) * dw + 1,
        ROW_STEP=dh if th == 1 else 1, COLUMN_STEP=dw if tw == 1 else 1,
        IS_CLAMPED=int(problem.mode == "max" and _meets_input(problem, window)),
        UNROLL=64 if window.loads <= UNROLLED_LOADS else 1,
    ))


def _lanes(problem: PoolProblem) -> str:
    is_max = problem.mode == "max"
    if is_max and problem.vector % 2 == 0 and problem.x_type in ("f16", "bf16"):
        is_half = problem.x_type == "f16"
        text = _PACKED.replace("@PTX@", "f16x2" if is_half else "bf16x2")
        return text.replace("@LOWEST@", "0xfc00fc00" if is_half else "0xff80ff80")
    identity = lowest(problem.accumulator) if is_max else "(A)0"
    combine = "nan_max(v[j], other.v[j])" if is_max else "v[j] + other.v[j]"
    return _WIDE.replace("@IDENTITY@", identity).replace("@COMBINE@", combine)


def lowest(accumulator: str) -> str:
    """What no value of an accumulator type is less than."""
    return {
        "i64": "(i64)(1ull << 63)", "i32": "(i32)(1u << 31)", "double": "-(double)t2r_infinity()",
    }.get(accumulator, "-t2r_infinity()")


def _coordinates(problem: PoolProblem) -> str:
    """C++ that splits ``i`` into n, c, od, oh and ow, the innermost axis first."""
    th, tw = problem.tile
    od, oh, ow = problem.out_sizes
    spatial = [("ow", -(-ow // tw), tw), ("oh", -(-oh // th), th), ("od", od, 1)]
    channel = ("c", problem.channels // problem.vector, problem.vector)
    order = [channel, *spatial] if problem.is_channels_last else [*spatial, channel]
    lines = []
    for name, size, step in order:
        scale = f" * {step}u" if step > 1 else ""
        value = "0u" if size == 1 else f"i % {size}u{scale}"
        lines.append(f"    const INDEX {name} = {value};" + (f" i /= {size}u;" if size > 1 else ""))
    return "\n".join([*lines, "    const INDEX n = i;", ""])


def _store(problem: PoolProblem) -> str:
    names = ("n", "c", "od", "ph", "pw")

    def offset(strides: tuple[int, ...]) -> str:
        terms = [f"{name} * (INDEX){stride}u" for name, stride in zip(names, strides, strict=True)
                 if stride]
        return " + ".join(terms) or "(INDEX)0"

    divide = ""
    if problem.mode == "mean":
        window = problem.window
        if window is None:
            divide = _DIVIDE_BY_WINDOW.replace("@WINDOW@", "(z1 - z0) * (y1 - y0) * (x1 - x0)")
        elif window.count_padding or not _has_edges(problem, window):
            divide = _DIVIDE_BY_WINDOW.replace("@WINDOW@", str(window.loads))
        else:
            divide = _DIVIDE_BY_COUNT
    # Vectors lie along c; an operand's strides end with that of c, as `Extra` wants them.
    offsets = [
        offset((strides[0], strides[4], *strides[1:4]))
        for strides in (extra.strides for extra in problem.epilogue.extras)
    ]
    result, width = str(problem.epilogue.result), problem.vector
    apply = str(problem.epilogue.apply("value", offsets, width))
    text = _STORE.replace("@DIVIDE@", divide).replace("@Y@", offset(problem.y_strides))
    return text.replace("@RESULT@", result).replace("@EPILOGUE@", apply)


def _meets_input(problem: PoolProblem, window: Window) -> bool:
    """Whether every window has an element inside, and so the nearest one to each outside."""
    if window.dilation != (1, 1, 1):
        return False
    return all(
        before < kernel and (out - 1) * stride - before < size
        for before, kernel, out, stride, size in zip(
            window.before, window.kernel, problem.out_sizes, window.stride, problem.sizes,
            strict=True,
        )
    )


def _has_edges(problem: PoolProblem, window: Window) -> bool:
    """Whether some window reaches beyond the input."""
    return any(
        before > 0 or (out - 1) * stride - before + kernel > size
        for before, out, stride, kernel, size in zip(
            window.before, problem.out_sizes, window.stride, window.kernel, problem.sizes,
            strict=True,
        )
    )
