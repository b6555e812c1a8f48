"""What can go wrong while a model is captured, and when a captured call does not fit."""

from __future__ import annotations

from torch2rt.errors import Torch2rtError


class CaptureError(Torch2rtError):
    """torch.export could not turn the model into one graph."""

    template = "cannot capture {model}{where}: {reason}.\n{remedy}"


class DataDependentError(CaptureError):
    """The model's Python code branches, or sizes a tensor, by the value of a tensor."""

    template = (
        "cannot capture {model} as one graph: it decides by the value of a tensor{where}: "
        "{reason}.\nWrite the decision with torch.where or torch.cond, or convert the graph in "
        "pieces: torch2rt.convert_pieces(model)."
    )


class BufferMutationError(CaptureError):
    """The model writes to its own state in forward; an engine has no state."""

    template = (
        "cannot capture {model}: it writes to {kind} {name!r} in forward ({op}{where}). An engine "
        "keeps no state between calls.\nPass the state in as an input and return it as an output, "
        "or compute it without writing to {name!r}."
    )


class MutationError(CaptureError):
    """An in-place operation has no functional form that is known to be exact."""

    template = (
        "cannot capture {model}: the in-place operation {op}{where} has no functional form here: "
        "{reason}.\nWrite it out of place in the model's forward."
    )


class DynamicShapeError(CaptureError, ValueError):
    """`dynamic_shapes` cannot be understood or cannot be had."""

    template = "dynamic_shapes: {reason}.\n{remedy}"
