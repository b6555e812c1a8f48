"""convert(): a PyTorch model becomes an engine. Read it top to bottom: it is the whole flow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from torch2rt.backends.devices import open_backend
from torch2rt.backends.reference.executor import bind_symbols
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.capture.export import capture
from torch2rt.capture.partial import PartialModule
from torch2rt.config import BuildConfig, Profile, default_timing_cache
from torch2rt.engine.engine import Engine
from torch2rt.errors import ConfigError
from torch2rt.inspect.verify import exact_float32, verify_engine
from torch2rt.lower import lower
from torch2rt.model_builder import ModelBuilder
from torch2rt.module import RTModule
from torch2rt.network.copy import copy_network
from torch2rt.network.network import Network
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.budget import Metric, budget_from_options, max_error_of
from torch2rt.quantize.calibrate import (
    DEFAULT_CORRECTIONS,
    Calibration,
    calibration_from_options,
    is_loader,
)
from torch2rt.quantize.fingerprint import network_fingerprint
from torch2rt.quantize.held_out import hold_out
from torch2rt.quantize.loader import CalibrationLoader, arguments_seen, first_call
from torch2rt.quantize.metric import judge_of
from torch2rt.quantize.mix import INT8, RANGED
from torch2rt.quantize.overrides import parse_precision
from torch2rt.quantize.precision import build_in_precision
from torch2rt.quantize.steps import (
    calibrate_network,
    check_device,
    in_float32,
    needs_calibration,
)
from torch2rt.quantize.thresholds import OUTPUTS


class ConvertOptions(TypedDict, total=False):
    """Options of `convert` that `swap` passes on."""

    precision: str | Mapping[str, str]
    calibration: Any
    calibration_method: str
    calibration_batches: int | None
    calibration_table: Any
    quantize_with: str | Sequence[str]
    device: str | None
    dynamic_shapes: Any
    profiles: Sequence[Profile | Mapping[str, Sequence[int]]] | None
    fallback: str
    timing_cache: str | os.PathLike[str] | TimingCache | None
    threads: int | None
    tune_budget_s: float | None
    metric: Metric | None
    max_drop: float | None
    verify: bool
    progress: bool


STEPS = ("capture", "lower", "optimize", "calibrate", "precision", "build", "verify")


def convert(
    model: nn.Module,
    inputs: Any = None,
    *,
    precision: str | Mapping[str, str] = "fp32",
    calibration: Any = None,
    calibration_method: str = OUTPUTS,
    calibration_batches: int | None = None,
    calibration_table: Any = None,
    quantize_with: str | Sequence[str] = DEFAULT_CORRECTIONS,
    device: str | None = None,
    dynamic_shapes: Any = None,
    profiles: Sequence[Profile | Mapping[str, Sequence[int]]] | None = None,
    fallback: str = "torch",
    timing_cache: str | os.PathLike[str] | TimingCache | None = None,
    threads: int | None = None,
    tune_budget_s: float | None = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    verify: bool = True,
    progress: bool = True,
) -> RTModule:
    """Turn a model into an engine behind an `nn.Module` of the same interface.

    The model is not changed, and later changes to it do not reach the engine. A model in training
    mode is converted as ``model.eval()`` would be.

    Args:
        model: any module that `torch.export` can capture.
        inputs: example arguments: a tensor, a tuple of positional arguments, a dict of keyword
            arguments, or ``((args...), {kwargs...})``. None: captured from the first batch of
            the calibration data, and without such at the first call.
        precision: ``"fp32"``, ``"bf16"``, ``"int8"`` or ``"int8_weights"``, and on CUDA ``"fp16"``,
            ``"tf32"`` or, from sm_89 on, ``"fp8"``; or a dict by module path,
            ``{"features.0": "bf16", "*": "int8"}``. With ``"int8"``, layers get 8 bits where that
            is faster; a dict is followed to the letter. ``"int8_weights"``: linear layers keep
            their weights in 8 bits, beside floats. ``"fp8"``: linear layers in float8 (E4M3) where
            that is faster, the others in fp16. ``"auto"``: the fastest mix that keeps ``metric``
            within ``max_drop`` on every fourth batch of the calibration data, which is held out.
            Inputs and outputs keep their dtypes; what the model computes in 16 bits itself stays
            so, and in float64 at ``"fp32"``: below, float32 takes its place.
        calibration: for ``"int8"`` and ``"fp8"``: a DataLoader or any iterable of input batches,
            labels and all; or a `CalibrationTable` or its path. With ``"fp16"``: what it shows to
            leave the range of float16 stays float32.
        calibration_method: ``"outputs"``: for each tensor the percentile that the outputs suffer
            least from; ``"percentile"`` (or ``"percentile:99.9"``), ``"entropy"``,
            ``"entropy_doubling"``, ``"minmax"``, ``"mse"``, or ``"best"``: by error on a batch
            that is held out.
        calibration_batches: at most so many batches are taken. None: all.
        calibration_table: a table that calibration goes on from.
        quantize_with: what is done with calibration data besides ranges: ``"rounding"`` of weights
            by what a layer gives (the default), ``"equalize"`` ranges of channels,
            ``"bias_correction"``; several, or ``()``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; default: where the model's parameters are,
            or the inputs of a model that has none.
        dynamic_shapes: as `torch.export` takes it, or ``{"x": {0: "batch"}}``. None: the first
            axis is dynamic where that works.
        profiles: input shapes to tune for, by input name; default: the example's.
        fallback: ``"torch"`` runs ops without a rule through PyTorch; ``"error"`` lists them.
        timing_cache: file of measured times; default: one in the user's cache folder.
        threads: CPU threads; default: all cores this process may use.
        tune_budget_s: seconds that may be spent on timing tactics; layers that it leaves untimed
            get the tactic that is likely best. A later conversion with the same timing cache goes
            on from there. None: no limit.
        metric: of ``"auto"``: ``metric(outputs, batch) -> float``, higher is better; outputs as
            the model gives them, on the CPU, the batch as the loader gives it. None: 1 minus the
            outputs' relative error.
        max_drop: how far the metric may fall below that of the model. None: 0.005, and without
            a metric 0.03. With ``"int8"``, which has no metric: the relative error that 8 bits may
            make of the outputs on calibration data; layers that lose most for what they save stay
            float. None: 0.025; 1.0: none does.
        verify: compare the engine with the model on the example before returning.
        progress: show a progress bar.

    Raises:
        ConfigError: an option has an unusable value.
        CaptureError: the model cannot be captured as one graph.
        UnsupportedNodesError: ``fallback="error"`` and an op has no rule.
        PrecisionError: the precision cannot hold a weight of the model.
        CalibrationError: calibration data that do not fit, or a table of another model.
        VerificationError: the engine disagrees with the model; names the first layer that is off.

    Example:
        >>> rt = torch2rt.convert(model, torch.randn(1, 3, 224, 224))
        >>> y = rt(torch.randn(8, 3, 224, 224))
    """
    has_loader = is_loader(calibration)
    budget = budget_from_options(precision, metric, max_drop, has_loader=has_loader)
    overrides = parse_precision(precision if budget is None else INT8)
    config = BuildConfig(
        precision=overrides.lowest, overrides=overrides, budget=budget,
        device=device or _device_of(model, inputs),
        fallback=fallback, profiles=_profiles(profiles), threads=threads,
        tune_budget_s=tune_budget_s, verify=verify, progress=progress,
    )
    calibrated = calibration_from_options(
        calibration, calibration_method, calibration_batches, calibration_table, quantize_with,
        max_error_of(precision, max_drop),
    )
    needs_calibration(config.precision, calibrated, is_captured=inputs is not None)
    cache = _timing_cache(timing_cache)

    def build(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Engine:
        return _convert(model, args, kwargs, dynamic_shapes, config, cache, calibrated)

    if inputs is not None:
        return RTModule(build(*split_inputs(inputs)))
    if calibrated is not None and calibrated.loader is not None:
        return RTModule(build(*first_call(model, calibrated.loader.first())))
    return RTModule.deferred(build)


def _convert(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any,
    config: BuildConfig, cache: TimingCache, calibration: Calibration | None,
) -> Engine:
    """The flow, step by step."""
    name = type(model).__name__
    with _progress(name, config.progress) as step:
        backend = open_backend(config.device, threads=config.threads)
        check_device(config, backend)
        step("capture")
        captured = capture(model, args, kwargs, dynamic_shapes=dynamic_shapes)
        tensors = captured.call_spec.flatten(args, kwargs)
        step("lower")
        lowered = lower(captured, fallback=config.fallback, name=name)
        oracle = copy_network(lowered.network) if config.verify else None
        config.overrides.check_matches(lowered.network)
        fingerprint = network_fingerprint(lowered.network) if calibration is not None else ""
        step("optimize")
        is_calibrated = calibration is not None or config.precision in RANGED
        lowered = in_float32(lowered, config.precision)
        log = optimize(  # what is calibrated is alike for all backends
            lowered.network, merge_siblings=not is_calibrated,
            target="cpu" if is_calibrated else backend.name,
        )
        step("calibrate")
        calibration, held = hold_out(calibration, config.budget)
        table = calibrate_network(
            lowered.network, calibration, captured.call_spec, fingerprint, config, backend
        )
        step("precision")
        symbols = _symbols_of_profiles(lowered.network, config, tensors)
        judge = judge_of(captured, lowered.network, held, config.budget, tensors)
        with WorkerPool(backend.compile_workers) as workers:
            build = ModelBuilder(captured, lowered, config, backend, cache, symbols, step, workers)
            engine = build_in_precision(
                lowered.network, config, table, log, backend, symbols, tensors, build, judge
            )
        step("verify")
        if oracle is not None:
            with exact_float32():
                expected = captured.run(tensors)
            errors = verify_engine(
                engine, oracle, tensors, expected, "the example inputs", is_judged=judge is not None
            )
            engine.report["verified"] = errors
    return engine


def swap(
    model: nn.Module, path: str, inputs: Any, **options: Unpack[ConvertOptions]
) -> RTModule:
    """Convert one sub-module in place: ``model.<path>`` becomes an engine.

    ``inputs`` are the parent's: the model is run once on them to see what the sub-module is given.
    ``options`` go to `convert`; a calibration loader, too, gives inputs of the parent. Returns the
    new sub-module. ConfigError when there is no such sub-module or the model does not call it.

    Example:
        >>> torch2rt.swap(detector, "backbone", images)
    """
    try:
        target = model.get_submodule(path)
    except AttributeError as error:
        raise ConfigError(
            option="path", value=path, reason=f"the model has no such sub-module ({error})",
            remedy="See model.named_modules().",
        ) from error
    seen = next(arguments_seen(model, target, [split_inputs(inputs)]), None)
    if seen is None:
        raise ConfigError(
            option="path", value=path, reason="the model did not call it on these inputs",
            remedy="Name a sub-module that runs.",
        )
    calibration = options.get("calibration")
    if is_loader(calibration):
        batches = CalibrationLoader(calibration).batches()
        calls = (first_call(model, batch) for batch in batches)
        options["calibration"] = arguments_seen(model, target, calls)
    engine = convert(target, seen, **options)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, engine)
    return engine


def convert_pieces(model: nn.Module, **options: Unpack[ConvertOptions]) -> PartialModule:
    """A model whose Python decides by tensor values, as several engines.

    `convert` refuses such a model. Here torch.compile follows its Python at each call, and every
    stretch of tensor code between two decisions becomes an engine of its own when it is first
    reached. The result is an `nn.Module`; it cannot be saved as one engine. ``options`` go to
    `convert`.

    Example:
        >>> detector = torch2rt.convert_pieces(model)
        >>> boxes = detector(image)
    """
    return PartialModule(model, lambda piece, tensors: convert(piece, tensors, **options))


def split_inputs(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and keyword arguments."""
    match inputs:
        case torch.Tensor():
            return (inputs,), {}
        case Mapping():
            return (), dict(inputs)
        case (tuple() | list() as args, dict() as kwargs):
            return tuple(args), dict(kwargs)
        case tuple() | list():
            return tuple(inputs), {}
    raise ConfigError(
        option="inputs", value=type(inputs).__name__, reason="not example inputs",
        remedy="Pass a tensor, a tuple of arguments, a dict of keyword arguments, or "
        "((args...), {kwargs...}).",
    )


def _symbols_of_profiles(
    network: Network, config: BuildConfig, tensors: Sequence[torch.Tensor]
) -> list[dict[str, int]]:
    """Values of the shape symbols for each profile; the example's shapes when there is none."""
    shapes: list[Mapping[str, tuple[int, ...]]] = [p.shapes for p in config.profiles] or [
        {name: tuple(t.shape) for name, t in zip(network.inputs, tensors, strict=True)}
    ]
    return [bind_symbols(network, profile) for profile in shapes]


def _device_of(model: object, inputs: Any) -> str:
    """Where the model's tensors are, or its inputs if it has none: "cpu" unless on a GPU."""
    if not isinstance(model, nn.Module):
        return "cpu"  # capture says what is wrong with it
    own = (*model.parameters(), *model.buffers())
    for tensor in own or [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]:
        if tensor.is_cuda:
            return str(tensor.device)
    return "cpu"


def _profiles(
    profiles: Sequence[Profile | Mapping[str, Sequence[int]]] | None,
) -> tuple[Profile, ...]:
    return tuple(
        p if isinstance(p, Profile) else Profile({name: tuple(s) for name, s in p.items()})
        for p in profiles or ()
    )


def _timing_cache(given: str | os.PathLike[str] | TimingCache | None) -> TimingCache:
    if isinstance(given, TimingCache):
        return given
    return TimingCache(Path(given) if given is not None else default_timing_cache())


class _Steps:
    """A bar over the steps of a conversion, with the layers of the build as its fine print."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._count = 0

    def __call__(self, name: str) -> None:
        """The next step starts, so the one before is done; a step may start again."""
        self._bar.set_postfix_str(name)
        done = STEPS.index(name)
        self._bar.update(max(0, done - self._bar.n))

    def within(self, count: int) -> None:
        """So many more layers are tuned."""
        self._count += count
        self._bar.set_postfix_str(f"build, {self._count} layers tuned")

    def compiled(self, done: int, known: int) -> None:
        """So many of the kernels that are known to be needed are compiled."""
        self._bar.set_postfix_str(f"build, {done} of {known} kernels compiled")


@contextmanager
def _progress(name: str, is_shown: bool) -> Iterator[_Steps]:
    """A bar over the steps of a conversion."""
    with tqdm(total=len(STEPS), desc=f"convert {name}", disable=not is_shown, leave=False) as bar:
        yield _Steps(bar)
        bar.update(1)
