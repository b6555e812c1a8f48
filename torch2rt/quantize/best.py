"""The method "best": the one whose quantized network is nearest on batches that were held out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.network.copy import copy_network
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.quantize.insert import insert_quantization
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.thresholds import METHODS

logger = logging.getLogger(__name__)

Evaluate: TypeAlias = Callable[[CalibrationTable], float]
# Batches that choose between methods and are not observed.
HELD_OUT = 1


def best_table(table: CalibrationTable, evaluate: Evaluate) -> CalibrationTable:
    """The table by the method of least error, the first of equals."""
    errors: dict[str, float] = {}
    tables = {method: table.with_method(method) for method in METHODS}
    for method, candidate in tables.items():
        errors[method] = evaluate(candidate)
        logger.info("calibration method %s: error %.4g", method, errors[method])
    return tables[min(errors, key=lambda method: errors[method])]


def output_error(
    network: Network, held: Sequence[Mapping[str, torch.Tensor]], *, target: str,
    overrides: Callable[[Layer], str | None], device: torch.device | None = None,
) -> Evaluate:
    """What tells of a table how far it takes a network's outputs, as the mean relative error.

    Each output of each batch counts alike: the norm of the difference over the norm.
    """
    runner = NetworkRunner(network, device=device)
    wanted = [runner.run(inputs) for inputs in held]

    def evaluate(table: CalibrationTable) -> float:
        quantized = copy_network(network)
        insert_quantization(quantized, table, target=target, overrides=overrides)
        runner = NetworkRunner(quantized, device=device)
        errors = [
            _relative(got[name], want[name])
            for inputs, want in zip(held, wanted, strict=True)
            for got in [runner.run(inputs)] for name in want
        ]
        return sum(errors) / max(1, len(errors))

    return evaluate


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    if not want.is_floating_point():
        return float((got != want).float().mean())
    norm = float(torch.linalg.vector_norm(want.double()))
    return float(torch.linalg.vector_norm(got.double() - want.double())) / max(norm, 1e-30)
