"""The step of a conversion that gives layers their precisions and builds the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torch2rt.backends.backend import Backend
from torch2rt.config import BuildConfig
from torch2rt.engine.engine import Engine
from torch2rt.network.network import Network
from torch2rt.passes.base import Log
from torch2rt.quantize.auto import best_within_budget
from torch2rt.quantize.choose import chooses_by_time, fastest_variant
from torch2rt.quantize.metric import Judge
from torch2rt.quantize.mix import ALL_LAYERS
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
            best = best_within_budget(variants, judge, lambda names: noise_of_layers(
                network, table, names, judge.inputs(SAMPLES), target=backend.name,
                device=torch.device(backend.device), progress=config.progress,
            ))
        engine = best.engine
        quality = quality_of_layers(network, config, table, backend, tensors, best.tried.mix)
    else:
        quality = quality_of_layers(network, config, table, backend, tensors)
        engine = build(
            network, log, set_precision(network, config, table, log, backend.name, ALL_LAYERS)
        )
    engine.report["quantized"] = [row.to_json() for row in quality]
    if table is not None and not config.overrides.is_by_layer:
        engine.report["floats"] = dict(table.floats)
    return engine
