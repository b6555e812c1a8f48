"""capture(): from an nn.Module and example arguments to a functional graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torch2rt.capture.captured import CapturedGraph, SymbolRange
from torch2rt.capture.compare import difference
from torch2rt.capture.errors import CaptureError, DynamicShapeError, PytreeError
from torch2rt.capture.pytree import CallSpec
from torch2rt.capture.shapes import ShapeRequest, resized
from torch2rt.capture.trace import EXPORT_FAILURES, Tracer

Axes = list[dict[int, Any]]


def capture(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *,
    dynamic_shapes: object = None,
) -> CapturedGraph:
    """Capture a model in eval mode as one functional graph. The model stays as it is.

        captured = capture(model, (images,), {"mask": mask})
        captured = capture(model, (ids,), {}, dynamic_shapes={"ids": {0: "batch", 1: (8, 512)}})

    Without ``dynamic_shapes`` the batch (axis 0 of the first tensor, and of those that share its
    size) is made free where that is possible and proves right, and else everything is fixed; the
    notes say which. ``dynamic_shapes``, whose forms `shapes` lists, is obligatory.

    CallError and PytreeError: the arguments do not fit. CaptureError and its kinds: the model
    cannot be captured, with module path, source line and what to do.
    """
    compiled = getattr(model, "_orig_mod", None)
    model = compiled if isinstance(compiled, nn.Module) else model
    call_spec, tensors = CallSpec.from_call(model.forward, args, dict(kwargs or {}))
    _check_tensors(call_spec, tensors)
    tensors = [tensor.detach() for tensor in tensors]
    tracer = Tracer(model, call_spec)
    if dynamic_shapes is not None:
        return _capture_as_asked(tracer, tensors, dynamic_shapes)
    return _capture_with_free_batch(tracer, tensors)


def _check_tensors(call_spec: CallSpec, tensors: Sequence[torch.Tensor]) -> None:
    if not tensors:
        raise PytreeError(
            path="the example inputs", reason="they hold no tensor",
            remedy="Give the arguments the model is called with",
        )
    for name, tensor in zip(call_spec.names, tensors, strict=True):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise PytreeError(
                path=name, reason=f"a tensor of layout {tensor.layout} is not supported",
                remedy="Give a dense tensor",
            )


def _capture_as_asked(
    tracer: Tracer, tensors: list[torch.Tensor], dynamic_shapes: object
) -> CapturedGraph:
    request = ShapeRequest(tracer.call_spec, tensors, dynamic_shapes)
    grown = [
        resized(tensor, {axis: 2 for axis in axes if tensor.size(axis) == 1})
        for tensor, axes in zip(tensors, request.axes, strict=True)
    ]
    captured = tracer.trace(grown, request.axes)
    for name, index, axis in request.axis_names():
        size: object = captured.inputs[index].value.shape[axis]
        if not isinstance(size, torch.SymInt):
            raise DynamicShapeError(
                reason=f"axis {axis} of input {name!r} must be {size} for this model",
                remedy="Leave that axis out of dynamic_shapes",
            )
    wrong = _check(tracer, captured, tensors)
    if wrong is not None:
        raise DynamicShapeError(
            reason=f"the captured graph differs from the model {wrong}",
            remedy="The model depends on that size in a way torch.export misses: leave it fixed",
        )
    return captured


def _capture_with_free_batch(tracer: Tracer, tensors: list[torch.Tensor]) -> CapturedGraph:
    """Free the batch if that can be believed, else fix every size and note why."""
    axes = _batch_axes(tensors)
    reason = "no input has a batch axis"
    if any(axes):
        grown = [
            resized(tensor, {axis: max(2, tensor.size(axis)) for axis in axis_specs})
            for tensor, axis_specs in zip(tensors, axes, strict=True)
        ]
        try:
            captured = tracer.trace(grown, axes)
        except (CaptureError, PytreeError) as error:
            reason = str(error).splitlines()[0]
        else:
            wrong = _distrust(tracer, captured, tensors)
            if wrong is None:
                return captured
            reason = wrong
    captured = tracer.trace(tensors)
    captured.notes.append(f"every size is fixed to the example's: {reason}")
    return captured


def _batch_axes(tensors: Sequence[torch.Tensor]) -> Axes:
    batch = next((tensor.size(0) for tensor in tensors if tensor.dim()), 0)
    auto = torch.export.Dim.AUTO
    return [
        {0: auto} if batch and tensor.dim() and tensor.size(0) == batch else {}
        for tensor in tensors
    ]


def _distrust(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor]
) -> str | None:
    """Why a capture with a free batch cannot be used."""
    if not captured.symbols:
        return "the model fixes its batch size"
    wrong = _check(tracer, captured, tensors)
    return None if wrong is None else f"with a free batch the graph differs {wrong}"


def _check(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor]
) -> str | None:
    """Compare graph and model at the example's sizes, at others, and at 1.

    Returns where they differ. Right answers at size 1 widen the symbols' ranges to it: a trace
    leaves 1 out only because it was made at another size.
    """
    wrong = _compare(tracer, captured, tensors)
    if wrong is not None:
        return f"at the example's sizes: {wrong}"
    other = {name: _other_size(tracer, captured, tensors, name) for name in captured.symbols}
    wrong = _compare(tracer, captured, _at(captured, tensors, other))
    if wrong is not None:
        return f"at sizes {_listing(captured, other)}: {wrong}"
    for name, limits in captured.symbols.items():
        if limits.minimum <= 2 and _is_right_at_one(tracer, captured, tensors, name):
            captured.symbols[name] = limits._replace(minimum=1)
    return None


def _is_right_at_one(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor], name: str
) -> bool:
    if _size_of(tracer, captured.symbols[name], tensors) == 1:
        return True  # the example itself
    return _compare(tracer, captured, _at(captured, tensors, {name: 1})) is None


def _compare(
    tracer: Tracer, captured: CapturedGraph, tensors: list[torch.Tensor]
) -> str | None:
    """What is wrong with the graph at these tensors, None where it agrees with the model."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spec, expected = tracer.run(tensors)
    except EXPORT_FAILURES as error:
        return f"the model fails there ({str(error).strip().splitlines()[0]})"
    if spec != captured.output_spec:
        return "the model returns another structure there"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = captured.run([tensor.clone() for tensor in tensors])
    except EXPORT_FAILURES as error:
        return f"the graph fails there ({str(error).strip().splitlines()[0]})"
    return difference(spec.names, expected, found)


def _size_of(tracer: Tracer, limits: SymbolRange, tensors: Sequence[torch.Tensor]) -> int:
    return tensors[tracer.call_spec.names.index(limits.input)].size(limits.axis)


def _other_size(
    tracer: Tracer, captured: CapturedGraph, tensors: Sequence[torch.Tensor], name: str
) -> int:
    limits = captured.symbols[name]
    size = max(2, _size_of(tracer, limits, tensors)) + 1
    return size if limits.maximum is None or size <= limits.maximum else max(limits.minimum, 2)


def _at(
    captured: CapturedGraph, tensors: Sequence[torch.Tensor], sizes: dict[str, int]
) -> list[torch.Tensor]:
    """The tensors with every axis of these symbols resized."""
    found = []
    for item, tensor in zip(captured.inputs, tensors, strict=True):
        wanted = {
            axis: sizes[str(size)] for axis, size in enumerate(item.value.shape)
            if str(size) in sizes
        }
        found.append(resized(tensor, wanted))
    return found


def _listing(captured: CapturedGraph, sizes: dict[str, int]) -> str:
    return ", ".join(
        f"{captured.symbols[name].input}[{captured.symbols[name].axis}]={size}"
        for name, size in sizes.items()
    )
