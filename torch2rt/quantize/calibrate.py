"""The calibration step of a conversion: from what a user passed to the table of the network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import torch

from torch2rt.calls.pytree import CallSpec
from torch2rt.errors import ConfigError
from torch2rt.network.dim import is_symbol
from torch2rt.network.network import Network
from torch2rt.quantize.best import HELD_OUT, Evaluate, best_table
from torch2rt.quantize.calibrator import (
    Inputs,
    Observations,
    observable_names,
    observe_batches,
    table_of,
)
from torch2rt.quantize.equalize import Scales, equalize, find_scales
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.loader import CalibrationLoader, network_inputs
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.thresholds import BEST, DEFAULT_METHOD, OUTPUTS, parse_method

# Magnitudes seen so near the end of float16 are likely to pass it on other data.
_FLOAT16_SAFE = 65504.0 / 2

# What may be corrected of quantized layers, and what is unless a user says otherwise.
CORRECTIONS = ("equalize", "bias_correction", "rounding")
DEFAULT_CORRECTIONS = ("rounding",)
_SAMPLES = 48  # that corrections are made of, and judged by

_TABLES = (CalibrationTable, str, os.PathLike)
Source: TypeAlias = "CalibrationTable | CalibrationLoader"


@dataclass(frozen=True)
class Calibration:
    """What a user said of calibration, checked.

    ``source`` is a loader or a finished table, ``where`` its path for messages; ``before`` a table
    that a loader goes on from; ``batches`` how many to take at most; ``corrections`` what is
    corrected of layers, some of `CORRECTIONS`; ``max_error`` what the outputs may lose by 8 bits,
    None for all that it takes.
    """

    source: Source
    where: str = "table"
    method: str = DEFAULT_METHOD
    batches: int | None = None
    before: CalibrationTable | None = None
    corrections: tuple[str, ...] = ()
    max_error: float | None = None

    @property
    def loader(self) -> CalibrationLoader | None:
        """The loader, if it is one."""
        return self.source if isinstance(self.source, CalibrationLoader) else None


def calibration_from_options(
    calibration: object, method: str, batches: int | None, table: object,
    quantize_with: object = DEFAULT_CORRECTIONS, max_error: float | None = None,
) -> Calibration | None:
    """The options of `convert` together; None where nothing is to be calibrated.

    ConfigError for unusable values, CalibrationError for a file that is no table.
    """
    if method not in (BEST, OUTPUTS):
        parse_method(method)
    if batches is not None and (type(batches) is not int or batches < 1):
        raise ConfigError(
            option="calibration_batches", value=batches, reason="it counts batches",
            remedy="Pass a positive integer, or None for all that the loader gives.",
        )
    corrections = _correction_names(quantize_with)
    before = _table(table) if table is not None else None
    if calibration is None:
        return None if before is None else Calibration(before, _where(table))
    if not is_loader(calibration):
        if before is not None:
            raise ConfigError(
                option="calibration_table", value=_where(table), reason="calibration is a table "
                "already", remedy="Merge them: first.merge(second).",
            )
        return Calibration(_table(calibration), _where(calibration), method, max_error=max_error)
    return Calibration(
        CalibrationLoader(calibration), method=method, batches=batches, before=before,
        where=_where(table), corrections=corrections, max_error=max_error,
    )


def calibrate(
    calibration: Calibration, network: Network, spec: CallSpec, fingerprint: str, *,
    device: torch.device | None = None, progress: bool = False,
    evaluate: Callable[[list[Inputs]], Evaluate] | None = None,
    refine: Callable[[CalibrationTable, Inputs], CalibrationTable] | None = None,
) -> CalibrationTable:
    """The table of a network: the one given, or by running the network over the loader.

    ``evaluate`` makes of held-out batches what tells the error of a table; it is needed for the
    method "best". ``refine`` makes more of a table by a few samples.
    CalibrationError for data that does not fit and for a table of another model.
    """
    known = calibration.before
    if isinstance(calibration.source, CalibrationTable):
        known = calibration.source
    if known is not None:
        known.check_fits(fingerprint, observable_names(network), calibration.where)
    if known is not None:
        _equalize(network, known, calibration.where)
    if isinstance(calibration.source, CalibrationTable):
        return calibration.source
    observations = Observations.of_table(known) if known is not None else Observations()
    loader = calibration.source
    inputs: Iterator[Inputs] = network_inputs(
        loader, spec, network, device=device, limit=calibration.batches
    )
    held: list[Inputs] = []
    if calibration.method == BEST:
        inputs = _hold_out(inputs, held)
    scales: Scales = known.scales if known is not None else {}
    if refine is not None and "equalize" in calibration.corrections and known is None:
        scales, inputs = _equalized(network, inputs, device)
    kept = _Kept(network)
    if refine is not None:
        inputs = kept.watching(inputs)
    observe_batches(
        network, inputs, observations, device=device, progress=progress,
        count=_count(loader, calibration.batches),
    )
    is_measured = calibration.method in (BEST, OUTPUTS)
    table = table_of(
        network, observations, fingerprint=fingerprint, before=known,
        method=DEFAULT_METHOD if is_measured else calibration.method,
    )
    table = dataclasses.replace(table, scales=scales)
    if calibration.method == BEST and evaluate is not None:
        table = best_table(table, evaluate(held))
    samples = kept.samples()
    return refine(table, samples) if refine is not None and samples is not None else table


def is_loader(calibration: object) -> bool:
    """Whether the option `calibration` gives batches, and not a table or nothing."""
    return calibration is not None and not isinstance(calibration, _TABLES)


def wide_tensors(table: CalibrationTable) -> frozenset[str]:
    """The tensors that float16 may not hold, by what calibration saw."""
    return frozenset(
        name for name, row in table.rows.items()
        if max(abs(row.minimum), abs(row.maximum), row.threshold) > _FLOAT16_SAFE
    )


def _hold_out(inputs: Iterator[Inputs], held: list[Inputs]) -> Iterator[Inputs]:
    """All but the last batches, which end in ``held``; where there are no others, those too."""
    has_others = False
    for batch in inputs:
        held.append(batch)
        if len(held) > HELD_OUT:
            has_others = True
            yield held.pop(0)
    if not has_others:
        yield from tuple(held)


class _Kept:
    """The first samples that calibration sees, for what is made of samples and not of ranges."""

    def __init__(self, network: Network) -> None:
        self._batches: list[Inputs] = []
        self._count = 0
        firsts = {t.shape[0] if t.rank else 1 for t in network.inputs.values()}
        self._is_dynamic = len(firsts) == 1 and is_symbol(next(iter(firsts)))

    def watching(self, inputs: Iterator[Inputs]) -> Iterator[Inputs]:
        """The batches, of which enough are kept; one where their size is fixed."""
        for batch in inputs:
            if self._count == 0 or (self._is_dynamic and self._count < _SAMPLES):
                self._batches.append(batch)
                self._count += max(1, len(next(iter(batch.values()))))
            yield batch

    def taken(self, inputs: Iterator[Inputs]) -> tuple[Inputs, Iterator[Inputs]]:
        """Enough samples at once, and all batches again."""
        batches: list[Inputs] = []
        for batch in self.watching(inputs):
            batches.append(batch)
            if not self._is_dynamic or self._count >= _SAMPLES:
                break
        return self.samples() or {}, chain(batches, inputs)

    def samples(self) -> Inputs | None:
        """All in one batch, None where nothing was kept."""
        if not self._batches or not self._is_dynamic:
            return next(iter(self._batches), None)
        return {
            name: torch.cat([batch[name] for batch in self._batches])[:_SAMPLES]
            for name in self._batches[0]
        }


def _count(loader: CalibrationLoader, limit: int | None) -> int | None:
    counts = [count for count in (loader.count, limit) if count is not None]
    return min(counts, default=None)


def _equalized(
    network: Network, inputs: Iterator[Inputs], device: torch.device | None
) -> tuple[Scales, Iterator[Inputs]]:
    """Rescale channels by what the first samples show; the scales, and all batches again."""
    first, again = _Kept(network).taken(inputs)
    scales = find_scales(network, first, device)
    equalize(network, scales)
    return scales, again


def _equalize(network: Network, table: CalibrationTable, where: str) -> None:
    try:
        equalize(network, table.scales)
    except ValueError as error:
        raise CalibrationError(
            where=where, reason=str(error), remedy="Calibrate again: pass a loader.",
        ) from error


def _correction_names(given: object) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, tuple | list) or not set(names) <= {*CORRECTIONS}:
        raise ConfigError(
            option="quantize_with", value=given, reason="unknown value",
            remedy=f"Use some of {', '.join(map(repr, CORRECTIONS))}, or () for none.",
        )
    return tuple(name for name in CORRECTIONS if name in names)


def _table(given: object) -> CalibrationTable:
    if isinstance(given, CalibrationTable):
        return given
    if isinstance(given, str | os.PathLike):
        return CalibrationTable.load(given)
    raise ConfigError(
        option="calibration_table", value=type(given).__name__, reason="it is no calibration table",
        remedy="Pass a CalibrationTable or the path of one.",
    )


def _where(given: object) -> str:
    return os.fspath(given) if isinstance(given, str | os.PathLike) else "table"
