"""Calibration tables as JSON: one tensor per line for people and diffs, strict when read.

    {
     "format": "torch2rt calibration table", "version": 1, "fingerprint": "...", ...
     "tensors": {
      "conv1": {"threshold": 2.11, "min": -2.2, "max": 2.64, "negatives": 0.5, ...},
     ...
     "floats": {                                        where there are any: layers, noise in dB
      "conv1": -27.3,
     ...
     "histograms": {
      "conv1": {"min": -2.2, "max": 2.64, "negatives": 150528, "exponent": 2, "counts": "eNq..."},

Names are sorted and floats are written so that they read back exactly: equal tables give equal
files, and a table that is saved and loaded gives the same engine. Counts are 64-bit integers, byte
plane by byte plane, deflated, in base64. Corrections of layers, where there are any, are a section
of their own, packed the same way.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from torch2rt.engine.container import ContainerError, brief, parse_json
from torch2rt.engine.file import replace_file
from torch2rt.errors import ConfigError
from torch2rt.network.dtype import Array
from torch2rt.quantize.corrections import Correction, scales_from_json, scales_to_json
from torch2rt.quantize.corrections import from_json as correction_from_json
from torch2rt.quantize.corrections import to_json as correction_to_json
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.histogram import BINS, MIN_EXPONENT, NUMERICAL_ZERO, Counts, Histogram
from torch2rt.quantize.observers import Seen
from torch2rt.quantize.table import CalibrationTable, Row
from torch2rt.quantize.thresholds import parse_method

FORMAT = "torch2rt calibration table"
VERSION = 1
_MAX_FILE_BYTES = 1 << 30
_COUNT_BYTES = 8
_MOST = 1 << 62
_REMEDY = "Give a file that a calibration table was saved to, or calibrate again."
_HEAD = ("format", "version", "fingerprint", "method", "samples")
_OPTIONAL = ("floats", "scales", "corrections", "histograms")
_ROW = ("threshold", "min", "max", "negatives", "method", "samples")
_NOTES = ("always zero", "constant")
_HISTOGRAM = ("min", "max", "negatives", "exponent", "counts")


def write_table(table: CalibrationTable, path: str | os.PathLike[str]) -> None:
    """Write a table, atomically; CalibrationError where that is not possible."""
    try:
        replace_file(os.fspath(path), [memoryview(table_text(table).encode())])
    except (OSError, ValueError) as error:
        raise CalibrationError(
            where=str(path), reason=f"it cannot be written ({error})",
            remedy="Give the name of a file in an existing folder that can be written to.",
        ) from error


def read_table(path: str | os.PathLike[str]) -> CalibrationTable:
    """A table from its file; CalibrationError, and nothing else, for any file whatever."""
    where = str(path)
    try:
        if Path(path).stat().st_size > _MAX_FILE_BYTES:
            _refuse(where, "it is larger than any table")
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise _error(where, "it is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise _error(where, f"it cannot be read ({error})") from error
    try:
        data = parse_json(text, "it")
    except ContainerError as error:
        raise _error(where, str(error.facts["reason"])) from error
    return table_from_json(data, where)


def table_text(table: CalibrationTable) -> str:
    """The file's text."""
    data = table_to_json(table)
    lines = [f" {json.dumps(key)}: {json.dumps(data[key])}," for key in _HEAD]
    sections = [key for key in ("tensors", *_OPTIONAL) if key in data]
    for section in sections:
        rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(data[section].items())]
        end = "," if section != sections[-1] else ""
        lines += [f" {json.dumps(section)}: {{", ",\n".join(rows), f" }}{end}"]
    return "\n".join(["{", *(line for line in lines if line), "}"]) + "\n"


def table_to_json(table: CalibrationTable) -> dict[str, Any]:
    """The table as JSON values."""
    head = (FORMAT, VERSION, table.fingerprint, table.method, table.samples)
    data: dict[str, Any] = dict(zip(_HEAD, head, strict=True))
    data["tensors"] = {name: _row_to_json(table.rows[name]) for name in sorted(table.rows)}
    histograms = {
        name: _seen_to_json(row.seen) for name, row in sorted(table.rows.items())
        if row.seen is not None
    }
    if histograms:
        data["histograms"] = histograms
    if table.floats:
        data["floats"] = {name: table.floats[name] for name in sorted(table.floats)}
    if table.corrections:
        data["corrections"] = {
            name: correction_to_json(table.corrections[name]) for name in sorted(table.corrections)
        }
    if table.scales:
        data["scales"] = scales_to_json(table.scales)
    return data


def table_from_json(data: object, where: str) -> CalibrationTable:
    """Inverse of `table_to_json`. CalibrationError for anything else names what is wrong."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        _refuse(where, "it is no calibration table")
    if data.get("version") != VERSION:
        _refuse(where, f"its version is {brief(data.get('version'))}, this torch2rt reads "
                f"{VERSION}")
    extra = set(data) - {*_HEAD, "tensors", *_OPTIONAL}
    missing = {*_HEAD, "tensors"} - set(data)
    if extra or missing:
        _refuse(where, f"fields missing: {sorted(missing)}, unknown: {brief(sorted(extra))}")
    rows, histograms = data["tensors"], data.get("histograms", {})
    if not isinstance(rows, dict) or not isinstance(histograms, dict):
        _refuse(where, "its tensors or histograms are no object")
    return CalibrationTable(
        fingerprint=_text(data, "fingerprint", where),
        method=_method(data, where),
        samples=_count(data, "samples", where),
        rows={
            name: _row(row, histograms.get(name), f"{where}, tensor {brief(name)}")
            for name, row in rows.items()
        },
        corrections=_corrections(data.get("corrections", {}), where),
        scales=_scales(data.get("scales", {}), where),
        floats=_floats(data.get("floats", {}), where),
    )


def _floats(data: object, where: str) -> dict[str, float]:
    if not isinstance(data, dict):
        _refuse(where, "its layers in float are no object")
    return {name: _number(data, name, f"{where}, layers in float") for name in data}


def _corrections(data: object, where: str) -> dict[str, Correction]:
    if not isinstance(data, dict):
        _refuse(where, "its corrections are no object")
    corrections = {}
    for name, item in data.items():
        try:
            corrections[name] = correction_from_json(item)
        except ValueError as error:
            raise _error(where, f"{error} (layer {brief(name)})") from error
    return corrections


def _scales(data: object, where: str) -> dict[str, Array]:
    try:
        return scales_from_json(data)
    except ValueError as error:
        raise _error(where, str(error)) from error


def _row_to_json(row: Row) -> dict[str, Any]:
    values = (row.threshold, row.minimum, row.maximum, row.negatives, row.method, row.samples)
    data: dict[str, Any] = dict(zip(_ROW, values, strict=True))
    return data | {"note": row.note} if row.note else data


def _row(data: object, histogram: object, where: str) -> Row:
    if not isinstance(data, dict) or not {*_ROW} <= set(data) <= {*_ROW, "note"}:
        _refuse(where, f"it must have {', '.join(_ROW)}")
    if "note" in data and data["note"] not in _NOTES:
        _refuse(where, f"its note is {brief(data['note'])}")
    threshold = _number(data, "threshold", where)
    low, high = _number(data, "min", where), _number(data, "max", where)
    negatives = _number(data, "negatives", where)
    if threshold < NUMERICAL_ZERO:
        _refuse(where, f"threshold {threshold!r} is not positive")
    if low > high or not 0 <= negatives <= 1:
        _refuse(where, f"min {low!r} and max {high!r}, or the share of negatives "
                f"{negatives!r}, make no sense")
    return Row(
        threshold, _method(data, where), low, high, negatives, _count(data, "samples", where),
        None if histogram is None else _seen(histogram, where),
    )


def _seen_to_json(seen: Seen) -> dict[str, Any]:
    values = (seen.minimum, seen.maximum, seen.negatives, seen.histogram.exponent,
              _packed(seen.histogram.counts))
    return dict(zip(_HISTOGRAM, values, strict=True))


def _seen(data: object, where: str) -> Seen:
    if not isinstance(data, dict) or set(data) != {*_HISTOGRAM}:
        _refuse(where, f"its histogram must have {', '.join(_HISTOGRAM)}")
    low, high = _number(data, "min", where), _number(data, "max", where)
    exponent = data["exponent"]
    if type(exponent) is not int or not MIN_EXPONENT <= exponent <= 128 or low > high:
        _refuse(where, "the range of its histogram makes no sense")
    histogram = Histogram(exponent, _unpacked(_text(data, "counts", where), where))
    largest = max(abs(low), abs(high))
    if largest > NUMERICAL_ZERO and not 0 < histogram.used * histogram.width < 3 * largest:
        _refuse(where, "its histogram does not fit its range")
    return Seen(low, high, _count(data, "negatives", where), histogram)


def _packed(counts: Counts) -> str:
    planes = counts.astype("<i8").view(np.uint8).reshape(-1, _COUNT_BYTES).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def _unpacked(text: str, where: str) -> Counts:
    size = _COUNT_BYTES * (BINS + 1)
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.b64decode(text, validate=True), size)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise _error(where, f"its histogram is damaged ({error})") from error
    if len(raw) != size or not inflate.eof or inflate.unused_data:
        _refuse(where, "its histogram is damaged (wrong size)")
    planes = np.frombuffer(raw, np.uint8).reshape(_COUNT_BYTES, -1)
    counts = np.ascontiguousarray(planes.T).view("<i8").reshape(-1).astype(np.int64)
    if counts.min() < 0 or float(counts.sum(dtype=np.float64)) > _MOST:
        _refuse(where, "its histogram has impossible counts")
    return counts


def _number(data: Mapping[str, object], key: str, where: str) -> float:
    value = data[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    _refuse(where, f"{key} is {brief(value)}, not a number")


def _count(data: Mapping[str, object], key: str, where: str) -> int:
    value = data[key]
    if type(value) is int and 0 <= value < _MOST:
        return value
    _refuse(where, f"{key} is {brief(value)}, not a count")


def _text(data: Mapping[str, object], key: str, where: str) -> str:
    value = data[key]
    if isinstance(value, str):
        return value
    _refuse(where, f"{key} is {brief(value)}, not a text")


def _method(data: Mapping[str, object], where: str) -> str:
    method = _text(data, "method", where)
    try:
        parse_method(method)
    except ConfigError as error:
        raise _error(where, f"there is no method {brief(method)}") from error
    return method


def _refuse(where: str, reason: str) -> NoReturn:
    raise _error(where, reason)


def _error(where: str, reason: str) -> CalibrationError:
    return CalibrationError(where=where, reason=reason, remedy=_REMEDY)
