"""capture(): from an nn.Module and example arguments to a functional graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from torch2rt.calls.pytree import CallSpec
from torch2rt.capture.captured import CapturedGraph
from torch2rt.capture.check import ModelFails, check_capture, compare
from torch2rt.capture.errors import CaptureError, DynamicShapeError
from torch2rt.capture.refusals import check_model, check_tensors
from torch2rt.capture.shapes import AxisOf, ShapeRequest, resized
from torch2rt.capture.trace import Tracer
from torch2rt.errors import PytreeError


def capture(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *,
    dynamic_shapes: object = None, opaque_modules: tuple[type[nn.Module], ...] = (),
) -> CapturedGraph:
    """Capture a model in eval mode as one functional graph. The model stays as it is.

        captured = capture(model, (images,), {"mask": mask})
        captured = capture(model, (ids,), {}, dynamic_shapes={"ids": {0: "batch", 1: (8, 512)}})

    Without ``dynamic_shapes`` the batch (axis 0 of the first tensor, and of those that share its
    size) is made free where that is possible and proves right, and else everything is fixed; the
    notes say which. ``dynamic_shapes``, whose forms `shapes` lists, is obligatory. Each call of a
    module of a class in ``opaque_modules`` becomes one node, see `opaque`.

    CallError and PytreeError: the arguments do not fit. CaptureError and its kinds: the model
    cannot be captured, with module path, source line and what to do.
    """
    compiled = getattr(model, "_orig_mod", None)
    model = compiled if isinstance(compiled, nn.Module) else model
    check_model(model)
    call_spec, tensors = CallSpec.from_call(model.forward, args, dict(kwargs or {}))
    check_tensors(call_spec.names, tensors)
    tensors = [tensor.detach() for tensor in tensors]
    tracer = Tracer(model, call_spec, opaque_modules)
    if dynamic_shapes is not None:
        return _capture_as_asked(tracer, tensors, dynamic_shapes)
    return _capture_with_free_batch(tracer, tensors)


def _capture_as_asked(
    tracer: Tracer, tensors: list[torch.Tensor], dynamic_shapes: object
) -> CapturedGraph:
    request = ShapeRequest(tracer.call_spec, tensors, dynamic_shapes)
    captured = _trace_as_asked(tracer, tensors, request)
    for name, index, axis in request.axis_names():
        size: object = captured.inputs[index].value.shape[axis]
        if not isinstance(size, torch.SymInt):
            raise DynamicShapeError(
                reason=f"axis {axis} of input {name!r} must be {size} for this model",
                remedy="Leave that axis out of dynamic_shapes",
            )
        _check_range(request, captured, name, index, axis)
    wrong = check_capture(tracer, captured, tensors, tries=4)
    if wrong is not None:
        raise DynamicShapeError(
            reason=f"the captured graph differs from the model {wrong}",
            remedy="The model depends on that size in a way torch.export misses: leave it fixed",
        )
    return captured


def _check_range(
    request: ShapeRequest, captured: CapturedGraph, name: str, index: int, axis: int
) -> None:
    found = captured.symbols.get(str(captured.inputs[index].value.shape[axis]))
    low, high = request.limits.get((index, axis), (2, None))
    if found is None or high is None:
        return
    if found.minimum > max(2, low) or (found.maximum is not None and found.maximum < high):
        raise DynamicShapeError(
            reason=f"axis {axis} of input {name!r} was asked to range from {low} to {high}; the "
            f"model takes {found.minimum} to {found.maximum}", remedy="Ask for that range",
        )


def _trace_as_asked(
    tracer: Tracer, tensors: list[torch.Tensor], request: ShapeRequest
) -> CapturedGraph:
    grown = _grown(tensors, request.axes)
    names = tracer.call_spec.names
    for (left, axis), (right, other) in request.equal:
        if grown[left].size(axis) != grown[right].size(other):
            raise DynamicShapeError(
                reason=f"axis {axis} of {names[left]!r} and axis {other} of {names[right]!r} have "
                "one name and different sizes", remedy="Give them different names",
            )
    return tracer.trace(grown, request.axes, request.equal)


def _capture_with_free_batch(tracer: Tracer, tensors: list[torch.Tensor]) -> CapturedGraph:
    """Free the batch if that can be believed, else fix every size and note why."""
    batch = _batch_axes(tensors)
    reason = "no input has a batch axis"
    # One batch for all inputs; where the model does not allow that, each for itself.
    for equal in (list(pairwise(batch)), []) if len(batch) > 1 else ([],) if batch else ():
        found = _try_free(tracer, tensors, batch, equal)
        if isinstance(found, CapturedGraph):
            return found
        reason = found
    captured = tracer.trace(tensors)
    try:
        wrong = compare(tracer, captured, tensors)
    except ModelFails as error:
        wrong = str(error)
    if wrong is not None:
        raise CaptureError(
            model=tracer.name, where="",
            reason=f"the captured graph differs from the model: {wrong}",
            remedy="Its forward does something else while torch.export runs it; look for code that "
            "asks torch.compiler, catches errors, or keeps state.",
        )
    captured.notes.append(f"every size is fixed to the example's: {reason}")
    return captured


def _batch_axes(tensors: Sequence[torch.Tensor]) -> list[AxisOf]:
    """Axis 0 of the first tensor that has one and of those of its size, as (tensor, axis)."""
    batch = next((tensor.size(0) for tensor in tensors if tensor.dim()), 0)
    return [
        (index, 0) for index, tensor in enumerate(tensors)
        if batch and tensor.dim() and tensor.size(0) == batch
    ]


def _try_free(
    tracer: Tracer, tensors: list[torch.Tensor], batch: list[AxisOf],
    equal: list[tuple[AxisOf, AxisOf]],
) -> CapturedGraph | str:
    """A capture with free batch axes that agrees with the model, or why there is none."""
    axes: list[dict[int, Any]] = [{} for _ in tensors]
    for index, axis in batch:
        axes[index][axis] = torch.export.Dim.AUTO
    try:
        captured = tracer.trace(_grown(tensors, axes), axes, equal)
    except (CaptureError, PytreeError) as error:
        return str(error).splitlines()[0]
    if not captured.symbols:
        return "the model fixes its batch size"
    wrong = check_capture(tracer, captured, tensors)
    return captured if wrong is None else f"with a free batch the graph differs {wrong}"


def _grown(
    tensors: Sequence[torch.Tensor], axes: Sequence[dict[int, Any]]
) -> list[torch.Tensor]:
    """The tensors with their free axes at least 2 long: at 1 a trace takes them as fixed."""
    return [
        resized(tensor, {axis: max(2, tensor.size(axis)) for axis in free})
        for tensor, free in zip(tensors, axes, strict=True)
    ]
