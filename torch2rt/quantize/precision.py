"""The step of a conversion that gives layers their precisions and builds the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torch2rt.backends.backend import Backend
from torch2rt.config import BuildConfig
from torch2rt.engine.engine import Engine
from torch2rt.network.network import Network
from torch2rt.passes.base import Log
from torch2rt.quantize.auto import Noise, NoiseOf, best_within_budget
from torch2rt.quantize.choose import chooses_by_time, fastest_variant
from torch2rt.quantize.metric import Judge
from torch2rt.quantize.mix import ALL_LAYERS, FP8, INT8, INT8_WEIGHTS, Mix
from torch2rt.quantize.sensitivity import SAMPLES, noise_of_layers
from torch2rt.quantize.steps import quality_of_layers, set_precision
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.variants import Build, Variants


def build_in_precision(
    network: Network, config: BuildConfig, table: CalibrationTable | None, log: Log,
    backend: Backend, symbols: Sequence[Mapping[str, int]], tensors: Sequence[torch.Tensor],
    build: Build, judge: Judge | None = None,
) -> Engine:
    """The engine of an optimised float32 network; what quantization loses is in its report.

    That is seen on ``tensors``, the inputs. With a judge, the engine is within its budget.
    """
    if table is not None and (judge is not None or chooses_by_time(config, table)):
        variants = Variants(network, config, table, log, backend.name, symbols, build)
        if judge is None:
            best = fastest_variant(variants)
        else:
            best = best_within_budget(
                variants, judge, _kinds(backend), _noise_of(variants, judge, backend)
            )
        engine = best.engine
        asked = variants.asked_by(best.tried.mix)
        quality = quality_of_layers(network, *asked, backend, tensors, best.tried.mix)
    else:
        quality = quality_of_layers(network, config, table, backend, tensors)
        called = set_precision(network, config, table, log, backend.name, ALL_LAYERS)
        engine = build(network, log, called, table)
    engine.report["quantized"] = [row.to_json() for row in quality]
    if table is not None and not config.overrides.is_by_layer:
        engine.report["floats"] = dict(table.floats)
    return engine


def _kinds(backend: Backend) -> list[str]:
    """The precisions with 8 bits that a backend has."""
    kinds = [INT8, INT8_WEIGHTS]
    return [*kinds, FP8] if backend.lacks_float8() is None else kinds


def _noise_of(variants: Variants, judge: Judge, backend: Backend) -> NoiseOf:
    """What tells of a precision and of layers what these lose by it, on held-out samples."""

    def noise_of(precision: str, names: list[str]) -> Noise:
        config, table = variants.asked_by(Mix(precision=precision))
        return noise_of_layers(
            variants.network, table, names, judge.inputs(SAMPLES), target=backend.name,
            precision=precision, device=torch.device(backend.device), progress=config.progress,
        )

    return noise_of
