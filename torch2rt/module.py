"""RTModule: an engine with the face of the `nn.Module` it was made from."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.calls.pytree import CallSpec, OutputSpec
from torch2rt.engine.engine import Engine, Runnable
from torch2rt.engine.exact import run_tensors
from torch2rt.errors import DeviceError, EngineFileError, InputError, NotBuiltError, TrainingError
from torch2rt.network.dtype import DType

if TYPE_CHECKING:
    from torch2rt.inspect.bisect import StepError
    from torch2rt.inspect.profile import EngineProfile
    from torch2rt.quantize.table import CalibrationTable

Build = Callable[[tuple[Any, ...], dict[str, Any]], Engine]


class RTModule(nn.Module):
    """Runs an engine where the model stood: same arguments, same structure of outputs.

    Many threads may call it. It has no parameters of its own: `state_dict` is empty, `pickle` and
    `copy.deepcopy` carry the engine. Gradients and training are refused.
    """

    def __init__(self, engine: Engine | None, build: Build | None = None) -> None:
        super().__init__()
        super().train(False)
        self._engine = engine
        self._build = build
        self._build_lock = threading.Lock()
        if engine is not None:
            self._prepare_fast_path(engine)

    @staticmethod
    def deferred(build: Build) -> RTModule:
        """A module whose engine is made by ``build(args, kwargs)`` at its first call."""
        return RTModule(None, build)

    @property
    def engine(self) -> Engine:
        """The engine. NotBuiltError before the first call of a module converted without inputs."""
        if self._engine is None:
            raise NotBuiltError()
        return self._engine

    def _prepare_fast_path(self, engine: Engine) -> None:
        self.call_spec = CallSpec.from_json(engine.calls["inputs"])
        self.output_spec = OutputSpec.from_json(engine.calls["outputs"])
        self._runnable = engine.runnable
        self._device = torch.device(engine.backend.device)
        self._is_on_cpu = self._device.type == "cpu"
        self._input_dtypes = [_torch_dtype(b.type.dtype) for b in engine.bindings.inputs]
        self._output_dtypes = [_torch_dtype(b.type.dtype) for b in engine.bindings.outputs]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's forward returns, computed by the engine.

        InputError or CallError names an argument that does not fit; TrainingError when a gradient
        is asked for.
        """
        if self._engine is None:
            self._build_now(args, kwargs)
        tensors = self.call_spec.flatten(args, kwargs)
        for index, tensor in enumerate(tensors):
            if (
                tensor.dtype is not self._input_dtypes[index]
                or tensor.requires_grad
                or not tensor.is_contiguous()
                or tensor.device != self._device
            ):
                tensors[index] = self._accept(index, tensor)
        runnable = self._runnable(tuple([tensor.shape for tensor in tensors]))
        if not self._is_on_cpu:
            return self.output_spec.rebuild(self._run_on_device(runnable, tensors))
        if runnable.drops_nan and not all(_is_finite(tensor) for tensor in tensors):
            return self.output_spec.rebuild(run_tensors(self.engine, tensors))
        outputs = [
            torch.empty(spec.shape, dtype=dtype)
            for spec, dtype in zip(runnable.output_specs, self._output_dtypes, strict=True)
        ]
        runnable.run([t.data_ptr() for t in tensors], [t.data_ptr() for t in outputs])
        return self.output_spec.rebuild(outputs)

    def _run_on_device(self, runnable: Runnable, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Enqueue a run on torch's current stream."""
        outputs = [
            torch.empty(spec.shape, dtype=dtype, device=self._device)
            for spec, dtype in zip(runnable.output_specs, self._output_dtypes, strict=True)
        ]
        stream = torch.cuda.current_stream(self._device).cuda_stream
        if any(tensor.data_ptr() % VECTOR_BYTES for tensor in tensors):
            tensors = [t.clone() if t.data_ptr() % VECTOR_BYTES else t for t in tensors]
        runnable.run([t.data_ptr() for t in tensors], [t.data_ptr() for t in outputs], stream)
        return outputs

    def _build_now(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the engine from the first call; other threads wait for it."""
        with self._build_lock:
            if self._engine is None:
                assert self._build is not None
                engine = self._build(args, kwargs)
                self._prepare_fast_path(engine)
                self._engine = engine
                self._build = None

    def _accept(self, index: int, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as the engine can read it, or the error that says why not."""
        binding = self.engine.bindings.inputs[index]
        expected = self._input_dtypes[index]
        if tensor.dtype is not expected:
            raise InputError(
                name=binding.name, reason="wrong dtype", expected=expected, got=tensor.dtype,
                remedy=f"Convert it: tensor.to({expected}).",
            )
        if tensor.device != self._device:
            raise InputError(
                name=binding.name, reason="wrong device", expected=self._device,
                got=tensor.device, remedy=f"Move it: tensor.to({str(self._device)!r}).",
            )
        if tensor.layout is not torch.strided:
            raise InputError(
                name=binding.name, reason="not a dense tensor", expected="torch.strided",
                got=tensor.layout, remedy="Convert it: tensor.to_dense().",
            )
        if tensor.requires_grad and torch.is_grad_enabled():
            raise TrainingError(what=f"input {binding.name!r} requires a gradient")
        return tensor.detach().contiguous()

    # ---- what a user does with an engine ---------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the engine to one file; `torch2rt.load` and `torch2rt.Engine.load` read it."""
        self.engine.save(path)

    def refit(self, model: nn.Module, inputs: Any = None, *, verify: bool = True) -> RTModule:
        """Take the weights of a model of the same structure; nothing is timed or compiled again.

        The engine is replaced by one with its plans and the model's weights, folded as they were;
        calls that are under way end with the old one. ``inputs`` are example arguments as
        `convert` takes them, for the capture and, with ``verify``, the comparison with the model;
        made up where there are none. Returns itself.

        RefitError says what keeps the weights out: another structure, numbers that folding looks
        at, an engine in 8 bits; the engine is then as it was. CaptureError and VerificationError:
        see `convert`.

        Example:
            >>> rt.refit(finetuned)
        """
        from torch2rt.convert import split_inputs
        from torch2rt.refit import refitted

        tensors = None
        if inputs is not None:
            args, kwargs = split_inputs(inputs)
            tensors = self._accepted(args, kwargs)
        engine = refitted(self.engine, model, tensors, verify=verify)
        self._engine, self._runnable = engine, engine.runnable
        return self

    @property
    def calibration_table(self) -> CalibrationTable | None:
        """The table that the engine was calibrated with, None for one that was not.

        A saved engine keeps no histograms: save the table itself to merge it or to go on from it.
        CalibrationError where the engine file holds something else.
        """
        from torch2rt.quantize.table import CalibrationTable

        data = self.engine.calibration
        return CalibrationTable.from_json(data) if data is not None else None

    def check_plugins(self, *args: Any, **kwargs: Any) -> list[str]:
        """Run every plugin between guard bytes on these inputs; the layers that were checked.

        PluginError names a plugin that writes beyond its outputs, changes its inputs, leaves part
        of an output unwritten, or fails; `convert` does the same on the example inputs.
        """
        from torch2rt.inspect.plugins import check_plugins

        return check_plugins(self.engine, self.call_spec.flatten(args, kwargs))

    def report(self, path: str | os.PathLike[str] | None = None) -> str:
        """What became of every node, and why; also written to ``path`` (JSON if ``.json``)."""
        from torch2rt.inspect.report import report_text, write_report

        if path is not None:
            write_report(self.engine, path)
        return report_text(self.engine)

    def profile(self, *args: Any, **kwargs: Any) -> EngineProfile:
        """Time of every step on these arguments; ``str()`` of the result is a table."""
        from torch2rt.inspect.profile import profile_engine
        from torch2rt.torch_values import constant_from_torch

        tensors = self._accepted(args, kwargs)
        return profile_engine(self.engine, [constant_from_torch(t)[0] for t in tensors])

    def bisect(self, model: nn.Module, *args: Any, **kwargs: Any) -> StepError | None:
        """The first layer that is off on these arguments, None if the outputs agree with the model.

        Each step is compared with its reference on the engine's own inputs to it.
        """
        from torch2rt.inspect.bisect import first_off
        from torch2rt.inspect.verify import agrees

        tensors = self._accepted(args, kwargs)
        if agrees(self.engine, model, tensors, args, kwargs):
            return None
        return first_off(self.engine, tensors)

    def _accepted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors of a call, checked."""
        if self._engine is None:
            self._build_now(args, kwargs)
        return [self._accept(i, t) for i, t in enumerate(self.call_spec.flatten(args, kwargs))]

    # ---- what a user does with an nn.Module ------------------------------------------------

    def train(self, mode: bool = True) -> RTModule:
        """Stay in inference; TrainingError for ``mode=True``."""
        if mode:
            raise TrainingError(what="train() was called on an engine")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> RTModule:
        """TrainingError unless False: there is nothing to train."""
        if requires_grad:
            raise TrainingError(what="requires_grad_() was called on an engine")
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> RTModule:
        """Take `.to`, `.cuda`, `.half` and the like: only what changes nothing is allowed."""
        probe = torch.empty(0, device=self._device if self._engine is not None else None)
        moved = fn(probe)
        if moved.device != probe.device:
            raise DeviceError(
                device=str(moved.device), reason="the engine was built for another device",
                remedy=f"Convert the model with device={str(moved.device.type)!r}, or load the "
                "saved engine with that device.",
            )
        if moved.dtype != probe.dtype:
            raise DeviceError(
                device=str(moved.device), reason=f"the engine's precision is fixed, not "
                f"{moved.dtype}", remedy="Convert the model with another precision.",
            )
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The engine as the bytes of its file, and the hooks of the module."""
        from torch2rt.engine.archive import engine_to_bytes

        state = {k: v for k, v in self.__dict__.items() if k not in _REBUILT}
        state["engine_bytes"] = engine_to_bytes(self.engine)
        state["device"] = self.engine.backend.device
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        from torch2rt.engine.archive import engine_from_bytes

        state = dict(state)
        engine = engine_from_bytes(state.pop("engine_bytes"), state.pop("device"))
        self.__dict__.update(state)
        self._engine = engine
        self._build = None
        self._build_lock = threading.Lock()
        self._prepare_fast_path(engine)

    def __deepcopy__(self, memo: dict[int, Any]) -> RTModule:
        """Another module on the same engine, which is immutable."""
        copy = RTModule(self._engine, self._build)
        memo[id(self)] = copy
        return copy

    def extra_repr(self) -> str:
        """The bindings and the device."""
        if self._engine is None:
            return "not built yet: call it once"
        bindings = self.engine.bindings
        return (
            f"{', '.join(map(str, bindings.inputs))} -> {', '.join(map(str, bindings.outputs))}; "
            f"{self.engine.precision} on {self.engine.backend.device}"
        )


def load(
    path: str | os.PathLike[str], device: str | None = None, plugins: Iterable[object] = (),
) -> RTModule:
    """The module of a saved engine. ``plugins``: see `Engine.load`.

    EngineFileError when the file is not usable, or was saved without the structure of the model's
    arguments; loading runs no code of the file.
    """
    engine = Engine.load(path, device, plugins)
    if not engine.calls:
        raise EngineFileError(
            path=path, reason="it has no call structure of an nn.Module",
            remedy="Run it with torch2rt.Engine.load(path).run({...}).",
        )
    return RTModule(engine)


_REBUILT = {
    "_engine", "_build", "_build_lock", "_runnable", "call_spec", "output_spec", "_input_dtypes",
    "_output_dtypes", "_device", "_is_on_cpu",
}


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether there is no NaN and no infinity (or a sum beyond the range, which is as rare)."""
    if not tensor.dtype.is_floating_point:
        return True
    wide = torch.float32 if tensor.itemsize < 4 else None
    return math.isfinite(tensor.sum(dtype=wide).item())


def _torch_dtype(dtype: DType) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype.value)
    return found
