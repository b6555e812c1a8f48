"""The calibration table: for every tensor the range that was seen and the threshold chosen.

    table = rt.calibration_table
    table.save("resnet50.json")                     # one tensor per line, to read, diff and edit
    torch2rt.convert(model, x, precision="int8", calibration="resnet50.json")

A table belongs to one model, known by its fingerprint, and to no device. A threshold that a user
changed is kept, also where tables merge or calibration goes on. A tensor whose line a user deleted
is not quantized.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch2rt.network.dtype import Array
from torch2rt.quantize.corrections import Correction, scales_to_json
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.histogram import NUMERICAL_ZERO
from torch2rt.quantize.observers import Seen
from torch2rt.quantize.thresholds import choose_threshold

_NAMED = 5  # how many names an error lists


@dataclass(frozen=True, slots=True)
class Range:
    """What quantization asks of a tensor: the magnitude to keep, and whether it has a sign."""

    threshold: float
    is_nonnegative: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor: the threshold, how it was chosen, and from what.

    ``negatives`` is the share of negative values, from 0 to 1; ``seen`` is None where the
    histogram was not kept.
    """

    threshold: float
    method: str
    minimum: float
    maximum: float
    negatives: float
    samples: int
    seen: Seen | None = field(default=None, compare=False)

    @property
    def note(self) -> str:
        """What is odd about the tensor, ``""`` if nothing."""
        if max(abs(self.minimum), abs(self.maximum)) <= NUMERICAL_ZERO:
            return "always zero"
        return "constant" if self.minimum == self.maximum else ""

    @staticmethod
    def chosen(method: str, seen: Seen, samples: int) -> Row:
        """The row of a tensor by a method."""
        threshold = choose_threshold(method, seen.histogram, seen.largest)
        total = max(1, seen.histogram.total)
        return Row(
            threshold, method, seen.minimum, seen.maximum, seen.negatives / total, samples, seen
        )

    @property
    def is_edited(self) -> bool:
        """Whether a user changed the threshold; not known without a histogram."""
        if self.seen is None:
            return False
        largest = self.seen.largest
        return choose_threshold(self.method, self.seen.histogram, largest) != self.threshold


@dataclass(frozen=True)
class CalibrationTable:
    """Rows by tensor name, the model's fingerprint, the method and the samples seen.

    Names are those of the tensors of the optimised float32 network: module paths, numbered where
    a module gives several. ``corrections`` are of layers, by the names of their outputs; they were
    made with these ranges and of samples: a table that is merged or gets another method has none,
    and tables of equal ranges are equal. ``scales`` are those of `torch2rt.quantize.equalize`, by
    which the network is rescaled before ranges mean what they say. ``floats`` are the layers that
    stay in float, by the names of their outputs, with the noise in dB that their 8 bits would make.
    """

    fingerprint: str
    method: str
    samples: int
    rows: Mapping[str, Row]
    corrections: Mapping[str, Correction] = field(default_factory=dict, compare=False)
    scales: Mapping[str, Array] = field(default_factory=dict, compare=False)
    floats: Mapping[str, float] = field(default_factory=dict, compare=False)

    def range(self, name: str) -> Range | None:
        """Threshold and sign of a tensor; None for one that is not to be quantized."""
        row = self.rows.get(name)
        return None if row is None else Range(row.threshold, row.minimum >= 0.0)

    def is_edited(self, name: str) -> bool:
        """Whether a user changed the threshold of a tensor that has one."""
        return self.rows[name].is_edited

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def with_threshold(self, name: str, threshold: float) -> CalibrationTable:
        """The table with another threshold for a tensor.

        CalibrationError for a tensor it does not have and for a threshold that is not positive.
        """
        if name not in self.rows:
            raise CalibrationError(
                where="table", reason=f"it has no tensor {name!r}",
                remedy=f"Near names: {_listing(_near(name, self.rows))}.",
            )
        if not NUMERICAL_ZERO <= threshold < float("inf"):
            raise CalibrationError(
                where="table", reason=f"threshold {threshold!r} of {name!r} is not positive",
                remedy="A threshold is the largest magnitude that is kept.",
            )
        row = dataclasses.replace(self.rows[name], threshold=float(threshold))
        return dataclasses.replace(self, rows={**self.rows, name: row})

    def with_method(self, method: str) -> CalibrationTable:
        """The table by another method, from its histograms; edited thresholds stay."""
        rows = {
            name: row if row.is_edited or row.seen is None
            else Row.chosen(method, row.seen, row.samples)
            for name, row in self.rows.items()
        }
        return dataclasses.replace(self, method=method, rows=rows, corrections={}, floats={})

    def with_rows(self, rows: Mapping[str, Row]) -> CalibrationTable:
        """The table with other rows, and so without corrections, which were made for these."""
        return dataclasses.replace(self, rows=rows, corrections={}, floats={})

    def without_histograms(self) -> CalibrationTable:
        """The same ranges in less space; such a table does not merge and cannot go on."""
        rows = {name: dataclasses.replace(row, seen=None) for name, row in self.rows.items()}
        return dataclasses.replace(self, rows=rows)

    def merge(self, other: CalibrationTable) -> CalibrationTable:
        """The table of what both saw of one model, by this one's methods.

        Edited thresholds stay, this one's before the other's. CalibrationError where the other is
        of another model, or a histogram was not kept.
        """
        if other.fingerprint != self.fingerprint:
            raise CalibrationError(
                where="table", reason=f"it cannot merge with a table of another model "
                f"({_difference(self.rows, other.rows)})",
                remedy="Merge tables of one model with the same weights.",
            )
        names = [*self.rows, *(name for name in other.rows if name not in self.rows)]
        if scales_to_json(other.scales) != scales_to_json(self.scales):
            raise CalibrationError(
                where="table", reason="it cannot merge with a table of other scales of channels",
                remedy="Go on from one table: calibration_table=first.",
            )
        rows = {name: _merged(name, self.rows.get(name), other.rows.get(name)) for name in names}
        samples = self.samples + other.samples
        floats = {**other.floats, **self.floats}
        return dataclasses.replace(
            self, samples=samples, rows=rows, corrections={}, floats=floats
        )

    def check_fits(self, fingerprint: str, names: Iterable[str], where: str = "table") -> None:
        """CalibrationError unless the table is of the model with this fingerprint and tensors."""
        known = set(names)
        named = {*self.rows, *self.floats}
        unknown = named - known
        if fingerprint == self.fingerprint and not unknown:
            return
        raise CalibrationError(
            where=where, reason=f"it is of another model ({_difference(named, known)})",
            remedy="Calibrate this model: pass a loader. A table goes with one set of weights, and "
            "with the version of torch2rt that made it.",
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, atomically: one tensor per line, histograms at the end."""
        from torch2rt.quantize.table_json import write_table

        write_table(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> CalibrationTable:
        """A table from its file; CalibrationError says what is wrong with it."""
        from torch2rt.quantize.table_json import read_table

        return read_table(path)

    def to_json(self) -> dict[str, Any]:
        """The table as JSON values."""
        from torch2rt.quantize.table_json import table_to_json

        return table_to_json(self)

    @staticmethod
    def from_json(data: object) -> CalibrationTable:
        """Inverse of `to_json`; CalibrationError for anything else."""
        from torch2rt.quantize.table_json import table_from_json

        return table_from_json(data, "table")


def _merged(name: str, mine: Row | None, others: Row | None) -> Row:
    if mine is None or others is None:
        row = mine if mine is not None else others
        assert row is not None
        return row
    if mine.seen is None or others.seen is None:
        raise CalibrationError(
            where="table", reason=f"there is no histogram of tensor {name!r}",
            remedy="Tables of saved engines keep none: merge tables that were saved themselves.",
        )
    row = Row.chosen(mine.method, mine.seen.merged(others.seen), mine.samples + others.samples)
    edited = mine if mine.is_edited else others if others.is_edited else None
    return row if edited is None else dataclasses.replace(row, threshold=edited.threshold)


def _difference(mine: Iterable[str], others: Iterable[str]) -> str:
    """The first names that only one side has, or that it is something else."""
    left, right = set(mine), set(others)
    parts = [
        f"{what} {_listing(sorted(names))}"
        for what, names in (("tensors only it has:", left - right),
                            ("tensors it lacks:", right - left)) if names
    ]
    return "; ".join(parts) or "the names are the same, the weights or the layers differ"


def _near(name: str, names: Iterable[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.3) or sorted(names)


def _listing(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")
