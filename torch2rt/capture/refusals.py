"""What no engine can hold: refused before and after a trace, with the place and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from torch2rt.capture.captured import place
from torch2rt.capture.errors import CaptureError, DataDependentError
from torch2rt.errors import PytreeError
from torch2rt.network.dtype import DType

_DTYPES = {getattr(torch, dtype.value) for dtype in DType}


def check_model(model: object) -> None:
    """CaptureError for what is no module and for one whose weights are not there, or not plain."""
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise CaptureError(
            model=name, where="", reason="it is no torch.nn.Module",
            remedy="Wrap what is to be converted in the forward of a module.",
        )
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise CaptureError(
                model=name, where="", reason=f"{path!r} is on the meta device and has no values",
                remedy="Load the weights first.",
            )
        is_wrapper = is_traceable_wrapper_subclass(tensor)
        if is_wrapper:
            kind = type(tensor)
            raise CaptureError(
                model=name, where="", reason=f"{path!r} is a {kind.__module__}.{kind.__name__}, "
                "not a plain tensor", remedy="Make it one: of torchao's tensors with "
                "torchao.utils.unwrap_tensor_subclass(model); their quantization is kept.",
            )
    for path, module in model.named_modules():
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            raise CaptureError(
                model=name, where=f" in {path}", reason=f"{type(module).__name__} holds weights in "
                "a form of its own", remedy="Of a model with fake quantization convert that model, "
                "as it is before torch.ao.quantization.convert; its quantization is kept.",
            )


def check_tensors(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    """PytreeError for example inputs that no engine takes."""
    if not tensors:
        raise PytreeError(
            path="the example inputs", reason="they hold no tensor",
            remedy="Give the arguments the model is called with",
        )
    for name, tensor in zip(names, tensors, strict=True):
        complaint = _complaint(tensor)
        if complaint is not None:
            raise PytreeError(path=name, reason=complaint[0], remedy=complaint[1])


def _complaint(tensor: torch.Tensor) -> tuple[str, str] | None:
    """Why a tensor cannot be an input, and what to do."""
    if tensor.is_nested:
        return "a nested tensor is not supported", "Give a padded, dense tensor"
    if tensor.is_quantized:
        return "a quantized tensor is not supported", "Give it dequantized"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout} is not supported", "Give a dense tensor"
    if tensor.is_meta:
        return "a tensor on the meta device has no values", "Give a tensor with values"
    if tensor.dtype not in _DTYPES:
        return f"dtype {tensor.dtype} is not supported", "Give a tensor of another dtype"
    return None


def check_graph(graph: fx.Graph, model: str) -> None:
    """CaptureError for values of the graph that no network can hold.

    These are tensors of a dtype we do not have and tensors whose size depends on values.
    """
    for node in graph.nodes:
        for value in _tensors(node.meta.get("val")):
            if value.dtype not in _DTYPES:
                raise CaptureError(
                    model=model, where=place(node),
                    reason=f"{node.name} is a tensor of {value.dtype}, which engines cannot hold",
                    remedy="Compute it in real numbers, or convert the graph in pieces: "
                    "torch2rt.convert_pieces(model).",
                )
            if free_unbacked_symbols(value):
                raise DataDependentError(
                    model=model, where=place(node),
                    reason=f"the shape {list(value.shape)} of {node.name} depends on values",
                )


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
