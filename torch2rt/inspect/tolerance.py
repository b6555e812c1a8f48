"""How far a result may be from the reference: one table, by precision.

Errors are relative norms, ||got - want|| / ||want||, over one tensor.
"""

from __future__ import annotations

import math

import torch

from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind

# Whole networks, engine against the model in eager float32. Eager itself is off float64 in fp16
# by 6e-4 (MobileNetV2), 1.3e-3 (ResNet-50) and 1.6e-3 (BERT-base), in bf16 by eight times as
# much. TF32 has the bits of fp16, and every layer rounds what it reads to them as fp16 rounds what
# it writes: the same bound. What is further off than this is compared with eager's own error at
# that precision.
NETWORK = {"fp32": 1e-4, "tf32": 4e-3, "fp16": 4e-3, "bf16": 6e-2}
# One layer, backend against reference on the same inputs: a few roundings of the result's dtype;
# of float8 the few values that fall to the other side of a rounding.
LAYER = {
    DType.FLOAT64: 1e-12, DType.FLOAT32: 2e-5, DType.BFLOAT16: 8e-3, DType.FLOAT16: 1e-3,
    DType.FLOAT8_E4M3: 3e-2,
}

# One layer whose float32 operands are rounded to TF32 first.
_TF32_LAYER = 1e-3
# Of a layer's results in 8 bits, so many may be one step off: roundings that go the other way.
_ONE_STEP_OFF = 1e-2


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want|| in float64; 0 when both are equal, NaN equal to NaN.

    Infinite where they differ in a NaN, an infinity or, for integers and bools, in any element.
    """
    if got.shape != want.shape:
        return math.inf
    if not want.dtype.is_floating_point:
        return 0.0 if torch.equal(got, want.to(got.dtype)) else math.inf
    got, want = got.double(), want.double()
    special = ~torch.isfinite(want) | ~torch.isfinite(got)
    if special.any():
        same = (got == want) | (got.isnan() & want.isnan())
        if not bool(same[special].all()):
            return math.inf
        got, want = got[~special], want[~special]
    difference = float(torch.linalg.vector_norm(got - want))
    scale = float(torch.linalg.vector_norm(want))
    if difference == 0.0:
        return 0.0
    return difference / scale if scale > 0 else math.inf


def layer_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The error of one layer's result: of 8 bits the share that is one step off, else relative.

    Infinite where 8 bits are further off.
    """
    if want.dtype not in (torch.int8, torch.uint8) or got.shape != want.shape or not want.numel():
        return relative_error(got, want)
    steps = (got.to(torch.int16) - want.to(torch.int16)).abs()
    return float((steps > 0).double().mean()) if int(steps.max()) <= 1 else math.inf


def layer_tolerance(kind: LayerKind, dtype: DType) -> float:
    """Allowed error of one layer whose result has this dtype; 0 for wide integers and bools."""
    if dtype in EIGHT_BITS:
        return _ONE_STEP_OFF
    allowed = LAYER.get(dtype, 0.0)
    return max(allowed, _TF32_LAYER) if getattr(kind, "tf32", False) else allowed
