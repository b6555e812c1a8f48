"""Runs descriptions of cuDNN graphs with torch, on the emulated device.

Written from cuDNN's documentation, apart from the code under test. It also asserts what cuDNN
asks of a graph: the first operand of a pointwise node has the shape of its result, literals come
last, channels and features are contiguous.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional

from torch2rt.backends.cuda.cudnn import tactic
from torch2rt.backends.cuda.cudnn.description import (
    GraphDescription,
    Literal,
    Node,
    Operand,
)
from torch2rt.backends.cuda.cudnn.plan import LoadedPlan, Plan
from torch2rt.backends.tactic import Weights
from torch2rt.torch_values import constant_to_torch

WORKSPACE_BYTES = 64


def _memory(address: int, operand: Operand) -> torch.Tensor:
    extent = 1 + sum((d - 1) * s for d, s in zip(operand.dims, operand.strides, strict=True))
    assert address % operand.dtype.itemsize_bytes == 0
    raw = (ctypes.c_char * (extent * operand.dtype.itemsize_bytes)).from_address(address)
    array = np.frombuffer(raw, operand.dtype.numpy)
    return constant_to_torch(array, operand.dtype).as_strided(operand.dims, operand.strides)


def relu(
    x: torch.Tensor, lower_clip: float = 0.0, upper_clip: float = math.inf,
    negative_slope: float = 0.0,
) -> torch.Tensor:
    """CuDNN's clipped rectifier: a line of this slope below the lower clip."""
    below = lower_clip + negative_slope * (x - lower_clip)
    return torch.where(x < lower_clip, below, x.clamp(max=upper_clip))


UNARY: dict[str, Callable[..., torch.Tensor]] = {
    "abs": torch.abs, "neg": torch.neg, "ceil": torch.ceil, "floor": torch.floor,
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos,
    "tan": torch.tan, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": relu,
    "gelu": functional.gelu, "swish": functional.silu, "elu": functional.elu,
    "gelu_approx_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "identity": torch.clone,
}
BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "max": torch.maximum, "min": torch.minimum,
}


def _convolution(
    x: torch.Tensor, w: torch.Tensor, is_integer: bool = False, **attributes: Sequence[int]
) -> torch.Tensor:
    assert not is_integer or not (x % 1).any(), "no integers"
    assert x.stride(1) == w.stride(1) == 1, "channels are not innermost"
    before, after = attributes["pre_padding"], attributes["post_padding"]
    pads = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    rank = len(before)
    groups = x.shape[1] // w.shape[1]
    return torch.convolution(
        functional.pad(x, pads), w, None, attributes["stride"], (0,) * rank,
        attributes["dilation"], False, (0,) * rank, groups,
    )


def _gradient(
    x: torch.Tensor, w: torch.Tensor, sizes: Sequence[int], **attributes: Sequence[int]
) -> torch.Tensor:
    """By autograd through the convolution."""
    assert x.stride(1) == w.stride(1) == 1, "channels are not innermost"
    image = torch.zeros(sizes).contiguous(memory_format=_last(len(sizes))).requires_grad_()
    with torch.enable_grad():
        forward = _convolution(image, w, **attributes)
    assert forward.shape == x.shape, f"a gradient of {x.shape} for a result of {forward.shape}"
    (result,) = torch.autograd.grad(forward, image, x)
    return result


def _last(rank: int) -> torch.memory_format:
    return torch.channels_last if rank == 4 else torch.channels_last_3d


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, is_causal: bool
) -> torch.Tensor:
    assert q.stride(3) == k.stride(3) == v.stride(3) == 1, "features are not contiguous"
    scores = scale * q @ _repeated(k, q).mT
    if is_causal:
        rows, columns = scores.shape[-2:]
        hidden = torch.arange(columns) > torch.arange(rows)[:, None]
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ _repeated(v, q)


def _repeated(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(like.shape[1] // x.shape[1], 1)


MAIN: dict[str, Callable[..., torch.Tensor]] = {
    "conv_fprop": _convolution, "conv_dgrad": _gradient, "matmul": torch.matmul,
    "sdpa": _attention,
}


def run_node(node: Node, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The value of a node."""
    assert not isinstance(node.inputs[0], Literal), f"{node.op} of a literal first"
    inputs = [
        torch.tensor(value.value, dtype=torch.float32) if isinstance(value, Literal)
        else values[value]
        for value in node.inputs
    ]
    attributes = dict(node.attributes)
    if node.op in MAIN:
        return MAIN[node.op](*inputs, **attributes)
    result = (UNARY if len(inputs) == 1 else BINARY)[node.op](*inputs, **attributes)
    assert result.shape == inputs[0].shape, f"{node.op} broadcasts its first operand"
    return result


def run_description(
    description: GraphDescription, operands: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The graph's result in float32."""
    values = [_widened(operand) for operand in operands]
    for node in description.nodes:
        values.append(run_node(node, values))
    return values[-1]


def _widened(operand: torch.Tensor) -> torch.Tensor:
    """In float32, laid out as it is: strides are checked."""
    laid = torch.empty_strided(operand.shape, operand.stride(), dtype=torch.float32)
    return laid.copy_(operand)


class InterpretedPlan(Plan):
    """Stands for a plan of cuDNN."""

    def __init__(self, description: GraphDescription) -> None:
        self.description = description

    def execute(self, addresses: Mapping[int, int], workspace: int, stream: int) -> None:
        """Run it now."""
        description = self.description
        assert sorted(addresses) == list(range(1, description.output_uid + 1))
        operands = [
            _memory(addresses[uid], operand)
            for uid, operand in enumerate(description.operands, start=1)
        ]
        result = run_description(description, operands)
        output = description.output
        assert result.shape == output.dims, f"{result.shape} where {output.dims} is described"
        target = _memory(addresses[description.output_uid], output)
        if target.dtype == torch.int8:
            result = result.round().clamp(-128, 127)
        target.copy_(result.to(target.dtype))


def _interpret(weights: Weights, description: GraphDescription, choice: int) -> LoadedPlan:
    assert weights.blob(f"{description.digest}/{choice}", _NoJob()) == b""
    return LoadedPlan(InterpretedPlan(description), WORKSPACE_BYTES)


class _NoJob:
    def run(self) -> bytes:
        return b""


@contextmanager
def interpreted_plans() -> Iterator[None]:
    """CuDNN's tactics run through this interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tactic, "load_plan", _interpret)
        yield
