"""Holds back a part of the calibration data, to judge by what calibration did not see.

Every fourth batch is held out, so that data in some order are judged by all of it; of fewer than
four, the last one. What is held out stays in memory, up to a limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch

from torch2rt.quantize.budget import Budget
from torch2rt.quantize.calibrate import Calibration
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.loader import CalibrationLoader

_EVERY = 4
_MOST_BYTES = 1 << 30


class HeldOut:
    """Gives the batches of a loader that are not held out; the others end in ``batches``."""

    def __init__(self, loader: CalibrationLoader, limit: int | None) -> None:
        self.batches: list[object] = []
        self._loader, self._limit = loader, limit
        self._bytes = 0

    def __iter__(self) -> Iterator[object]:
        """CalibrationError where there is one batch only, or all that is left is none."""
        last: list[object] = []
        given = 0
        for number, batch in enumerate(self._loader.batches(self._limit), start=1):
            if last:
                given += 1
                yield last.pop()
            if number % _EVERY == 0 and self._bytes < _MOST_BYTES:
                self.batches.append(batch)
                self._bytes += _bytes_of(batch)
            else:
                last.append(batch)
        if not self.batches and given:
            self.batches.append(last.pop())
        if not self.batches:
            raise CalibrationError(
                where="loader", reason='precision="auto" holds a batch out, and it gave one only',
                remedy="Give it two batches at least; every fourth is held out.",
            )
        yield from last


def hold_out(
    calibration: Calibration | None, budget: Budget | None
) -> tuple[Calibration | None, HeldOut | None]:
    """The calibration by the rest of its loader, and what is held out once that has been read.

    Without a budget nothing is held out.
    """
    if budget is None or calibration is None or calibration.loader is None:
        return calibration, None
    held = HeldOut(calibration.loader, calibration.batches)
    rest = dataclasses.replace(calibration, source=CalibrationLoader(held), batches=None)
    return rest, held


def _bytes_of(batch: object) -> int:
    match batch:
        case torch.Tensor():
            return batch.numel() * batch.itemsize
        case Mapping():
            return sum(map(_bytes_of, batch.values()))
        case tuple() | list():
            return sum(map(_bytes_of, batch))
    return 0
