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
from torch2rt.lower import Lowered
from torch2rt.network.copy import copy_network
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.passes.allow_tf32 import AllowTf32
from torch2rt.passes.base import Log, run_passes
from torch2rt.passes.lower_precision import LowerPrecision
from torch2rt.passes.pipeline import optimize
from torch2rt.passes.to_float32 import DOUBLES, HALVES, ToFloat32, multiplies_doubles
from torch2rt.quantize.best import Evaluate, output_error
from torch2rt.quantize.calibrate import Calibration, calibrate, wide_tensors
from torch2rt.quantize.calibrator import Inputs
from torch2rt.quantize.float8 import insert_float8
from torch2rt.quantize.insert import insert_quantization
from torch2rt.quantize.mix import (
    ALL_LAYERS,
    FP8,
    INT8,
    INT8_WEIGHTS,
    RANGED,
    USUAL_FLOAT,
    Mix,
)
from torch2rt.quantize.quality import LayerQuality, layer_quality
from torch2rt.quantize.refine import keeping, refine
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.weights import store_weights

_HALVES = {"bf16": DType.BFLOAT16, "fp16": DType.FLOAT16}
_STAYS_DOUBLE = (
    'the model computes in float64, and so does the engine, slowly; convert model.float(), or with '
    'another precision than "fp32"'
)
_NO_DOUBLE = (
    "the model computes in float64; at this precision the engine has float32 in its place, between "
    "inputs and outputs of float64"
)
# float8 has fine steps for small numbers: nothing is gained by clipping large ones.
FLOAT8_METHOD = "minmax"


def check_device(config: BuildConfig, backend: Backend) -> None:
    """ConfigError where the device has no arithmetic for a precision that is asked for."""
    wanted = {precision for _, precision in config.overrides.patterns}
    reason = backend.lacks_float8() if FP8 in wanted else None
    if reason is not None:
        raise ConfigError(
            option="precision", value=FP8, reason=reason,
            remedy='Use precision="int8", "int8_weights" or "fp16" there.',
        )


def in_float32(lowered: Lowered, precision: str) -> Lowered:
    """A lowered model, its network in float32 where the precision starts from that, and a note.

    8 bits are made of float32, and every lower precision of a model in float64 is. At "fp32" such
    a model stays what it is.
    """
    network = lowered.network
    dtypes = set(HALVES) if precision in RANGED else set()
    if not multiplies_doubles(network):
        notes: tuple[str, ...] = ()
    elif precision == "fp32":
        notes = (_STAYS_DOUBLE,)
    else:
        notes = (_NO_DOUBLE,)
        dtypes.update(DOUBLES)
    if dtypes:
        run_passes(network, [ToFloat32(dtypes)])
    return dataclasses.replace(lowered, notes=(*lowered.notes, *notes))


def needs_calibration(
    precision: str, calibration: Calibration | None, *, is_captured: bool
) -> None:
    """ConfigError where a precision needs calibration data, or has no use for what was given.

    A model may bring ranges of its own, which is known when it is captured.
    """
    if calibration is not None and precision not in (*RANGED, "fp16"):
        raise ConfigError(
            option="calibration", value=_kind(calibration), reason=f"precision {precision!r} has "
            "no ranges to calibrate", remedy='Convert with precision="int8", or leave it out.',
        )
    if calibration is None and precision in RANGED and not is_captured:
        raise _no_ranges(precision)


def calibrate_network(
    network: Network, calibration: Calibration | None, spec: CallSpec, fingerprint: str,
    config: BuildConfig, backend: Backend,
) -> CalibrationTable | None:
    """The calibration table of an optimised float32 network, None where none is asked for."""
    if calibration is None:
        if config.precision in RANGED and not is_quantized(network):
            raise _no_ranges(config.precision)
        return None
    device = torch.device(backend.device)

    def evaluate(held: list[Inputs]) -> Evaluate:
        return output_error(
            network, held, target=backend.name, overrides=config.overrides.precision_of,
            device=device,
        )

    def refined(table: CalibrationTable, samples: Inputs) -> CalibrationTable:
        return refine(
            network, table, samples, calibration, target=backend.name,
            overrides=config.overrides.precision_of, device=device,
        )

    is_integers = config.precision == INT8
    with exact_float32():
        table = calibrate(
            calibration, network, spec, fingerprint, device=device, progress=config.progress,
            evaluate=evaluate if is_integers else None, refine=refined if is_integers else None,
        )
    return table.with_method(FLOAT8_METHOD) if config.precision == FP8 else table


def set_precision(
    network: Network, config: BuildConfig, table: CalibrationTable | None, log: Log, target: str,
    mix: Mix = ALL_LAYERS,
) -> str:
    """Give layers the precisions asked for, and optimise what that leaves for the backend.

    Returns the precision that the network is called by: "int8" if a layer has 8 bits,
    "int8_weights" if weights alone have.
    """
    overrides, half = config.overrides, _beside(config, target, mix)
    _quantize(network, config, table, target, mix, log)
    if half in _HALVES:
        lowers = (half, *RANGED, INT8_WEIGHTS)
        lower = LowerPrecision(
            _HALVES[half], wide=wide_tensors(table) if table is not None and half == "fp16" else (),
            is_kept=lambda layer: overrides.precision_of(layer) not in lowers,
        )
        run_passes(network, [lower], log=log, check=False)
    if half in _HALVES or _has_8_bits(config):
        optimize(network, log=log, target=target)
    if "tf32" in (config.precision, half):
        run_passes(network, [AllowTf32()], log=log)
    return _called_by(network, config.precision, half)


def quality_of_layers(
    network: Network, config: BuildConfig, table: CalibrationTable | None, backend: Backend,
    tensors: Sequence[torch.Tensor], mix: Mix = ALL_LAYERS,
) -> list[LayerQuality]:
    """What quantization loses on ``tensors``, the inputs, by layer of the float32 network."""
    if not _has_8_bits(config):
        return []
    after, device = copy_network(network), torch.device(backend.device)
    _quantize(after, config, table, backend.name, mix)
    rows = table.rows if table is not None else {}
    placed = [tensor.to(device) for tensor in tensors]
    with exact_float32():
        return layer_quality(
            network, after, dict(zip(network.inputs, placed, strict=True)),
            {name: row.threshold for name, row in rows.items()}, device,
        )


def _has_8_bits(config: BuildConfig) -> bool:
    """Whether a layer, or its weights, may get 8 bits."""
    return any(precision in (*RANGED, INT8_WEIGHTS) for _, precision in config.overrides.patterns)


def _quantize(
    network: Network, config: BuildConfig, table: CalibrationTable | None, target: str, mix: Mix,
    log: Log | None = None,
) -> None:
    """Give 8 bits to the layers, and to the weights, that are to have them."""
    overrides = config.overrides.precision_of
    beside = _beside(config, target, mix)
    floats = table.floats if table is not None and not config.overrides.is_by_layer else {}
    by_layer = mix.overriding(keeping(overrides, floats, beside), beside)
    if table is not None and config.precision == INT8:
        insert_quantization(network, table, target=target, log=log, overrides=by_layer)
    if table is not None and config.precision == FP8:
        insert_float8(network, table, log=log, overrides=by_layer)
    if any(precision == INT8_WEIGHTS for _, precision in config.overrides.patterns):
        store_weights(
            network, is_wanted=lambda layer: overrides(layer) == INT8_WEIGHTS, log=log
        )


def _called_by(network: Network, precision: str, half: str) -> str:
    """The precision asked for, where it asks for 8 bits the lowest that a layer has."""
    if precision in RANGED and is_quantized(network):
        return precision
    if precision in (*RANGED, INT8_WEIGHTS):
        return INT8_WEIGHTS if stores_weights(network) else half
    return precision


def _beside(config: BuildConfig, target: str, mix: Mix) -> str:
    """The precision of layers that 8 bits are not for."""
    half = mix.beside or config.overrides.half
    return half or (USUAL_FLOAT[target] if config.precision in (*RANGED, INT8_WEIGHTS) else "fp32")


def _no_ranges(precision: str) -> ConfigError:
    return ConfigError(
        option="calibration", value=None, reason=f'precision="{precision}" needs the ranges of '
        "tensors",
        remedy="Pass a DataLoader or another iterable of input batches, or a calibration table.",
    )


def _kind(calibration: Calibration) -> str:
    return "loader" if calibration.loader is not None else "table"
