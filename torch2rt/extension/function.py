"""Plugins that are Python functions, autograd Functions, or operators of `torch.library`."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torch2rt.errors import PluginError
from torch2rt.extension.implementations import Implementations
from torch2rt.extension.registry import Definition, PluginCall
from torch2rt.extension.user_code import call_without_data
from torch2rt.layers.rules import remove_user_rule
from torch2rt.network.dim import SymbolicDim
from torch2rt.network.dtype import DType

_TYPES = (bool, int, float, str)
# Operators of torch cannot be taken back: these may be defined again.
_own_operators: set[str] = set()


@dataclass(frozen=True)
class FunctionDefinition(Definition):
    """A plugin that the model calls as a function; ``parameters`` are its names in order.

    ``body`` runs in torch; ``overload`` is the operator that stands for it in captured graphs,
    made by us if ``is_own_operator``. ``restore`` undoes what else registering changed.
    """

    body: Callable[..., Any]
    parameters: tuple[str, ...]
    overload: Any
    is_own_operator: bool = True
    restore: Callable[[], None] | None = None

    def run(self, call: PluginCall, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The body on the tensors and the call's other arguments."""
        schema = self.overload._schema.arguments
        given: list[Any] = []
        named: dict[str, Any] = {}
        for name, item, argument in zip(self.parameters, call.arguments, schema, strict=True):
            value = _value(item, tensors)
            if argument.kwarg_only:
                named[name] = value
            else:
                given.append(value)
        return as_list(self.body(*given, **named))

    def attributes(self, call: PluginCall) -> Mapping[str, Any]:
        """The arguments that are no tensors, by name."""
        pairs = zip(self.parameters, call.arguments, strict=True)
        return {name: _plain(value) for name, value in pairs if not _holds_tensor(value)}

    def remove(self) -> None:
        """Captured graphs mean nothing special by the operator any more."""
        remove_user_rule(operator_name(self.overload))
        if self.restore is not None:
            self.restore()


class PluginFunction:
    """The decorated function: the body when called, one operator in a captured graph."""

    def __init__(self, definition: FunctionDefinition) -> None:
        functools.update_wrapper(self, definition.body)
        self.definition = definition

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the body; while a graph is captured, its operator."""
        if torch.compiler.is_compiling():
            if not torch.compiler.is_dynamo_compiling():
                check_call(self.definition, args, kwargs)
            return self.definition.overload(*args, **kwargs)
        return self.definition.body(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<plugin {self.definition.name}>"


def define_function(
    name: str, version: str, body: Callable[..., Any], fake: Callable[..., Any] | None,
    implementations: Implementations,
) -> FunctionDefinition:
    """A function as an operator ``name`` of torch.

    PluginError where its parameters cannot be parameters of an operator.
    """
    typed = _typed(body)
    try:
        schema = torch.library.infer_schema(typed, mutates_args=())
        operator = torch.library.custom_op(name, typed, mutates_args=(), schema=schema)
    except (ValueError, NotImplementedError) as error:
        reason = str(error).split(". The valid types")[0]
        raise PluginError(
            name=name, where="", reason=f"its signature cannot be an operator's: {reason}",
            remedy="Annotate parameters as Tensor, int, float, bool, str, or lists or Optional of "
            "these, and the result as Tensor or a tuple of Tensors",
        ) from error
    _own_operators.add(name)
    shaped = _owning(fake) if fake is not None else typed
    count = len(operator._opoverload._schema.returns)
    operator.register_fake(functools.partial(_results_without_data, name, count, shaped))
    return FunctionDefinition(
        name, version, body.__module__, source_of(body), implementations, body,
        tuple(inspect.signature(body).parameters), operator._opoverload,
    )


def define_operator(
    name: str, version: str, overload: Any, body: Callable[..., Any] | None,
    implementations: Implementations,
) -> FunctionDefinition:
    """An operator that exists; its own code is the reference unless there is another body."""
    parameters = tuple(argument.name for argument in overload._schema.arguments)
    package = body.__module__ if body is not None else name.split("::")[0]
    source = source_of(body) if body is not None else f"operator {name}"
    return FunctionDefinition(
        name, version, package, source, implementations, body or overload, parameters, overload,
        is_own_operator=False,
    )


def existing_operator(name: str) -> Any:
    """The operator ``ns::name`` (its default overload, or its only one); None if there is none."""
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    try:
        packet = getattr(getattr(torch.ops, namespace), base)
    except AttributeError:
        return None
    overloads = packet.overloads()
    chosen = overload or ("default" if "default" in overloads else overloads[0])
    return getattr(packet, chosen)


def is_own_operator(name: str) -> bool:
    """Whether the operator of this name was made for a plugin, which may be unregistered by now."""
    return name in _own_operators


def operator_name(overload: Any) -> str:
    """``ns.name.overload``."""
    return f"{overload._schema.name.replace('::', '.')}.{overload._overloadname}"


def _typed(body: Callable[..., Any]) -> Callable[..., Any]:
    """The body with an annotation for every parameter.

    What is not annotated is a Tensor, or of the type of its default.
    """
    hints = typing.get_type_hints(body)
    signature = inspect.signature(body)
    parameters = [
        item.replace(annotation=hints.get(key) or _guess(item))
        for key, item in signature.parameters.items()
    ]
    run = _owning(body)
    vars(run)["__signature__"] = signature.replace(
        parameters=parameters, return_annotation=hints.get("return", torch.Tensor)
    )
    return run


def _results_without_data(
    name: str, count: int, body: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """What a body gives on tensors without data. PluginError unless it is ``count`` tensors."""
    found = call_without_data(name, lambda: body(*args, **kwargs))
    results = [found] if count == 1 else as_list(found)
    if len(results) == count and all(isinstance(item, torch.Tensor) for item in results):
        return found
    results = as_list(found)
    got = ", ".join(
        "Tensor" if isinstance(item, torch.Tensor) else type(item).__name__ for item in results
    )
    raise PluginError(
        name=name, where="", reason=f"its body returns ({got}), and its annotation says {count} "
        f"tensor{'s' * (count != 1)}",
        remedy="Annotate the result, as -> Tensor or -> tuple[Tensor, Tensor]",
    )


def check_call(
    definition: FunctionDefinition, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """PluginError for a value where the plugin's operator has a parameter for a tensor."""
    schema = definition.overload._schema.arguments
    given = [*zip(schema, args, strict=False), *(
        (argument, kwargs[argument.name]) for argument in schema if argument.name in kwargs
    )]
    for argument, value in given:
        if str(argument.type) == "Tensor" and not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise PluginError(
                name=definition.name, where="",
                reason=f"its parameter {argument.name!r} is a Tensor, and a call gives {value!r}",
                remedy=f"Annotate it where it is something else, as {argument.name}: {kind}",
            )


def _owning(body: Callable[..., Any]) -> Callable[..., Any]:
    """The body, whose results share no memory with its arguments, as an operator must give."""

    def run(*args: Any, **kwargs: Any) -> Any:
        found = body(*args, **kwargs)
        given = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
        if isinstance(found, torch.Tensor):
            return _own(found, given)
        if not isinstance(found, tuple | list):
            return found
        return tuple(_own(item, given) for item in found)

    return run


def _guess(parameter: inspect.Parameter) -> type:
    for known in _TYPES:
        if type(parameter.default) is known:
            return known
    return torch.Tensor


def _own(found: Any, given: Sequence[torch.Tensor]) -> Any:
    if not isinstance(found, torch.Tensor):
        return found
    shares = any(found is item or found._base is item for item in given)
    return found.clone() if shares else found


def as_list(found: Any) -> list[torch.Tensor]:
    """The tensors that a plugin's code returned."""
    return list(found) if isinstance(found, tuple | list) else [found]


def source_of(function: Any) -> str:
    """``file:name`` of a function or class, for messages."""
    try:
        file = inspect.getsourcefile(function)
    except (TypeError, OSError):  # OSError: a class of an interactive session
        file = None
    return f"{file or getattr(function, '__module__', '?')}:{function.__qualname__}"


def _value(argument: Any, tensors: Sequence[torch.Tensor]) -> Any:
    match argument:
        case ("tensor", int(index)):
            return tensors[index]
        case ("list", *items):
            return [_value(item, tensors) for item in items]
        case DType():
            return getattr(torch, argument.value)
        case SymbolicDim():
            raise ValueError(f"size {argument} of a plugin has no value yet")
    return argument


def _plain(argument: Any) -> Any:
    return tuple(argument[1:]) if isinstance(argument, tuple) else argument


def _holds_tensor(argument: Any) -> bool:
    match argument:
        case ("tensor", int()):
            return True
        case ("list", *items):
            return any(_holds_tensor(item) for item in items)
    return False
