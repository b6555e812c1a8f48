"""The steps of a conversion that calibration and precision take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from torch2rt.backends.backend import Backend
from torch2rt.calls.pytree import CallSpec
from torch2rt.config import BuildConfig
from torch2rt.errors import ConfigError
from torch2rt.inspect.verify import exact_float32
from torch2rt.inspect.verify_quantized import is_quantized, stores_weights
from torch2rt.network.copy import copy_network
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.passes.allow_tf32 import AllowTf32
from torch2rt.passes.base import Log, run_passes
from torch2rt.passes.lower_precision import LowerPrecision
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.best import Evaluate, output_error
from torch2rt.quantize.bias_correction import correct_layers
from torch2rt.quantize.calibrate import Calibration, calibrate, wide_tensors
from torch2rt.quantize.calibrator import Inputs
from torch2rt.quantize.insert import insert_quantization
from torch2rt.quantize.mix import ALL_LAYERS, INT8, INT8_WEIGHTS, USUAL_FLOAT, Mix
from torch2rt.quantize.quality import LayerQuality, layer_quality
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.weights import store_weights

_HALVES = {"bf16": DType.BFLOAT16, "fp16": DType.FLOAT16}


def needs_calibration(
    precision: str, calibration: Calibration | None, *, is_captured: bool
) -> None:
    """ConfigError where a precision needs calibration data, or has no use for what was given.

    A model may bring ranges of its own, which is known when it is captured.
    """
    if calibration is not None and precision not in ("int8", "fp16"):
        raise ConfigError(
            option="calibration", value=_kind(calibration), reason=f"precision {precision!r} has "
            "no ranges to calibrate", remedy='Convert with precision="int8", or leave it out.',
        )
    if calibration is None and precision == "int8" and not is_captured:
        raise _no_ranges()


def calibrate_network(
    network: Network, calibration: Calibration | None, spec: CallSpec, fingerprint: str,
    config: BuildConfig, backend: Backend,
) -> CalibrationTable | None:
    """The calibration table of an optimised float32 network, None where none is asked for."""
    if calibration is None:
        if config.precision == "int8" and not is_quantized(network):
            raise _no_ranges()
        return None
    device = torch.device(backend.device)

    def evaluate(held: list[Inputs]) -> Evaluate:
        return output_error(
            network, held, target=backend.name, overrides=config.overrides.precision_of,
            device=device,
        )

    def correct(table: CalibrationTable, samples: Inputs) -> CalibrationTable:
        quantized = copy_network(network)
        insert_quantization(
            quantized, table, target=backend.name, overrides=config.overrides.precision_of,
            fold=False,
        )
        corrections = correct_layers(
            network, quantized, samples, names=calibration.corrections, device=device
        )
        return dataclasses.replace(table, corrections=corrections)

    with exact_float32():
        return calibrate(
            calibration, network, spec, fingerprint, device=device, progress=config.progress,
            evaluate=evaluate, correct=correct if config.precision == INT8 else None,
        )


def set_precision(
    network: Network, config: BuildConfig, table: CalibrationTable | None, log: Log, target: str,
    mix: Mix = ALL_LAYERS,
) -> str:
    """Give layers the precisions asked for, and optimise what that leaves for the backend.

    Returns the precision that the network is called by: "int8" if a layer has 8 bits,
    "int8_weights" if weights alone have.
    """
    overrides, half = config.overrides, _beside(config, target, mix)
    if config.precision == INT8 and table is not None:
        insert_quantization(
            network, table, target=target, log=log,
            overrides=mix.overriding(overrides.precision_of, half),
        )
    stores = any(precision == INT8_WEIGHTS for _, precision in overrides.patterns)
    if stores:
        store_weights(
            network, is_wanted=lambda layer: overrides.precision_of(layer) == INT8_WEIGHTS, log=log
        )
    if half in _HALVES:
        lowers = (half, INT8, INT8_WEIGHTS)
        lower = LowerPrecision(
            _HALVES[half], wide=wide_tensors(table) if table is not None and half == "fp16" else (),
            is_kept=lambda layer: overrides.precision_of(layer) not in lowers,
        )
        run_passes(network, [lower], log=log, check=False)
    if half in _HALVES or stores or config.precision == INT8:
        optimize(network, log=log, target=target)
    if "tf32" in (config.precision, half):
        run_passes(network, [AllowTf32()], log=log)
    return _called_by(network, config.precision, half)


def quality_of_layers(
    network: Network, config: BuildConfig, table: CalibrationTable | None, backend: Backend,
    tensors: Sequence[torch.Tensor], mix: Mix = ALL_LAYERS,
) -> list[LayerQuality]:
    """What quantization loses on ``tensors``, the inputs, by layer of the float32 network."""
    if config.precision != INT8 or table is None:
        return []
    after, device = copy_network(network), torch.device(backend.device)
    insert_quantization(
        after, table, target=backend.name, overrides=mix.overriding(
            config.overrides.precision_of, _beside(config, backend.name, mix)
        ),
    )
    placed = [tensor.to(device) for tensor in tensors]
    with exact_float32():
        return layer_quality(
            network, after, dict(zip(network.inputs, placed, strict=True)),
            {name: row.threshold for name, row in table.rows.items()}, device,
        )


def _called_by(network: Network, precision: str, half: str) -> str:
    """The precision asked for, where it asks for 8 bits the lowest that a layer has."""
    if precision == INT8 and is_quantized(network):
        return INT8
    if precision in (INT8, INT8_WEIGHTS):
        return INT8_WEIGHTS if stores_weights(network) else half
    return precision


def _beside(config: BuildConfig, target: str, mix: Mix) -> str:
    """The precision of layers that 8 bits are not for."""
    half = mix.beside or config.overrides.half
    return half or (USUAL_FLOAT[target] if config.precision in (INT8, INT8_WEIGHTS) else "fp32")


def _no_ranges() -> ConfigError:
    return ConfigError(
        option="calibration", value=None, reason='precision="int8" needs the ranges of tensors',
        remedy="Pass a DataLoader or another iterable of input batches, or a calibration table.",
    )


def _kind(calibration: Calibration) -> str:
    return "loader" if calibration.loader is not None else "table"
