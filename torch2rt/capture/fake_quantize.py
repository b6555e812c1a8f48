"""Fake-quantize modules of QAT, with their flags and ranges as they are when a model is captured.

torch.ao's and torchao's modules ask two buffers whether to observe and whether to quantize, which
no graph can follow; what they do at inference is one operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import nn

from torch2rt.capture.errors import CaptureError

# Each library has a class of this name; neither is imported for it.
_BASE = "FakeQuantizeBase"
_FIXED = "FixedQParamsFakeQuantize"  # what it observes changes nothing


class _Observer(Protocol):
    quant_min: int
    quant_max: int


class _FakeQuantize(Protocol):
    """What both libraries' modules have."""

    observer_enabled: torch.Tensor
    fake_quant_enabled: torch.Tensor
    activation_post_process: _Observer
    scale: torch.Tensor
    zero_point: torch.Tensor
    is_per_channel: bool
    ch_axis: int


def settle_fake_quantize(model: nn.Module) -> None:
    """Replace ``forward`` of the fake-quantize modules of a copy by what they do now, in place.

    CaptureError for a module that still observes: every call changes its range.
    """
    for path, module in model.named_modules():
        names = {base.__name__ for base in type(module).__mro__}
        if _BASE not in names or not isinstance(getattr(module, "scale", None), torch.Tensor):
            continue
        found = cast(_FakeQuantize, module)
        if bool(found.observer_enabled.any()) and _FIXED not in names:
            raise CaptureError(
                model=type(model).__name__, where=f" in {path}", reason="its fake quantization "
                "still observes, so that every call changes the range",
                remedy="Stop it: model.apply(torch.ao.quantization.disable_observer).",
            )
        module.forward = _settled(found)


def _settled(module: _FakeQuantize) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the module does now.

    By PT2E's operators, which can be traced with a free batch; torch.fake_quantize's cannot.
    """
    if not bool(module.fake_quant_enabled.any()):
        return lambda X: X
    import torch.ao.quantization.fx._decomposed  # registers the operators

    operators = torch.ops.quantized_decomposed
    observer, scale, zero_point = module.activation_post_process, module.scale, module.zero_point
    low, high = int(observer.quant_min), int(observer.quant_max)
    limits = (low, high, _stored(low, high))
    if not module.is_per_channel:
        step, zero = float(scale), int(zero_point)
        return lambda X: operators.dequantize_per_tensor(
            operators.quantize_per_tensor(X, step, zero, *limits), step, zero, *limits
        )
    axis = int(module.ch_axis)
    return lambda X: operators.dequantize_per_channel(
        operators.quantize_per_channel(X, scale, zero_point, axis, *limits),
        scale, zero_point, axis, *limits,
    )


def _stored(low: int, high: int) -> torch.dtype:
    """The smallest integers that hold a range."""
    for dtype in (torch.uint8, torch.int8, torch.int16):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return dtype
    return torch.int32
