"""Cases of Triton tactics over bytes, put beside those of triton_cases.py."""

from __future__ import annotations

from functools import partial

import torch
from cuda_testing import check_cuda_tactic
from triton_cases import CASES, GPU_CASES, Case, values

from torch2rt.backends.cuda.triton import tiles as triton_tiles
from torch2rt.layers.attention import Attention
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

# Of bytes made of floats, so many may be one off on a GPU, which joins products and sums.
FLIPS = 2e-3
SUM = "add(mul(to_float32(i0),i1),i2)"
RELU = f"relu({SUM})"
BYTES = f"to_int8(clamp(round(mul({RELU},40.0)),-128.0,127.0))"
SIGNED_BYTES = f"to_int8(clamp(round(mul({SUM},30.0)),-128.0,127.0))"
RESIDUAL = f"add({SUM},mul(to_float32(i3),0.02))"
RESIDUAL_BYTES = f"to_int8(clamp(round(mul(relu({RESIDUAL}),25.0)),-128.0,127.0))"
HALF_RESIDUAL_BYTES = f"to_int8(clamp(round(mul(add({SUM},i3),25.0)),-127.0,127.0))"


def bytes_of(*shape: int, seed: int = 0) -> torch.Tensor:
    """Bytes over the whole range, always the same."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


def operands(
    x: tuple[int, ...], w: tuple[int, ...], vector: tuple[int, ...], epilogue: str | None,
    result: tuple[int, ...], residual: torch.dtype = torch.int8,
) -> list[torch.Tensor]:
    """A layer's operands: scales and bias of shape ``vector``, a residual like the result."""
    inputs = [bytes_of(*x), bytes_of(*w, seed=1).clamp(min=-127)]
    if epilogue is None:
        return inputs
    terms = w[-1] if len(w) == 2 else w[1] * w[2] * w[3]
    generator = torch.Generator().manual_seed(sum(w))
    scale = (0.5 + torch.rand(vector, generator=generator)) / (terms**0.5 * 74 * 74)
    inputs += [scale, torch.randn(vector, generator=generator)]
    if "i3" in epilogue:
        bytes = bytes_of(*result, seed=2)
        inputs.append(bytes if residual is torch.int8 else (bytes / 64).to(residual))
    return inputs


def matmul_case(
    name: str, tactic: str, m: tuple[int, ...], n: int, k: int, epilogue: str | None = BYTES,
    out: DType = DType.INT8, residual: torch.dtype = torch.int8, *, is_constant: bool = True,
    pitched: dict[str, int] | None = None, table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a product [*m, k] x [n, k]."""

    def run() -> object:
        inputs = operands((*m, k), (n, k), (n,), epilogue, (*m, n), residual)
        constants = [1, *range(2, min(4, len(inputs)))] if is_constant else []
        return check_cuda_tactic(
            f"matmul.triton.{tactic}", Matmul(transpose_b=True), inputs, epilogue,
            constants=constants, pitched=pitched, out_dtype=out,
            tolerance=FLIPS if out is not DType.INT32 else None,
        )

    table["matmul"][f"bytes-{name}-{tactic}"] = run


def convolution_case(
    name: str, tactic: str, x: tuple[int, ...], w: tuple[int, ...], epilogue: str = BYTES,
    out: DType = DType.INT8, residual: torch.dtype = torch.int8, *, stride: int = 1,
    padding: int = 0, pitched: dict[str, int] | None = None,
    table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a convolution."""

    def run() -> object:
        size = [(s + 2 * padding - r) // stride + 1 for s, r in zip(x[2:], w[2:], strict=True)]
        inputs = operands(x, w, (w[0], 1, 1), epilogue, (x[0], w[0], *size), residual)
        kind = Convolution((stride,) * 2, (padding,) * 2, (padding,) * 2, (1, 1))
        return check_cuda_tactic(
            f"convolution.triton.{tactic}", kind, inputs, epilogue, constants=(1, 2, 3),
            pitched=pitched, out_dtype=out, tolerance=FLIPS,
        )

    table["convolution"][f"bytes-{name}-{tactic}"] = run


for _tactic in ("tma_64x64x64", "tma_128x64x64_split2", "pointer_64x64x64"):
    _case = partial(matmul_case, tactic=_tactic)
    _k = 1024 if "split" in _tactic else 272
    _case("residual", m=(2, 35), n=80, k=_k, epilogue=RESIDUAL_BYTES)
    _case("half-residual", m=(65,), n=80, k=_k, epilogue=HALF_RESIDUAL_BYTES,
          residual=torch.float16)
    _case("halves", m=(65,), n=80, k=_k, epilogue=RELU, out=DType.FLOAT16)
    if "split" not in _tactic:
        _case("sums", m=(70,), n=72, k=_k + 16, epilogue=None, out=DType.INT32)
        _case("pitched", m=(3, 40), n=48, k=_k, epilogue=RESIDUAL_BYTES,
              pitched={"i0": 1, "i4": 1, "o0": 1})
        _case("not-constant", m=(40,), n=48, k=_k, epilogue=SIGNED_BYTES, is_constant=False)
        _case("few-terms", m=(80,), n=64, k=208, epilogue=RESIDUAL_BYTES)
matmul_case("split", "pointer_32x64x64_split4", m=(20,), n=40, k=1024, epilogue=RESIDUAL_BYTES)
matmul_case("many-tiles", "tma_256x64x32", m=(700,), n=192, k=64, epilogue=RESIDUAL_BYTES)
matmul_case("many-tiles", "tma_128x256x32", m=(300,), n=512, k=64, epilogue=RESIDUAL_BYTES)
matmul_case("odd", "pointer_64x64x64", m=(33,), n=37, k=301, epilogue=RESIDUAL_BYTES)


def float8_case(
    name: str, tactic: str, m: tuple[int, ...], n: int, k: int, epilogue: str, *,
    out: DType = DType.FLOAT16, table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register a product of float8 with a scale, a bias and a residual."""

    def run() -> object:
        generator = torch.Generator().manual_seed(k)
        inputs = [torch.randn(*m, k, generator=generator), torch.randn(n, k, generator=generator)]
        inputs = [(8 * x).to(torch.float8_e4m3fn) for x in inputs]
        inputs += [torch.rand(n, generator=generator) / (8 * k**0.5), torch.randn(n)]
        inputs += [torch.randn(*m, n).half()] if "i3" in epilogue else []
        return check_cuda_tactic(
            f"matmul.triton.{tactic}", Matmul(transpose_b=True), inputs, epilogue,
            constants=(1, 2, 3), out_dtype=out,
        )

    table["matmul"][f"bytes-float8-{name}-{tactic}"] = run


_FLOAT8 = "add(mul(i0,i1),i2)"
for _tactic in ("tma_64x64x64", "tma_64x64x64_split4", "pointer_64x64x64"):
    float8_case("gelu", _tactic, m=(2, 35), n=80, k=1040, epilogue=f"gelu({_FLOAT8})")
    float8_case("residual", _tactic, m=(70,), n=96, k=1040, epilogue=f"add({_FLOAT8},i3)")
for _tactic in ("tma_64x64x64", "pointer_64x64x64"):
    _conv = partial(convolution_case, tactic=_tactic)
    _conv("1x1", x=(2, 272, 5, 7), w=(48, 272, 1, 1), epilogue=RESIDUAL_BYTES)
    _conv("1x1-halves", x=(2, 272, 5, 7), w=(48, 272, 1, 1), epilogue=RELU, out=DType.FLOAT16)
for _tactic in ("gather_64x64x64", "box_64x64x64"):
    _conv = partial(convolution_case, tactic=_tactic)
    _conv("3x3-residual", x=(2, 128, 6, 7), w=(48, 128, 3, 3), padding=1,
          epilogue=RESIDUAL_BYTES)
    _conv("3x3-stride", x=(2, 128, 10, 14), w=(48, 128, 3, 3), stride=2, padding=1)
    _conv("3x3-pitched", x=(2, 128, 6, 5), w=(48, 128, 3, 3), padding=1, epilogue=RELU,
          out=DType.FLOAT16, pitched={"i0": 1, "o0": 1})
    _conv("1x1-stride", x=(2, 128, 6, 8), w=(32, 128, 1, 1), stride=2)
    _conv("3x3-few", x=(2, 80, 6, 7), w=(32, 80, 3, 3), padding=1)
for _tactic, _c in (("gather_32x32x64_split8", 256), ("box_32x64x64_split4", 128)):
    convolution_case("split", _tactic, x=(1, _c, 3, 5), w=(32, _c, 3, 3), padding=1)
convolution_case("3x3-64", "box_128x64x32", x=(1, 64, 9, 8), w=(64, 64, 3, 3), padding=1)
convolution_case("odd", "gather_64x64x64", x=(1, 19, 5, 6), w=(37, 19, 3, 3), padding=1)

for _tile in triton_tiles.BYTE_MAP_TILES:
    matmul_case("large", f"tma_{_tile.name}", m=(2, 515), n=592, k=4096,
                epilogue=RESIDUAL_BYTES, table=GPU_CASES)
for _tile in triton_tiles.BYTE_BOX_TILES:
    convolution_case("large", f"box_{_tile.name}", x=(3, 512, 19, 17), w=(144, 512, 3, 3),
                     padding=1, table=GPU_CASES)


def attention_case(
    name: str, tactic: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...],
    mask: torch.Tensor | None = None, *, out: DType = DType.FLOAT16, is_causal: bool = False,
    is_grouped: bool = False, heads_last: bool = False, pitched: dict[str, int] | None = None,
    table: dict[str, dict[str, Case]] = CASES,
) -> None:
    """Register attention over float8, whose largest is 448 times a scale."""

    def run() -> object:
        inputs = [
            (100 * values(*shape, dtype=torch.float32, seed=seed)).to(torch.float8_e4m3fn)
            for seed, shape in enumerate((q, k, v))
        ]
        inputs += [mask] if mask is not None else []
        kind = Attention(
            q[-1] ** -0.5 * 1e-4, is_causal, mask is not None, is_grouped,
            heads_last, heads_last, heads_last, heads_last,
        )
        is_stored = out is DType.FLOAT8_E4M3
        epilogue = "clamp(mul(mul(i0,0.01),80.0),-448.0,448.0)" if is_stored else "mul(i0,0.01)"
        # Shares are float16, off by 2^-11; float8 is off by a step, an eighth of the largest.
        tolerance = {DType.FLOAT32: 2.0**-10, DType.FLOAT8_E4M3: 2.0**-3}.get(out)
        return check_cuda_tactic(
            f"attention.triton.{tactic}", kind, inputs, epilogue, pitched=pitched, out_dtype=out,
            tolerance=tolerance,
        )

    table["attention"][f"bytes-{name}-{tactic}"] = run


_HIDES = torch.rand(2, 1, 1, 70, generator=torch.Generator().manual_seed(0)) > 0.3
_ADDED = values(90, 70)
for _tactic in ("tma_64x64", "pointer_64x64"):
    _attend = partial(attention_case, tactic=_tactic, q=(2, 90, 64), k=(2, 70, 64), v=(2, 70, 64))
    _attend("to-float8", out=DType.FLOAT8_E4M3)
    attention_case("hiding-mask", _tactic, (2, 1, 90, 64), (2, 1, 70, 64), (2, 1, 70, 64),
                   mask=_HIDES, out=DType.FLOAT32)
    _attend("added-mask", mask=_ADDED, out=DType.FLOAT8_E4M3)
    attention_case("causal", _tactic, (2, 150, 32), (2, 150, 32), (2, 150, 32), is_causal=True)
    attention_case("odd-features", _tactic, (2, 90, 48), (2, 70, 48), (2, 70, 16))
    attention_case("heads-last", _tactic, (2, 70, 2, 64), (2, 70, 2, 64), (2, 70, 2, 64),
                   heads_last=True, pitched={"i0": 2, "i1": 2, "i2": 2, "o0": 2},
                   out=DType.FLOAT8_E4M3)
    attention_case("grouped", _tactic, (1, 4, 70, 64), (1, 2, 70, 64), (1, 2, 70, 64),
                   is_grouped=True)
attention_case("few-features", "pointer_64x64", (2, 40, 5), (2, 30, 5), (2, 30, 3))
_many = (4, 12, 300, 64)
for _tactic in ("tma_64x64", "tma_64x128", "tma_128x64", "tma_128x128"):
    for _out in (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT8_E4M3):
        attention_case(f"many-{_out.value}", _tactic, _many, _many, _many, out=_out,
                       table=GPU_CASES)
attention_case("wide", "tma_64x64", (2, 300, 256), (2, 300, 256), (2, 300, 256), table=GPU_CASES)
