"""From a written network to an engine: the steps of `convert` that follow capturing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from torch2rt.backends.devices import open_backend
from torch2rt.backends.reference.executor import bind_symbols, run_network
from torch2rt.build.builder import build_engine
from torch2rt.build.timing_cache import TimingCache
from torch2rt.config import BuildConfig, Profile, default_timing_cache
from torch2rt.engine.engine import Engine
from torch2rt.errors import ConfigError, DefinitionError
from torch2rt.inspect.verify import exact_float32, verify_engine
from torch2rt.inspect.verify_quantized import stores_weights
from torch2rt.network.copy import copy_network
from torch2rt.network.dim import substitute
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.passes.allow_tf32 import AllowTf32
from torch2rt.passes.base import Log, run_passes
from torch2rt.passes.lower_precision import LowerPrecision
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.mix import INT8_WEIGHTS, USUAL_FLOAT
from torch2rt.quantize.weights import store_weights

_HALVES = {"bf16": DType.BFLOAT16, "fp16": DType.FLOAT16}
_INDICES = 2  # random integers are 0 or 1, which are indices nearly everywhere


@dataclass(frozen=True, slots=True)
class Options:
    """Options of `Network.build`."""

    precision: str
    device: str
    profiles: Sequence[Mapping[str, Sequence[int]]]
    timing_cache: str | os.PathLike[str] | TimingCache | None
    threads: int | None
    tune_budget_s: float | None
    verify: bool


def build_network(graph: Network, options: Options) -> Engine:
    """Optimise a copy of the network and build it."""
    if not graph.outputs:
        raise DefinitionError(layer=graph.name, reason="no tensor is marked as an output")
    if options.precision in ("int8", "fp8", "auto"):
        raise ConfigError(
            option="precision", value=options.precision, reason="it needs calibration, which "
            "takes a model", remedy='Build at "fp32", "tf32", "fp16", "bf16" or "int8_weights".',
        )
    config = BuildConfig(
        precision=options.precision, device=options.device, threads=options.threads,
        profiles=tuple(
            Profile({name: tuple(shape) for name, shape in profile.items()})
            for profile in options.profiles
        ),
        tune_budget_s=options.tune_budget_s, verify=options.verify,
    )
    backend = open_backend(config.device, threads=config.threads)
    network, oracle = copy_network(graph), copy_network(graph)
    log = optimize(network, target=backend.name)
    precision = _set_precision(network, config.precision, log, backend.name)
    symbols = [_sizes(network, p.shapes) for p in config.profiles] or [_smallest(network)]
    cache = options.timing_cache
    if not isinstance(cache, TimingCache):
        cache = TimingCache(Path(cache) if cache is not None else default_timing_cache())
    engine = build_engine(
        network, symbols, backend, cache, precision=precision,
        budget_s=config.tune_budget_s,
        report={
            "fired": [[f.rule, f.layer, f.where] for f in log.fired],
            "rejected": [[r.rule, r.layer, r.where, r.reason] for r in log.rejected.values()],
        },
    )
    if config.verify:
        _verify(engine, oracle, symbols[0])
    return engine


def _set_precision(network: Network, precision: str, log: Log, target: str) -> str:
    """Give all layers a precision; the one that the network is called by then."""
    if precision == INT8_WEIGHTS:
        store_weights(network, is_wanted=lambda _: True, log=log)
        optimize(network, log=log, target=target)
        beside = _set_precision(network, USUAL_FLOAT[target], log, target)
        return precision if stores_weights(network) else beside
    if precision == "tf32":
        run_passes(network, [AllowTf32()], log=log)
    elif precision in _HALVES:
        run_passes(network, [LowerPrecision(_HALVES[precision])], log=log, check=False)
        optimize(network, log=log, target=target)
    return precision


def _verify(engine: Engine, oracle: Network, symbols: Mapping[str, int]) -> None:
    """VerificationError where the engine disagrees with the references on random inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, torch.Tensor] = {}
    for name, tensor in oracle.inputs.items():
        shape = [substitute(dim, symbols) for dim in tensor.shape]
        dtype = getattr(torch, tensor.dtype.value)
        inputs[name] = (
            torch.randn(shape, generator=generator).to(dtype) if tensor.dtype.is_float
            else torch.randint(0, _INDICES, shape, generator=generator).to(dtype)
        )
    with exact_float32():
        expected = run_network(oracle, inputs)
    engine.report["verified"] = verify_engine(
        engine, oracle, list(inputs.values()), list(expected.values()), "random inputs"
    )


def _sizes(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The open sizes of a profile. ConfigError where it does not fit the inputs."""
    wanted = {name: tensor.type for name, tensor in network.inputs.items()}
    try:
        if set(shapes) != set(wanted):
            raise ValueError(f"it names {', '.join(sorted(shapes))}")
        return bind_symbols(network, shapes)
    except ValueError as error:
        inputs = ", ".join(f"{name}: {type}" for name, type in wanted.items())
        raise ConfigError(
            option="profiles", value=dict(shapes), reason=str(error),
            remedy=f"Give a shape for each input ({inputs}).",
        ) from error


def _smallest(network: Network) -> dict[str, int]:
    return {name: low for name, (low, _) in network.symbols.items()}

