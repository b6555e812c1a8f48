"""How a model reaches the processes that measure it: by the name of a factory, or as a file.

Every contender runs in a process of its own, so a model crosses as text that names a function, or
as a module saved by ``torch.save`` into the run's own temporary folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch2rt.bench.errors import BenchModelError
from torch2rt.lazy_torch import torch

if TYPE_CHECKING:
    from torch import nn

FACTORY_REMEDY = (
    "Give package.module:factory or path/to/file.py:factory, the name of a function without "
    "arguments that returns (model, example inputs)"
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode and the inputs of one call: ``model(*args, **kwargs)``."""

    model: nn.Module
    args: tuple[object, ...]
    kwargs: dict[str, object]

    @property
    def batch(self) -> int:
        """The leading dimension of the first tensor among the inputs, 0 without one."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, torch.Tensor) and value.ndim:
                return int(value.shape[0])
        return 0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a worker process gets the model from.

    ``kind`` is "factory" (``where`` is ``module:name`` or ``file.py:name``) or "saved" (``where``
    is a file of this run). The seed is set before the factory runs: all contenders get the same
    random weights.
    """

    kind: str
    where: str
    seed: int = 0

    def load(self) -> LoadedModel:
        """The model and inputs.

        Raises:
            BenchModelError: the source cannot be found or returns something else.
        """
        torch.manual_seed(self.seed)
        made = torch.load(self.where, weights_only=False) if self.kind == "saved" else self._call()
        if not (
            isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)
        ):
            raise BenchModelError(
                source=self.where,
                reason=f"it returned {type(made).__name__}, not (nn.Module, inputs)",
                remedy=FACTORY_REMEDY,
            )
        args, kwargs = split_inputs(made[1])
        return LoadedModel(made[0].eval(), args, kwargs)

    def _call(self) -> object:
        factory = import_object(self.where)
        if not callable(factory):
            raise BenchModelError(
                source=self.where, reason="it is not callable", remedy=FACTORY_REMEDY
            )
        return cast("Callable[[], object]", factory)()


def split_inputs(inputs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """Example inputs as (args, kwargs): a mapping is keyword arguments, a sequence positional."""
    if isinstance(inputs, Mapping):
        return (), {str(name): value for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def save_model(model: nn.Module, inputs: object, path: Path, seed: int) -> ModelSource:
    """Write the model for the workers of this run.

    Raises:
        BenchModelError: a class of the model cannot be found again from another process.
    """
    for module in model.modules():
        if type(module).__module__ == "__main__":
            raise BenchModelError(
                source=type(module).__name__,
                reason="its class stands in the script being run, where no other process finds it",
                remedy=FACTORY_REMEDY,
            )
    try:
        torch.save((model, inputs), path)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BenchModelError(
            source=type(model).__name__,
            reason=f"torch.save refuses it: {error}",
            remedy=FACTORY_REMEDY,
        ) from error
    return ModelSource("saved", str(path), seed)


def import_object(spec: str) -> object:
    """The object that ``module:name`` or ``path/to/file.py:name`` stands for.

    Raises:
        BenchModelError: there is no such module, file or name.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise BenchModelError(
            source=spec, reason="there is no ':name' in it", remedy=FACTORY_REMEDY
        )
    try:
        module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise BenchModelError(source=spec, reason=str(error), remedy=FACTORY_REMEDY) from error
    if name not in vars(module):
        raise BenchModelError(source=spec, reason=f"{where} has no {name!r}", remedy=FACTORY_REMEDY)
    return vars(module)[name]


def _import_module(name: str) -> object:
    return importlib.import_module(name)


def _import_file(path: Path) -> object:
    name = f"torch2rt_bench_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    # Registered first: dataclasses and pickles of the file look their module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
