"""Engines to engine files and back: what of an engine is saved, and how it is rebuilt."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import Any

from torch2rt.backends.backend import Backend
from torch2rt.backends.devices import open_backend
from torch2rt.engine.engine import Engine
from torch2rt.engine.file import EngineFile, from_bytes, read, to_bytes, write
from torch2rt.engine.plan import Plan
from torch2rt.engine.weights import EngineWeights
from torch2rt.errors import EngineFileError, NetworkTextError
from torch2rt.extension.loading import check_registered, lacks_source, use_plugins
from torch2rt.network.layer import Origin
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text


def save_engine(engine: Engine, path: str | os.PathLike[str]) -> None:
    """Write an engine to one file, atomically."""
    write(path, engine_file(engine))


def load_engine(
    path: str | os.PathLike[str], device: str | None = None, plugins: Iterable[object] = (),
) -> Engine:
    """Read an engine; EngineFileError says what is wrong with the file."""
    use_plugins(plugins)
    return _engine(read(path), str(path), device)


def engine_to_bytes(engine: Engine) -> bytes:
    """The engine file as bytes."""
    return to_bytes(engine_file(engine))


def engine_from_bytes(data: bytes, device: str | None = None) -> Engine:
    """The inverse of `engine_to_bytes`."""
    return _engine(from_bytes(data), "engine bytes", device)


def engine_file(engine: Engine) -> EngineFile:
    """What a file holds of an engine."""
    network = engine.network
    return EngineFile(
        network_text=text(network),
        plans=tuple(plan.to_json() for plan in engine.plans),
        calls=engine.calls,
        origins={
            layer.name: [[o.module_path, o.op, o.source] for o in layer.origins]
            for layer in network.layers
        },
        report=engine.report,
        calibration=_without_histograms(engine.calibration),
        environment={
            "backend": engine.backend.fingerprint(), "python": platform.python_version(),
        },
        precision=engine.precision,
        device=engine.backend.device,
        constants=dict(engine.weights.arrays),
        dtypes={tensor.name: tensor.dtype for tensor in network.constants},
        blobs=dict(engine.weights.blobs),
    )


def _engine(file: EngineFile, path: str, device: str | None) -> Engine:
    try:
        network = parse(file.network_text, file.constants)
        _restore_origins(network, file.origins)
        plans = [Plan.from_json(plan) for plan in file.plans]
    except (NetworkTextError, ValueError, KeyError, TypeError, IndexError) as error:
        raise EngineFileError(
            path=path, reason=f"its network or plans cannot be read ({error})",
            remedy="Convert the model again.",
        ) from error
    backend = _backend(file.device, device)
    is_same_machine = file.environment.get("backend") == backend.fingerprint()
    usable = [
        plan for plan in plans
        if is_same_machine
        or (_is_runnable(plan, backend.tactics) and not lacks_source(plan, network.layers))
    ]
    check_registered(network.layers, usable, backend.name)
    return Engine(
        network, usable, backend, precision=file.precision, calls=file.calls, report=file.report,
        weights=EngineWeights(file.constants, file.blobs if is_same_machine else None),
        calibration=file.calibration,
    )


def _without_histograms(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    """A calibration table as an engine file keeps it: ranges and thresholds."""
    if calibration is None:
        return None
    return {key: value for key, value in calibration.items() if key != "histograms"}


def _backend(built_for: str, asked: str | None) -> Backend:
    """The backend asked for; else the one the engine was built for, on the first such device."""
    return open_backend(asked if asked is not None else built_for.partition(":")[0])


def _is_runnable(plan: Plan, tactics: dict[str, Any]) -> bool:
    """Whether this machine's backend has every tactic a plan of another machine names."""
    return all(step.tactic in tactics for step in plan.steps)


def _restore_origins(network: Network, origins: dict[str, list[list[str]]]) -> None:
    for layer in network.layers:
        rows = origins.get(layer.name, [])
        network.set_origins(layer, [Origin(*map(str, row[:3])) for row in rows])
