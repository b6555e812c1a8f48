"""Cases of Triton tactics, run by the interpreter (triton_interpreter.py) and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cuda_testing import check_cuda_tactic

from torch2rt.backends.cuda.triton import tiles as triton_tiles
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul

Case = Callable[[], object]
CASES: dict[str, dict[str, Case]] = {"matmul": {}, "convolution": {}, "attention": {}}
# What the interpreter cannot do: bfloat16, TF32; and sizes that take it too long.
GPU_CASES: dict[str, dict[str, Case]] = {"matmul": {}, "convolution": {}, "attention": {}}
EPILOGUE_CASES: dict[str, dict[str, Case]] = {"matmul": {}}
# Counts of the model of time, raised so that every tile takes a layer.
LIMITS = (
    "WORTH_COMPILING", "POINTERS_BESIDE_MAPS", "BOXES_WORTH_COMPILING", "GATHERS_WORTH_COMPILING",
    "PATCHES_WORTH_COMPILING", "BESIDE_WGMMA", "SHARING_BLOCKS_PER_MULTIPROCESSOR",
)
# The largest box beside which the shared memory holds a residual.
RESIDUAL_BOX = 128 * 128


def values(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    """Normal numbers, always the same."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def matmul_case(
    name: str, tactic: str, a: tuple[int, ...], b: tuple[int, ...], epilogue: str | None = None,
    extras: tuple[tuple[int, ...], ...] = (), dtype: torch.dtype = torch.float16, *,
    constants: tuple[int, ...] = (1,), pitched: dict[str, int] | None = None,
    transpose_a: bool = False, transpose_b: bool = True, tf32: bool = False,
    extra_dtype: torch.dtype | None = None, table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a case."""

    def run() -> object:
        inputs = [values(*a, dtype=dtype), values(*b, dtype=dtype, seed=1)]
        inputs += [
            values(*shape, dtype=extra_dtype or (dtype if len(shape) > 1 else torch.float32))
            for shape in extras
        ]
        kind = Matmul(transpose_a=transpose_a, transpose_b=transpose_b, tf32=tf32)
        return check_cuda_tactic(
            f"matmul.triton.{tactic}", kind, inputs, epilogue, constants=constants,
            pitched=pitched, tolerance=2e-3 if tf32 else None,
        )

    table["matmul"][f"{name}-{tactic}"] = run


_BIAS = "add(i0,i1)"
_RESIDUAL = "relu(add(add(i0,i1),i2))"
for _tactic in ("tma_64x64x64", "tma_128x64x64_split2", "tma_64x32x128_split2",
                "pointer_64x64x64", "pointer_32x64x64_split4"):
    _case = partial(matmul_case, tactic=_tactic)
    _case("even", a=(128, 512), b=(64, 512))
    _case("odd-bias", a=(70, 520), b=(72, 520), epilogue=_BIAS, extras=((72,),))
    _case("residual", a=(2, 65, 512), b=(80, 512), epilogue=_RESIDUAL,
          extras=((80,), (2, 65, 80)), constants=(1, 2))
    _case("straight", a=(64, 512), b=(512, 64), transpose_b=False)
    _case("not-constant", a=(40, 512), b=(512, 48), transpose_b=False, constants=())
    _case("rows-not-constant", a=(40, 512), b=(48, 512), constants=())
    _case("pitched", a=(3, 40, 512), b=(48, 512), epilogue="silu(add(i0,i1))",
          extras=((3, 40, 48),), pitched={"i0": 1, "i2": 1, "o0": 1})
    _case("one-row", a=(1, 512), b=(48, 512), epilogue="mul(add(i0,i1),2.0)", extras=((48,),))
    _case("scalar", a=(17, 512), b=(16, 512), epilogue="gelu(mul(i0,i1))", extras=((1,),))
for _tactic in ("tma_64x64x64", "tma_128x128x64_alone", "tma_128x256x64"):
    matmul_case("many-tiles", _tactic, a=(500, 128), b=(520, 128), epilogue=_RESIDUAL,
                extras=((520,), (500, 520)))
for _tactic, _k in (
    ("pointer_64x64x64", 300), ("pointer_16x32x256", 300), ("pointer_64x32x64_split4", 500),
):
    _case = partial(matmul_case, tactic=_tactic)
    _case("batch", a=(2, 3, 33, _k), b=(2, 3, _k, 20), transpose_b=False, constants=())
    _case("broadcast", a=(2, 1, 33, _k), b=(3, _k, 20), transpose_b=False, constants=())
    _case("batch-residual", a=(2, 10, _k), b=(2, _k, 20), transpose_b=False, constants=(),
          epilogue="add(i0,i1)", extras=((2, 10, 20),))
    _case("repeated-residual", a=(2, 10, _k), b=(24, _k), epilogue="add(i0,i1)",
          extras=((10, 24),), constants=(1, 2), extra_dtype=torch.float16)
    _case("odd", a=(5, _k + 1), b=(7, _k + 1), epilogue=_BIAS, extras=((7,),))
    _case("transposed", a=(_k + 1, 21), b=(_k + 1, 7), transpose_a=True, transpose_b=False)
    _case("fp32", a=(50, _k + 1), b=(33, _k + 1), epilogue=_RESIDUAL, extras=((33,), (50, 33)),
          dtype=torch.float32)


def epilogue_case(epilogue: str, table: dict[str, dict[str, Case]]) -> None:
    """Register an epilogue."""
    extras = ((24,),) if "i1" in epilogue else ()
    matmul_case(
        epilogue[:40], "pointer_16x32x256", (20, 16), (24, 16), epilogue, extras, torch.float32,
        table=table,
    )


_EPILOGUES = []


for _op in ("relu", "abs", "neg", "sign", "floor", "ceil", "round", "trunc", "exp", "exp2", "expm1",
            "square", "reciprocal", "sin", "cos", "atan", "tanh", "sinh", "asinh", "erf",
            "sigmoid", "gelu", "gelu_tanh", "silu", "softplus", "mish", "hardswish", "hardsigmoid",
            "isnan", "isinf", "logical_not", "to_float16"):
    _EPILOGUES.append(f"{_op}(add(i0,i1))")
for _op in ("sub", "mul", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "logical_and",
            "logical_or", "logical_xor", "atan2"):
    _EPILOGUES.append(f"{_op}(i0,i1)")
for _text in ("sqrt(abs(add(i0,i1)))", "rsqrt(add(square(i0),1.0))", "log(add(abs(i0),0.5))",
              "log1p(abs(i0))", "log2(add(abs(i0),0.5))", "log10(add(abs(i0),0.5))",
              "clamp(add(i0,i1),-1.0,1.5)", "leaky_relu(i0,0.1)", "elu(i0,1.5)",
              "where(gt(i0,i1),i0,0.0)", "pow(i0,2)", "pow(i0,3)", "pow(abs(i0),0.3)",
              "div(i0,add(abs(i1),1.0))", "min(max(i0,-inf),6.0)"):
    _EPILOGUES.append(_text)
for _text in _EPILOGUES:
    epilogue_case(_text, EPILOGUE_CASES)
# On a GPU, eight at a time.
for _first in range(0, len(_EPILOGUES), 8):
    _sum = _EPILOGUES[_first]
    for _text in _EPILOGUES[_first + 1 : _first + 8]:
        _sum = f"add({_sum},{_text})"
    epilogue_case(_sum, GPU_CASES)


def convolution_case(
    name: str, tactic: str, x: tuple[int, ...], w: tuple[int, ...], epilogue: str | None = None,
    extras: tuple[tuple[int, ...], ...] = (), dtype: torch.dtype = torch.float16, *,
    stride: int = 1, before: int = 0, after: int | None = None, dilation: int = 1,
    pitched: dict[str, int] | None = None, constants: tuple[int, ...] = (1, 2),
    tf32: bool = False, table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a case."""

    def run() -> object:
        inputs = [values(*x, dtype=dtype), values(*w, dtype=dtype, seed=1)]
        inputs += [
            values(*shape, dtype=dtype if len(shape) > 3 else torch.float32) for shape in extras
        ]
        spatial = len(w) - 2
        kind = Convolution(
            (stride,) * spatial, (before,) * spatial,
            (before if after is None else after,) * spatial, (dilation,) * spatial, tf32=tf32,
        )
        return check_cuda_tactic(
            f"convolution.triton.{tactic}", kind, inputs, epilogue,
            constants=[i for i in constants if i < len(inputs)], pitched=pitched,
            tolerance=2e-3 if tf32 else None,
        )

    table["convolution"][f"{name}-{tactic}"] = run


for _tactic in ("tma_64x64x64", "tma_64x64x128_split2", "pointer_64x64x64",
                "pointer_64x32x64_split4"):
    _conv = partial(convolution_case, tactic=_tactic)
    _conv("1x1", x=(2, 512, 5, 7), w=(48, 512, 1, 1), epilogue=_RESIDUAL,
          extras=((48, 1, 1), (2, 48, 5, 7)))
    _conv("1x1-one-image", x=(1, 512, 7, 7), w=(64, 512, 1, 1), epilogue=_BIAS,
          extras=((64, 1, 1),))
    _conv("1x1-pitched", x=(2, 512, 5, 7), w=(48, 512, 1, 1), epilogue=_RESIDUAL,
          extras=((48, 1, 1), (2, 48, 5, 7)), pitched={"i0": 1, "i3": 1, "o0": 1})
for _tactic in ("gather_64x64x64", "gather_32x32x64_split8", "box_64x64x64",
                "box_32x64x64_split4"):
    _conv = partial(convolution_case, tactic=_tactic)
    _c = 128 if "split8" in _tactic else 64
    _conv("3x3", x=(2, 128, 9, 11), w=(40, 128, 3, 3), epilogue=_RESIDUAL,
          extras=((40, 1, 1), (2, 40, 9, 11)), before=1)
    _conv("3x3-stride", x=(2, _c, 10, 14), w=(40, _c, 3, 3), stride=2, before=1,
          epilogue=_BIAS, extras=((40, 1, 1),))
    _conv("5x5-stride", x=(1, 64, 10, 14), w=(40, 64, 5, 5), stride=2, before=2,
          epilogue=_BIAS, extras=((40, 1, 1),))
    _conv("3x3-dilated", x=(1, _c, 9, 11), w=(40, _c, 3, 3), before=2, dilation=2)
    _conv("asymmetric", x=(1, _c, 9, 11), w=(40, _c, 3, 3), before=0, after=2)
    _conv("3x3-pitched", x=(2, _c, 6, 10), w=(40, _c, 3, 3), epilogue=_RESIDUAL,
          extras=((40, 1, 1), (2, 40, 6, 10)), before=1,
          pitched={"i0": 1, "i3": 1, "o0": 1})
    _conv("stride-pitched", x=(2, _c, 6, 10), w=(40, _c, 3, 3), stride=2, before=1,
          pitched={"i0": 1, "o0": 1})
    _conv("batch", x=(20, _c, 3, 3), w=(40, _c, 3, 3), before=1)
    if "split" not in _tactic:
        _conv("odd-channels", x=(2, 72, 6, 7), w=(24, 72, 3, 3), before=1)
        _conv("1x1-stride", x=(2, 64, 6, 8), w=(24, 64, 1, 1), stride=2)
for _tactic in ("gather_64x64x64", "gather_128x32x16"):
    _conv = partial(convolution_case, tactic=_tactic)
    _conv("three-channels", x=(2, 3, 13, 15), w=(17, 3, 7, 7), stride=2, before=3,
          epilogue=_BIAS, extras=((17, 1, 1),))
    _conv("fp32", x=(2, 20, 9, 9), w=(17, 20, 3, 3), before=1, dtype=torch.float32,
          epilogue=_BIAS, extras=((17, 1, 1),))
for _tactic in ("patches_64x64x64", "patches_64x32x64", "patches_64x64x64_split2"):
    _conv = partial(convolution_case, tactic=_tactic)
    _conv("patches", x=(2, 3, 48, 64), w=(72, 3, 16, 16), stride=16, epilogue=_BIAS,
          extras=((72, 1, 1),))
    _conv("overlapping", x=(2, 5, 23, 19), w=(24, 5, 7, 7), stride=4, epilogue=_RESIDUAL,
          extras=((24, 1, 1), (2, 24, 5, 4)), pitched={"i3": 1, "o0": 1})
    _conv("gray", x=(2, 1, 32, 40), w=(24, 1, 14, 14), stride=14)

_TILES = (triton_tiles.MAP_TILES, triton_tiles.POINTER_TILES, triton_tiles.BOX_TILES,
          triton_tiles.GATHER_TILES)
for _reader, _tiles in zip(("tma", "pointer", "box", "gather"), _TILES, strict=True):
    for _tile in _tiles:
        _tactic = f"{_reader}_{_tile.name}"
        if _reader in ("tma", "pointer"):
            matmul_case(
                "large", _tactic, a=(2, 515, 2048), b=(584, 2048), epilogue=_RESIDUAL,
                extras=((584,), (2, 515, 584)), table=GPU_CASES,
            )
        else:
            _fits = _reader == "gather" or _tile.m * _tile.n <= RESIDUAL_BOX
            convolution_case(
                "large", _tactic, x=(3, 256, 19, 17), w=(136, 256, 3, 3), before=1,
                epilogue=_RESIDUAL if _fits else _BIAS,
                extras=((136, 1, 1), (3, 136, 19, 17))[: 2 if _fits else 1], table=GPU_CASES,
            )
for _dtype, _tf32 in ((torch.bfloat16, False), (torch.float32, True)):
    _kind = "tf32" if _tf32 else "bf16"
    for _tactic in ("tma_128x128x64", "tma_64x64x128_split2", "pointer_64x64x64"):
        matmul_case(
            _kind, _tactic, a=(300, 1040), b=(264, 1040), epilogue="gelu(add(i0,i1))",
            extras=((264,),), dtype=_dtype, tf32=_tf32, table=GPU_CASES,
        )
        convolution_case(
            f"1x1-{_kind}", _tactic, x=(2, 512, 14, 14), w=(264, 512, 1, 1), epilogue=_BIAS,
            extras=((264, 1, 1),), dtype=_dtype, tf32=_tf32, table=GPU_CASES,
        )
    for _tactic in ("box_64x64x64", "box_64x64x64_split2", "gather_64x64x64"):
        convolution_case(
            f"3x3-{_kind}", _tactic, x=(2, 128, 14, 14), w=(264, 128, 3, 3), before=1,
            epilogue=_RESIDUAL, extras=((264, 1, 1), (2, 264, 14, 14)), dtype=_dtype, tf32=_tf32,
            table=GPU_CASES,
        )
for _dtype in (torch.float16, torch.float32):
    matmul_case(
        f"full-{_dtype}", "pointer_64x64x64", a=(300, 520), b=(264, 520), dtype=_dtype,
        table=GPU_CASES,
    )


def attention_case(
    name: str, tactic: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...],
    mask: torch.Tensor | None = None, dtype: torch.dtype = torch.float16, *,
    pitched: dict[str, int] | None = None, is_causal: bool = False, is_grouped: bool = False,
    heads_last: bool = False, table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a case."""

    def run() -> object:
        inputs = [values(*q, dtype=dtype), values(*k, dtype=dtype, seed=1),
                  values(*v, dtype=dtype, seed=2)]
        inputs += [mask] if mask is not None else []
        kind = Attention(
            q[-1] ** -0.5, is_causal, mask is not None, is_grouped,
            heads_last, heads_last, heads_last, heads_last,
        )
        return check_cuda_tactic(
            f"attention.triton.{tactic}", kind, inputs, pitched=pitched
        )

    table["attention"][f"{name}-{tactic}"] = run


_HIDES = torch.rand(2, 1, 1, 70, generator=torch.Generator().manual_seed(0)) > 0.3
_ADDED = torch.randn(3, 90, 70, generator=torch.Generator().manual_seed(0))
_ALL_HIDDEN = torch.ones(90, 70, dtype=torch.bool)
_ALL_HIDDEN[5] = False
for _tile in ("tma_64x64", "tma_64x128", "tma_128x128", "pointer_64x64", "pointer_128x64"):
    attention_case("plain", _tile, (2, 3, 90, 64), (2, 3, 70, 64), (2, 3, 70, 64))
    attention_case(
        "causal", _tile, (3, 150, 32), (3, 150, 32), (3, 150, 32), is_causal=True
    )
for _reader in ("tma", "pointer"):
    _attend = partial(attention_case, tactic=f"{_reader}_64x64")
    _attend("one-matrix", q=(90, 64), k=(70, 64), v=(70, 32))
    _attend("heads-last", q=(2, 90, 3, 64), k=(2, 70, 3, 64), v=(2, 70, 3, 64),
            heads_last=True)
    _attend("odd-features", q=(2, 3, 90, 40), k=(2, 3, 70, 40), v=(2, 3, 70, 24))
    _attend("hiding-mask", q=(2, 3, 90, 64), k=(2, 3, 70, 64), v=(2, 3, 70, 64), mask=_HIDES)
    _attend("added-mask", q=(2, 3, 90, 64), k=(2, 3, 70, 64), v=(2, 3, 70, 64),
            mask=_ADDED.half())
    _attend("hidden-row", q=(2, 90, 64), k=(2, 70, 64), v=(2, 70, 64), mask=_ALL_HIDDEN)
    _attend("pitched", q=(2, 90, 3, 64), k=(2, 70, 3, 64), v=(2, 70, 3, 64), heads_last=True,
            pitched={"i0": 2, "i1": 2, "i2": 2, "o0": 2})
    _attend("grouped", q=(2, 6, 90, 64), k=(2, 2, 70, 64), v=(2, 2, 70, 64), is_grouped=True)
    _attend("grouped-masked", q=(2, 6, 90, 64), k=(2, 2, 70, 64), v=(2, 2, 70, 64),
            is_grouped=True, mask=values(2, 6, 90, 70))
    _attend("all-share", q=(2, 4, 90, 64), k=(2, 1, 70, 64), v=(2, 1, 70, 64), is_grouped=True)
    _attend("grouped-heads-last", q=(2, 70, 6, 32), k=(2, 70, 2, 32), v=(2, 70, 2, 32),
            is_grouped=True, heads_last=True, is_causal=True)
_attend = partial(attention_case, tactic="pointer_64x64")
_attend("broadcast", q=(2, 3, 90, 64), k=(3, 70, 64), v=(70, 64))
_attend("tiny-features", q=(2, 3, 90, 5), k=(2, 3, 70, 5), v=(2, 3, 70, 3))
attention_case("fp32", "pointer_64x64", (2, 70, 17), (2, 50, 17), (2, 50, 20), dtype=torch.float32)
_many = (4, 12, 300, 64)
for _tile in ("tma_64x64", "tma_64x128", "tma_128x64", "tma_128x128"):
    attention_case("many", _tile, _many, _many, _many, table=GPU_CASES)
    attention_case("bf16", _tile, _many, _many, _many, dtype=torch.bfloat16, table=GPU_CASES)
attention_case(
    "wide", "tma_64x64", (2, 300, 256), (2, 300, 256), (2, 300, 256), table=GPU_CASES
)
