"""What can go wrong around a benchmark. A contender that fails is a row, not an error."""

from __future__ import annotations

from torch2rt.errors import Torch2rtError


class BenchModelError(Torch2rtError, ValueError):
    """The model or its example inputs cannot be had from what the caller gave."""

    template = "cannot load the model to measure from {source}: {reason}. {remedy}"


class UnknownContenderError(Torch2rtError, ValueError):
    """A name in ``vs`` is neither a shipped contender nor ``module:Class``."""

    template = (
        "unknown contender {name!r}{detail}. Known: {known}; or give your own as "
        "package.module:Class or path/to/file.py:Class."
    )


class ReferenceRunError(Torch2rtError, RuntimeError):
    """Eager PyTorch itself cannot run the model, so nothing can be checked."""

    template = (
        "the model does not run in eager PyTorch, which every contender is checked against: "
        "{reason}. Run model(*inputs) on its own first."
    )


class WorkerDiedError(Torch2rtError, RuntimeError):
    """The process of one contender ended before it answered."""

    template = "the process of {label} ended with {status}; its last words: {log}"


class WorkerTimeoutError(Torch2rtError, TimeoutError):
    """The process of one contender did not answer in time and was ended."""

    template = "the process of {label} gave no answer within {seconds:g} s; its last words: {log}"
