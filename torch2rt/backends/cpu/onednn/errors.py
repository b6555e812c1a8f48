"""What can go wrong between Python and oneDNN."""

from typing import ClassVar

from torch2rt.errors import Torch2rtError


class OneDNNUnavailable(Torch2rtError, RuntimeError):
    """No usable oneDNN library (libdnnl.so.3, version 3.1 or newer) could be loaded."""

    template: ClassVar[str] = (
        "oneDNN cannot be used: {reason}. Install it with: pip install 'onednn-cpu-gomp>=2023.2' "
        "(it needs libgomp.so.1, which torch brings, or the package libgomp1 on Debian and Ubuntu)."
    )


class OneDNNError(Torch2rtError, RuntimeError):
    """A oneDNN call failed: the status by name, the call, and what was being done."""

    template: ClassVar[str] = "oneDNN {call} returned {status} while {what}."


class OneDNNUnsupported(OneDNNError):
    """oneDNN has no implementation for what was asked: a reason to choose another tactic."""


class OneDNNArgumentError(Torch2rtError, ValueError):
    """The binding was called with something that oneDNN would read or write wrongly."""

    template: ClassVar[str] = "oneDNN {where}: {reason}."
