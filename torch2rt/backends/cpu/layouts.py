"""Which layouts and dtypes are worth it on this CPU."""

from __future__ import annotations

from functools import cache

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.epilogue import epilogue_refusal
from torch2rt.backends.cpu.jit import jit_unavailable, machine
from torch2rt.backends.cpu.quantized import is_quantized
from torch2rt.backends.spec import LayerSpec, Layout
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import DType

_FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


@cache
def instruction_set() -> str:
    """What oneDNN generates code for here, by its name; empty where there is no oneDNN."""
    try:
        return onednn.effective_isa()
    except onednn.OneDNNUnavailable:
        return ""


@cache
def has_wide_vectors() -> bool:
    """Whether oneDNN, or without it kernels of our own, use AVX-512 here."""
    if instruction_set():
        return instruction_set().startswith("avx512")
    return jit_unavailable() is None and machine().lanes == 16


def blocked_layout() -> Layout:
    """The blocked layout whose block fills a vector register."""
    return Layout.BLOCKED16 if has_wide_vectors() else Layout.BLOCKED8


@cache
def computes_in(dtype: DType) -> bool:
    """Whether oneDNN has fast kernels for a dtype here."""
    if dtype is DType.FLOAT32:
        return True
    isa = instruction_set()
    if dtype is DType.BFLOAT16:
        return isa.startswith("avx512")
    return dtype is DType.FLOAT16 and isa in ("avx512_core_fp16", "avx512_core_amx")


def is_supported_float(spec: LayerSpec) -> Refusal | None:
    """A refusal unless the layer's tensors are floats with fast kernels and the epilogue fits.

    An epilogue may store in 8 bits.
    """
    stored = [output for output in spec.outputs if output.dtype not in EIGHT_BITS]
    for tensor in (*spec.inputs[: spec.main_count], *(stored if spec.epilogue else spec.outputs)):
        if tensor.dtype not in _FLOATS:
            return Refusal(f"{tensor.dtype.value} is not computed by oneDNN's float kernels")
        if not computes_in(tensor.dtype):
            return Refusal(f"{instruction_set()} has no fast {tensor.dtype.value}")
    return epilogue_refusal(spec)


def is_supported_contraction(spec: LayerSpec) -> Refusal | None:
    """A refusal unless the layer multiplies floats with fast kernels, or bytes by signed bytes."""
    if not is_quantized(spec):
        return is_supported_float(spec)
    if spec.inputs[1].dtype is not DType.INT8:
        return Refusal("oneDNN's weights of 8 bits are signed")
    output = spec.outputs[0].dtype
    if output not in (*EIGHT_BITS, DType.INT32) and not (
        output in _FLOATS and computes_in(output)
    ):
        return Refusal(f"{output.value} is not what oneDNN's 8-bit kernels write")
    return epilogue_refusal(spec)


def spatial_layouts(rank: int) -> tuple[Layout, ...]:
    """The layouts that exist for a tensor of that rank, row-major first."""
    if not 3 <= rank <= 5:
        return (Layout.PLAIN,)
    return (Layout.PLAIN, Layout.CHANNELS_LAST, blocked_layout())
