"""Plugins that are `nn.Module` classes: an instance is one layer, its weights are the layer's.

What an engine keeps of an instance is its *configuration*: the arguments of ``__init__``, and how
it was called. Where its own code must run again, an instance is made from that, and the weights
are put into it.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from torch2rt.calls.pytree import CallSpec, OutputSpec
from torch2rt.errors import PluginError
from torch2rt.extension.operator import call_plugin
from torch2rt.extension.registry import Definition, PluginCall

Json = dict[str, Any]
_RECORDED = "_torch2rt_arguments"
_CANNOT = "Make __init__ take plain values alone, or write the plugin as a torch2rt.Plugin"


@dataclass(frozen=True, eq=False)
class ModuleDefinition(Definition):
    """A module class. ``specs`` keeps the structure of what an instance returned, by state.

    ``shaped`` takes what ``forward`` does, and returns empty tensors like its results.
    """

    cls: type[nn.Module]
    shaped: Callable[..., Any] | None = None
    specs: dict[str, OutputSpec] = field(default_factory=dict)

    def run(self, call: PluginCall, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """``forward`` of an instance with the configuration and the weights, in eval mode."""
        state = json.loads(call.state)
        runner = _runner(self, json.dumps(state["arguments"], sort_keys=True))
        call_spec = CallSpec.from_json(state["call"])
        count = len(call_spec.names)
        weights = dict(zip(state["weights"], tensors[count:], strict=True))
        args, kwargs = call_spec.unflatten(tensors[:count])
        named = {f"module.{name}": weight for name, weight in weights.items()}
        found = torch.func.functional_call(runner, named, args, kwargs)
        spec, results = OutputSpec.from_value(found)
        self.specs[call.state] = spec
        return results

    def fake(self, call: PluginCall, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """By ``shaped``, or where there is none by ``forward``."""
        if self.shaped is None:
            return self.run(call, tensors)
        call_spec = CallSpec.from_json(json.loads(call.state)["call"])
        args, kwargs = call_spec.unflatten(tensors[: len(call_spec.names)])
        self.specs[call.state], results = OutputSpec.from_value(self.shaped(*args, **kwargs))
        return results

    def attributes(self, call: PluginCall) -> Mapping[str, Any]:
        """The configuration."""
        arguments: dict[str, Any] = json.loads(call.state)["arguments"]
        return arguments

    def is_of(self, target: object) -> bool:
        """Whether it is this class."""
        return target is self.cls

    def remove(self) -> None:
        """Nothing: captures look the class up."""


class _Runner(nn.Module):
    """Calls a module, so that weights can be swapped by name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


@lru_cache(maxsize=256)
def _runner(definition: ModuleDefinition, arguments: str) -> _Runner:
    with torch.random.fork_rng(devices=[]):
        return _Runner(definition.cls(**json.loads(arguments))).eval()


def record_arguments(cls: type[nn.Module]) -> None:
    """Make instances remember what ``__init__`` was given, where that is plain."""
    initialize = cls.__init__
    if hasattr(initialize, _RECORDED):
        return

    @functools.wraps(initialize)
    def remember(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        if type(self) is cls:
            bound = inspect.signature(initialize).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__[_RECORDED] = _by_name(bound)

    remember.__dict__[_RECORDED] = True
    cls.__init__ = remember  # type: ignore[method-assign]


def _by_name(bound: inspect.BoundArguments) -> Json | None:
    """Arguments by name; None where one has no name."""
    arguments: Json = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            if value:
                return None
        else:
            arguments[name] = value
    return arguments


def configuration(definition: ModuleDefinition, module: nn.Module, path: str) -> Json:
    """Arguments of ``__init__`` that make an equal module: as they were, else its attributes.

    PluginError where neither gives the module that there is.
    """
    names = list(inspect.signature(definition.cls.__init__).parameters)[1:]
    now = {name: vars(module)[name] for name in names if name in vars(module)}
    recorded = module.__dict__.get(_RECORDED) or {}
    differences: list[str] = []
    for arguments in (recorded, {**recorded, **now}):
        if not _is_plain(arguments):
            continue
        plain: Json = json.loads(json.dumps(arguments))
        try:
            with torch.random.fork_rng(devices=[]):
                made = definition.cls(**plain).eval()
        except TypeError as error:  # it was made before its class was registered
            differences = [str(error)]
            continue
        differences = list(_differences(made, module))
        if not differences:
            return plain
    reason = "its configuration is not plain values" if not differences else (
        f"a module made from its configuration differs: {', '.join(differences[:3])}"
    )
    raise PluginError(name=definition.name, where=f" at {path}", reason=reason, remedy=_CANNOT)


def _differences(made: nn.Module, module: nn.Module) -> Iterator[str]:
    """Plain attributes and weights' shapes in which two modules differ."""
    ours, theirs = dict(made.named_modules()), dict(module.named_modules())
    if ours.keys() != theirs.keys():
        yield f"sub-modules {sorted(ours.keys() ^ theirs.keys())}"
        return
    for path, part in theirs.items():
        for name, value in vars(part).items():
            if name in ("training", _RECORDED):
                continue
            if not _is_same(vars(ours[path]).get(name), value):
                yield f"{path}.{name} is {value!r}".lstrip(".")
    shapes = [{name: (w.shape, w.dtype) for name, w in _weights(m)} for m in (made, module)]
    if shapes[0] != shapes[1]:
        yield "shapes of weights"


def _is_same(made: Any, value: Any) -> bool:
    """Whether two attributes are equal, as far as that can be told."""
    if isinstance(value, torch.Tensor):
        return isinstance(made, torch.Tensor) and torch.equal(made, value)
    return not _is_plain(value) or bool(made == value)


def _is_plain(value: Any) -> bool:
    match value:
        case None | bool() | int() | float() | str():
            return True
        case list() | tuple():
            return all(_is_plain(item) for item in value)
        case dict():
            return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return False


def _weights(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def replace_forward(module: nn.Module, definition: ModuleDefinition, path: str) -> None:
    """Make the module one operator, in place."""
    arguments = configuration(definition, module, path)
    forward = module.forward

    def call(*args: Any, **kwargs: Any) -> Any:
        call_spec, tensors = CallSpec.from_call(forward, args, kwargs)
        weights = _weights(module)
        state = json.dumps({
            "arguments": arguments, "call": call_spec.to_json(),
            "weights": [name for name, _ in weights],
        })
        tensors = [*tensors, *(weight for _, weight in weights)]
        found = call_plugin(tensors, definition.name, state)
        return definition.specs[state].rebuild(found)

    module.forward = call
