"""What is made of samples of calibration data, once ranges are known: the steps, in order.

ranges     of which the outputs suffer least, by the method "outputs"
layers     corrected one after the other: how weights are rounded, and biases
float      the layers that lose too much stay in float
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch

from torch2rt.network.copy import copy_network
from torch2rt.network.dim import is_symbol
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.quantize.bias_correction import correct_layers
from torch2rt.quantize.calibrate import Calibration
from torch2rt.quantize.float_layers import layers_in_float
from torch2rt.quantize.gradients import NoGradientsError
from torch2rt.quantize.insert import Overrides, insert_quantization
from torch2rt.quantize.mix import INT8
from torch2rt.quantize.output_ranges import ranges_by_outputs
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.thresholds import OUTPUTS

logger = logging.getLogger(__name__)

Inputs = Mapping[str, torch.Tensor]

# Samples that weights are rounded by. What is lost is judged by others, where there are as many.
_ROUNDING = 16


def refine(
    network: Network, table: CalibrationTable, samples: Inputs, calibration: Calibration, *,
    target: str, overrides: Overrides, device: torch.device | None = None,
) -> CalibrationTable:
    """The table with what ``calibration`` asks for, made of samples of its data."""
    if calibration.method == OUTPUTS:
        with _where_there_are_gradients("tensors keep the range of a percentile"):
            table = ranges_by_outputs(
                network, table, samples, target=target, overrides=overrides, device=device
            )
    first, others = _split(network, samples)
    if set(calibration.corrections) & {"rounding", "bias_correction"}:
        quantized = copy_network(network)
        insert_quantization(quantized, table, target=target, overrides=overrides, fold=False)
        corrections = correct_layers(
            network, quantized, first, names=calibration.corrections, device=device
        )
        table = dataclasses.replace(table, corrections=corrections)
    if calibration.max_error is not None:
        with _where_there_are_gradients("no layer stays in float"):
            floats = layers_in_float(
                network, table, others, target=target, max_error=calibration.max_error,
                device=device,
            )
            table = dataclasses.replace(table, floats=floats)
    return table


@contextmanager
def _where_there_are_gradients(otherwise: str) -> Iterator[None]:
    try:
        yield
    except NoGradientsError as error:
        logger.warning("the model cannot be differentiated (%s): %s", error, otherwise)


def keeping(
    precision_of: Callable[[Layer], str], floats: Collection[str], other: str
) -> Callable[[Layer], str]:
    """The precision by layer, where layers that stay in float, by their outputs, have another."""

    def precision(layer: Layer) -> str:
        found = precision_of(layer)
        return other if found == INT8 and layer.outputs[0].name in floats else found

    return precision


def _split(network: Network, samples: Inputs) -> tuple[Inputs, Inputs]:
    """The first samples and the others; all of them twice where they are few or in one batch."""
    firsts = {tensor.shape[0] if tensor.rank else 1 for tensor in network.inputs.values()}
    is_free = len(firsts) == 1 and is_symbol(next(iter(firsts)))
    if not is_free or len(next(iter(samples.values()))) < 2 * _ROUNDING:
        return samples, samples
    return (
        {name: value[:_ROUNDING] for name, value in samples.items()},
        {name: value[_ROUNDING:] for name, value in samples.items()},
    )
