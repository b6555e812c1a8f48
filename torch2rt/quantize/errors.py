"""Errors of calibration."""

from __future__ import annotations

from torch2rt.errors import Torch2rtError


class CalibrationError(Torch2rtError, ValueError):
    """Calibration data that cannot be used, or a table that is damaged or of another model."""

    template = "calibration, {where}: {reason}. {remedy}"


class NonFiniteError(CalibrationError):
    """A tensor of the network is NaN or infinite on calibration data."""

    template = (
        "calibration, batch {batch}: tensor {tensor!r} ({kind} at {module}) {reason}, and so does "
        "an output; the tensors before it are finite. {remedy}"
    )
