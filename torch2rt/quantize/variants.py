"""Engines of one calibrated network in several mixes of precisions, each built and timed."""

from __future__ import annotations

import dataclasses
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
from torch2rt.quantize.mix import FP8, INT8, USUAL_FLOAT, Mix
from torch2rt.quantize.overrides import parse_precision
from torch2rt.quantize.step_times import StepTimes, step_times
from torch2rt.quantize.steps import FLOAT8_METHOD, set_precision
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.weights import NAME as STORE_WEIGHTS

logger = logging.getLogger(__name__)

# What takes at most this part of another's time is faster, whatever the noise.
_SURELY = 0.99
# What gives a layer 8 bits.
_QUANTIZING = (QUANTIZE, QUANTIZE_TO_FLOAT8, STORE_WEIGHTS)

# An engine of a network, which it may change, called by a precision; the log is for its report,
# the table for whoever asks for it.
Build: TypeAlias = Callable[[Network, Log, str, CalibrationTable | None], Engine]


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

    def is_of(self, prepared: Prepared) -> bool:
        """Whether it is of the same network: the same layers in the same 8 bits, or none."""
        mix, other = self.mix, prepared.mix
        is_like = mix.precision == other.precision or not self.layers
        return is_like and self.layers == prepared.layers and mix.beside == other.beside

    def is_faster_than(self, other: Tried) -> bool:
        """Whether it is, by more than timing may be off."""
        return self.time_us < _SURELY * other.time_us


@dataclass(frozen=True)
class Prepared:
    """A network in a mix of precisions, called by one, before an engine is built of it."""

    mix: Mix
    network: Network
    log: Log
    precision: str
    layers: frozenset[str]


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

    def asked_by(self, mix: Mix) -> tuple[BuildConfig, CalibrationTable]:
        """Options and ranges where 8 bits are what a mix says."""
        precision = mix.precision or self.config.precision
        if precision == self.config.precision:
            return self.config, self.table
        config = dataclasses.replace(
            self.config, precision=precision, overrides=parse_precision(precision)
        )
        return config, self.table.with_method(FLOAT8_METHOD) if precision == FP8 else self.table

    def make(self, mix: Mix) -> Variant:
        """Build and time a mix."""
        return self.built(self.prepared(mix))

    def prepared(self, mix: Mix) -> Prepared:
        """The network of a mix: which layers really get 8 bits is known of it."""
        network, (config, table) = copy_network(self.network), self.asked_by(mix)
        log = Log(list(self.log.fired), dict(self.log.rejected))
        precision = set_precision(network, config, table, log, self.target, mix)
        layers = frozenset(fired.layer for fired in log.fired if fired.rule in _QUANTIZING)
        return Prepared(mix, network, log, precision, layers)

    def built(self, prepared: Prepared) -> Variant:
        """Its engine, timed."""
        config, table = self.asked_by(prepared.mix)
        engine = self.build(prepared.network, prepared.log, prepared.precision, table)
        times = engine_time_us(engine), step_times(engine)
        tried = Tried(prepared.mix, prepared.layers, *times, config.precision)
        logger.info("%s takes %.1f us", tried.label, tried.time_us)
        return Variant(tried, engine)
