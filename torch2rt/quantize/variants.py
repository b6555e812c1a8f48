"""Engines of one calibrated network in several mixes of precisions, each built and timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch2rt.build.engine_time import engine_time_us
from torch2rt.config import BuildConfig
from torch2rt.engine.engine import Engine
from torch2rt.network.copy import copy_network
from torch2rt.network.network import Network
from torch2rt.passes.base import Log
from torch2rt.quantize.float8 import NAME as QUANTIZE_TO_FLOAT8
from torch2rt.quantize.insert import NAME as QUANTIZE
from torch2rt.quantize.mix import INT8, USUAL_FLOAT, Mix
from torch2rt.quantize.step_times import StepTimes, step_times
from torch2rt.quantize.steps import set_precision
from torch2rt.quantize.table import CalibrationTable

logger = logging.getLogger(__name__)

# What takes at most this part of another's time is faster, whatever the noise.
_SURELY = 0.99
# What gives a layer 8 bits.
_QUANTIZING = (QUANTIZE, QUANTIZE_TO_FLOAT8)

# An engine of a network, which it may change, called by a precision; the log is for its report.
Build: TypeAlias = Callable[[Network, Log, str], Engine]


@dataclass(frozen=True)
class Tried:
    """What a mix takes per run; ``layers`` have 8 bits, by their calibrated names."""

    mix: Mix
    layers: frozenset[str]
    time_us: float
    steps: StepTimes
    precision: str = INT8  # what 8 bits are

    @property
    def label(self) -> str:
        """What it is called in reports: its precision, or how many layers have which."""
        beside = self.mix.beside or "float"
        if not self.layers:
            return beside
        count = "" if self.mix.layers is None else f"{len(self.layers)} x "
        return f"{count}{self.precision} + {beside}"

    def is_faster_than(self, other: Tried) -> bool:
        """Whether it is, by more than timing may be off."""
        return self.time_us < _SURELY * other.time_us


@dataclass(frozen=True)
class Variant:
    """An engine and what is known of it. Engines hold memory: keep the best one only."""

    tried: Tried
    engine: Engine


@dataclass(frozen=True)
class Variants:
    """Makes variants of a calibrated float32 network, which stays as it is."""

    network: Network
    config: BuildConfig
    table: CalibrationTable
    log: Log
    target: str
    symbols: Sequence[Mapping[str, int]]
    build: Build

    @property
    def beside(self) -> str:
        """The usual float precision beside 8 bits."""
        return self.config.overrides.half or USUAL_FLOAT[self.target]

    def make(self, mix: Mix) -> Variant:
        """Build and time a mix."""
        network = copy_network(self.network)
        log = Log(list(self.log.fired), dict(self.log.rejected))
        precision = set_precision(network, self.config, self.table, log, self.target, mix)
        layers = frozenset(fired.layer for fired in log.fired if fired.rule in _QUANTIZING)
        engine = self.build(network, log, precision)
        times = engine_time_us(engine), step_times(engine)
        tried = Tried(mix, layers, *times, self.config.precision)
        logger.info("%s takes %.1f us", tried.label, tried.time_us)
        return Variant(tried, engine)
