"""The engine: network, weights and plans for a device. Runs without torch.

engine = Engine.load("model.engine")
outputs = engine.run({"x": array})
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.backend import Backend
from torch2rt.backends.buffer import address_of
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Tactic, Unprepared
from torch2rt.engine.context import Context, Executable
from torch2rt.engine.exact import drops_nan, is_finite, run_arrays
from torch2rt.engine.plan import Plan
from torch2rt.engine.weights import EngineWeights
from torch2rt.errors import InputError, NoTacticError
from torch2rt.network.dim import is_symbol, substitute
from torch2rt.network.dtype import Array
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType

MAX_PLANS = 8
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """A named input or output of an engine."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True, slots=True)
class Bindings:
    """All inputs and outputs, in order."""

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]


class Engine:
    """An immutable network with its weights and plans on one device.

    Many threads may call it at once. Plans for shapes that are not tuned are made on demand, share
    the weights, and the least recently used go when there are more than ``max_plans``.
    """

    def __init__(
        self, network: Network, plans: Sequence[Plan], backend: Backend, *,
        precision: str = "fp32", calls: Mapping[str, Any] | None = None,
        report: Mapping[str, Any] | None = None, max_plans: int = MAX_PLANS,
        weights: EngineWeights | None = None, calibration: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.backend = backend
        self.precision = precision
        self.calls = dict(calls or {})
        self.report = dict(report or {})
        self.calibration = dict(calibration) if calibration is not None else None
        self.max_plans = max_plans
        arrays = {t.name: t.data for t in network.constants if t.data is not None}
        self.weights = weights if weights is not None else EngineWeights(arrays)
        self.bindings = Bindings(
            tuple(Binding(name, tensor.type) for name, tensor in network.inputs.items()),
            tuple(Binding(name, tensor.type) for name, tensor in network.outputs.items()),
        )
        self._layers = {layer.name: layer for layer in network.layers}
        self._tuned = {tuple(sorted(plan.symbols.items())): plan for plan in plans}
        self._lock = threading.RLock()
        self._runnables: OrderedDict[Shapes, Runnable] = OrderedDict()
        self._latest: Any = (None, None)  # shapes and runnable of the last call
        self._prepared: dict[tuple[str, str, str], Prepared] = {}

    # ---- running ---------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name for inputs by name.

        Inputs are numpy arrays or anything with DLPack, of the dtype and shape of the binding;
        outputs are new numpy arrays. bfloat16 travels as uint16 bits. InputError says which input
        does not fit, and how.

        On a GPU, inputs may be there already: anything with DLPack, such as CuPy arrays and torch
        tensors. Work is enqueued on CuPy's current stream and outputs are CuPy arrays; numpy
        arrays alone give numpy arrays.
        """
        if self.backend.name != "cpu":
            from torch2rt.engine.device_arrays import run_on_device

            return run_on_device(self, inputs)
        arrays = [self._array(binding, inputs) for binding in self.bindings.inputs]
        if len(inputs) != len(arrays):
            self.refuse_extra(inputs)
        runnable = self.runnable(tuple([array.shape for array in arrays]))
        if runnable.drops_nan and not all(is_finite(array) for array in arrays):
            return dict(zip(runnable.output_names, run_arrays(self, arrays), strict=True))
        outputs = [np.empty(shape, dtype) for shape, dtype in runnable.output_arrays]
        runnable.run(
            [address_of(array) for array in arrays], [address_of(array) for array in outputs]
        )
        return dict(zip(runnable.output_names, outputs, strict=True))

    def runnable(self, shapes: Shapes) -> Runnable:
        """The code for inputs of these shapes: kept, or made now.

        InputError when a shape does not fit the bindings.
        """
        latest: tuple[Shapes | None, Any] = self._latest
        if shapes == latest[0]:
            return latest[1]  # type: ignore[no-any-return]
        with self._lock:
            runnable = self._runnables.get(shapes) or self._make_runnable(shapes)
            self._runnables.move_to_end(shapes)
            self._latest = (shapes, runnable)
            return runnable

    def _array(self, binding: Binding, inputs: Mapping[str, Any]) -> Array:
        value = inputs.get(binding.name)
        if value is None:
            raise InputError(
                name=binding.name, reason="it is missing", expected=binding.type,
                got=f"inputs {sorted(inputs)}", remedy="Pass every input by name.",
            )
        array: Array = value if isinstance(value, np.ndarray) else _to_numpy(binding, value)
        if array.dtype != binding.type.dtype.numpy:
            raise InputError(
                name=binding.name, reason="wrong dtype", expected=binding.type.dtype.value,
                got=array.dtype, remedy=f"Convert it: array.astype({binding.type.dtype.numpy}).",
            )
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def refuse_extra(self, inputs: Mapping[str, Any]) -> None:
        """InputError naming an input the engine does not have."""
        known = {binding.name for binding in self.bindings.inputs}
        extra = sorted(set(inputs) - known)
        raise InputError(
            name=extra[0], reason="the engine has no such input", expected=sorted(known),
            got=sorted(inputs), remedy="Leave it out.",
        )

    # ---- plans -----------------------------------------------------------------------------

    def symbols_for(self, shapes: Shapes) -> dict[str, int]:
        """Values of the shape symbols for inputs of these shapes; InputError if they do not fit."""
        symbols: dict[str, int] = {}
        for binding, shape in zip(self.bindings.inputs, shapes, strict=True):
            if len(shape) == binding.type.rank:
                for dim, size in zip(binding.type.shape, shape, strict=True):
                    if is_symbol(dim):
                        symbols.setdefault(str(dim), size)
        for binding, shape in zip(self.bindings.inputs, shapes, strict=True):
            self._check_shape(binding, shape, symbols)
        return symbols

    def _check_shape(
        self, binding: Binding, shape: tuple[int, ...], symbols: Mapping[str, int]
    ) -> None:
        expected = binding.type.shape
        fits = len(shape) == len(expected) and all(
            size == substitute(dim, symbols) for dim, size in zip(expected, shape, strict=True)
        )
        if not fits:
            raise InputError(
                name=binding.name, reason="wrong shape", expected=binding.type,
                got=f"shape {list(shape)}",
                remedy="Sizes that may vary are symbols in the expected shape; convert with "
                "dynamic_shapes to let more of them vary.",
            )
        for name, size in symbols.items():
            low, high = self.network.symbols.get(name, (0, 1 << 62))
            if not low <= size <= high:
                raise InputError(
                    name=binding.name, reason=f"{name}={size} is out of range",
                    expected=f"{low}..{high}", got=size,
                    remedy="Convert again with dynamic_shapes that allow it.",
                )

    def _make_runnable(self, shapes: Shapes) -> Runnable:
        symbols = self.symbols_for(shapes)
        plan = self._tuned.get(tuple(sorted(symbols.items())))
        if plan is None:
            plan = self._plan_on_demand(symbols)
        executable = Executable(
            plan, self._layers, self.backend, self.weights, self._prepare_planned
        )
        runnable = Runnable(executable, self)
        self._runnables[shapes] = runnable
        self._forget_old()
        return runnable

    def add_plan(self, plan: Plan) -> None:
        """Tune the engine for one more shape. Only its builder calls this."""
        self._tuned[tuple(sorted(plan.symbols.items()))] = plan

    def with_constants(self, network: Network) -> Engine:
        """An engine of the same plans and kernels for a network of other constants.

        The network is this one's but for their data, which whoever calls this knows.
        """
        arrays = {t.name: t.data for t in network.constants if t.data is not None}
        return Engine(
            network, tuple(self._tuned.values()), self.backend, precision=self.precision,
            calls=self.calls, report=self.report, max_plans=self.max_plans,
            weights=EngineWeights(arrays, self.weights.blobs, self.weights.blob_source),
            calibration=self.calibration,
        )

    def _plan_on_demand(self, symbols: Mapping[str, int]) -> Plan:
        """A plan for a shape nobody tuned. Building is imported only now."""
        from torch2rt.build.on_demand import plan_on_demand

        return plan_on_demand(self, symbols)

    def _forget_old(self) -> None:
        while len(self._runnables) > self.max_plans:
            self._runnables.popitem(last=False)
            used = {
                (step.plan_step.tactic, step.spec.name, step.spec.code_signature)
                for runnable in self._runnables.values()
                for step in runnable.executable.steps
            }
            self._prepared = {key: value for key, value in self._prepared.items() if key in used}

    def prepare(self, tactic: str, spec: LayerSpec) -> Prepared:
        """A tactic's code for a spec, made once and shared by plans."""
        key = (tactic, spec.name, spec.code_signature)
        with self._lock:
            if key not in self._prepared:
                self._prepared[key] = self._tactic(tactic, spec).prepare(spec, self.weights)
            return self._prepared[key]

    def _prepare_planned(self, tactic: str, spec: LayerSpec) -> Prepared:
        """What a plan names, which was there when it was made. NoTacticError where it is not."""
        try:
            return self.prepare(tactic, spec)
        except Unprepared as error:
            raise NoTacticError(
                backend=self.backend.name, layer=spec.name, kind=spec.kind.name, where=spec.where,
                reasons=f"  {tactic}: {error}",
            ) from error

    def _tactic(self, name: str, spec: LayerSpec) -> Tactic:
        try:
            return self.backend.tactic(name)
        except KeyError as error:
            raise NoTacticError(
                backend=self.backend.name, layer=spec.name, kind=spec.kind.name, where=spec.where,
                reasons=f"  the plan names {name!r}, which this installation does not have",
            ) from error

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The tuned plans, then those made on demand."""
        made = [r.executable.plan for r in self._runnables.values()]
        return (*self._tuned.values(), *(p for p in made if p not in self._tuned.values()))

    @property
    def needs_torch(self) -> bool:
        """Whether a fallback layer makes torch necessary at run time."""
        return any(
            row.tactic.split(".")[1] == "torch" for plan in self._tuned.values()
            for row in plan.steps
        )

    # ---- files -----------------------------------------------------------------------------

    @staticmethod
    def load(
        path: str | os.PathLike[str], device: str | None = None, plugins: Iterable[object] = (),
    ) -> Engine:
        """An engine from its file. ``device``: "cpu", "cuda", "cuda:1"; default: as built.

        ``plugins`` registers plugins that it needs: classes, decorated functions, or modules (or
        their names) that do so when imported. EngineFileError when the file is not a usable
        engine; DeviceError for a device that is not there; PluginMissingError for a plugin whose
        Python code is needed. Loading runs no code of the file and imports nothing by itself.
        """
        from torch2rt.engine.archive import load_engine

        return load_engine(path, device, plugins)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the engine to one file, atomically."""
        from torch2rt.engine.archive import save_engine

        save_engine(self, path)

    def describe(self) -> str:
        """Bindings, plans, memory and layers in a few lines."""
        lines = [f"engine {self.network.name} on {self.backend.device}, {self.precision}"]
        lines += [f"  input  {binding}" for binding in self.bindings.inputs]
        lines += [f"  output {binding}" for binding in self.bindings.outputs]
        size = sum(array.nbytes for array in self.weights.arrays.values())
        lines.append(f"  weights {size / 1e6:.1f} MB in {len(self.weights.arrays)} constants")
        for plan in self.plans:
            shape = ", ".join(f"{n}={v}" for n, v in plan.symbols.items()) or "static shapes"
            lines.append(
                f"  plan for {shape}: {len(plan.steps)} steps, {len(plan.viewed)} views, arena "
                f"{plan.arena_bytes / 1e6:.2f} MB (lower bound {plan.live_bytes / 1e6:.2f} MB)"
                + (f", {plan.untuned} of the steps untuned" if plan.untuned else "")
            )
        return "\n".join(lines)


class Runnable:
    """One executable with its bindings: the fast path of a call."""

    def __init__(self, executable: Executable, engine: Engine) -> None:
        self.executable = executable
        symbols = executable.plan.symbols
        self.input_names = tuple(binding.name for binding in engine.bindings.inputs)
        self.output_names = tuple(binding.name for binding in engine.bindings.outputs)
        self.output_specs = tuple(
            TensorSpec(tuple(substitute(d, symbols) for d in b.type.shape), b.type.dtype)
            for b in engine.bindings.outputs
        )
        self.drops_nan = drops_nan(executable)
        self.output_arrays = tuple((spec.shape, spec.dtype.numpy) for spec in self.output_specs)

    def run(self, inputs: Sequence[int], outputs: Sequence[int], stream: int = 0) -> None:
        """Run once on inputs and outputs at these addresses, in the order of the bindings.

        On a GPU the work is enqueued on this stream; elsewhere it is done when this returns.
        """
        executable = self.executable
        context = executable.acquire(stream)
        try:
            for mover, address in zip(self._movers(context), (*inputs, *outputs), strict=True):
                mover(address)
            context.run(stream)
        finally:
            executable.release(context)

    def _movers(self, context: Context) -> Sequence[Callable[[int], None]]:
        if context.binding_movers is None:
            context.binding_movers = [
                *context.movers("input", self.input_names),
                *context.movers("output", self.output_names),
            ]
        return context.binding_movers


def _to_numpy(binding: Binding, value: Any) -> Array:
    if not hasattr(value, "__dlpack__"):
        raise InputError(
            name=binding.name, reason="not an array", expected=binding.type,
            got=type(value).__name__, remedy="Pass a numpy array or anything with DLPack.",
        )
    if binding.type.dtype.is_stored_as_bits:
        value = value.view(_bits_view(value))
    return np.from_dlpack(value)


def _bits_view(value: Any) -> Any:
    """Torch's unsigned dtype of the same size, for a tensor numpy cannot hold."""
    module = __import__(type(value).__module__.split(".")[0])
    return module.uint16 if value.itemsize == 2 else module.uint8

