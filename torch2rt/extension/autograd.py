"""Plugins that are autograd Functions: ``apply`` becomes one operator in a captured graph."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from torch2rt.extension.function import (
    FunctionDefinition,
    check_call,
    define_function,
    source_of,
)
from torch2rt.extension.implementations import Implementations


def define_autograd(
    name: str, version: str, cls: type[torch.autograd.Function], fake: Callable[..., Any] | None,
    implementations: Implementations,
) -> FunctionDefinition:
    """The Function's ``forward`` as an operator, which ``apply`` calls while a graph is captured.

    PluginError where its parameters cannot be parameters of an operator.
    """
    definition = define_function(name, version, _body(cls), fake, implementations)
    usual: Callable[..., Any] = cls.apply

    def apply(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            if not torch.compiler.is_dynamo_compiling():
                check_call(definition, args, kwargs)
            return definition.overload(*args, **kwargs)
        return usual(*args, **kwargs)

    cls.apply = staticmethod(apply)  # type: ignore[method-assign]
    return replace(
        definition, package=cls.__module__, source=source_of(cls),
        restore=functools.partial(delattr, cls, "apply"),
    )


def operator_title(cls: type) -> str:
    """A name for an operator: ``module::Class``, with nothing that names of operators lack."""
    return "::".join(re.sub(r"\W", "_", part) for part in (cls.__module__, cls.__qualname__))


def _body(cls: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``forward`` without its context."""
    forward = cls.forward
    own = inspect.signature(forward)
    takes_context = "setup_context" not in vars(cls)
    parameters = list(own.parameters.values())[1 if takes_context else 0 :]

    @functools.wraps(forward)
    def body(*args: Any, **kwargs: Any) -> Any:
        if takes_context:
            context = FunctionCtx()
            return forward(context, *args, **kwargs)
        return forward(*args, **kwargs)

    vars(body)["__signature__"] = own.replace(parameters=parameters)
    return body
