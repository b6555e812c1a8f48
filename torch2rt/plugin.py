"""Plugins: layers of the user's own, in a few lines of Python, CUDA C++, Triton or CuPy.

    @torch2rt.plugin("demo::leaky")                       # a function that the model calls
    def leaky(x: Tensor, decay: float) -> Tensor: ...

    torch2rt.plugin(MyModule)                             # a module class, kept whole
    torch2rt.plugin("torchvision::nms", cuda=...)(body)   # an operator that exists

The body is the reference: `convert` infers shapes from it and checks every other implementation
against it. Where none is given, it runs. See docs/plugins.md.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack, overload

import torch
from torch import nn

from torch2rt.errors import ConfigError, PluginError
from torch2rt.extension.autograd import define_autograd, operator_title
from torch2rt.extension.full import MOST_TACTICS, ClassDefinition, Plugin
from torch2rt.extension.function import (
    FunctionDefinition,
    PluginFunction,
    define_function,
    define_operator,
    existing_operator,
    is_own_operator,
    source_of,
)
from torch2rt.extension.implementations import (
    ArrayFunction,
    Attributes,
    Bytes,
    CudaKernel,
    Implementations,
    Int64,
    Number,
    Shapes,
    TritonKernel,
)
from torch2rt.extension.lowering import add_rule
from torch2rt.extension.module import ModuleDefinition, record_arguments
from torch2rt.extension.registry import register, unregister
from torch2rt.network.dim import Dim
from torch2rt.network.dim import maximum as larger
from torch2rt.network.dim import minimum as smaller
from torch2rt.network.dim import product as count
from torch2rt.network.dtype import DType

__all__ = [
    "Attributes",
    "CudaKernel",
    "Int64",
    "Number",
    "Plugin",
    "Shapes",
    "TritonKernel",
    "ceil_div",
    "count",
    "larger",
    "plugin",
    "smaller",
    "unregister",
]

Launches: TypeAlias = "CudaKernel | Sequence[CudaKernel | Sequence[CudaKernel]] | None"
TritonLaunches: TypeAlias = "TritonKernel | Sequence[TritonKernel | Sequence[TritonKernel]] | None"

Body = TypeVar("Body")

_PRECISIONS = {
    "fp64": DType.FLOAT64, "fp32": DType.FLOAT32, "fp16": DType.FLOAT16, "bf16": DType.BFLOAT16,
    "int8": DType.INT8, "fp8": DType.FLOAT8_E4M3,
}


class PluginOptions(TypedDict, total=False):
    """Options of `plugin`."""

    cuda: Launches
    triton: TritonLaunches
    cupy: ArrayFunction | None
    cpu: ArrayFunction | None
    fake: Callable[..., Any] | None
    workspace: Bytes | None
    precisions: Sequence[str]
    epilogue: bool
    capturable: bool
    version: str


@overload
def plugin(target: str, **options: Unpack[PluginOptions]) -> Callable[[Body], Body]: ...


@overload
def plugin(target: type[Body], **options: Unpack[PluginOptions]) -> type[Body]: ...


@overload
def plugin(
    target: torch._ops.OpOverload, **options: Unpack[PluginOptions]
) -> PluginFunction: ...


def plugin(
    target: object,
    *,
    cuda: Launches = None,
    triton: TritonLaunches = None,
    cupy: ArrayFunction | None = None,
    cpu: ArrayFunction | None = None,
    fake: Callable[..., Any] | None = None,
    workspace: Bytes | None = None,
    precisions: Sequence[str] = ("fp32",),
    epilogue: bool = False,
    capturable: bool = False,
    version: str = "1",
) -> object:
    """Register a plugin: one layer in every engine, whatever its body does.

    Args:
        target: ``"ns::name"``: a decorator for a function that models call, for a body of an
            operator ``ns::name`` of torch that exists, or for a class. Or an operator
            (``torch.ops.ns.name.default``), whose own code is the body.
        cuda: a `CudaKernel`; a list of them is launched in order; a list of lists are rivals, of
            which the fastest is taken.
        triton: the same of `TritonKernel`.
        cupy: ``function(inputs, outputs, attributes)`` on lists of CuPy arrays, which writes into
            the outputs, on CuPy's current stream.
        cpu: the same on numpy arrays. bfloat16 comes as the bits of uint16.
        fake: ``fake(...)`` with the body's parameters returns empty tensors of the outputs' shapes
            and dtypes; default: the body itself is run on tensors without data. An output whose
            length depends on values is given its largest length, and an int32 output counts.
        workspace: ``function(shapes, attributes)`` gives bytes; kernels are given the address
            after the outputs'.
        precisions: float types in which kernels and functions take their operands: of ``"fp32"``,
            ``"fp16"``, ``"bf16"``. In others the plugin gets float32.
        epilogue: the plugin has one output, and its kernels in CUDA C++ pass each value that they
            store through ``EPILOGUE(value, index)`` and end their parameters with
            ``EPILOGUE_PARAMETERS``: what follows in the network may then become part of them.
        capturable: ``cupy`` only launches kernels on the current stream, so that it may be part
            of a CUDA graph.
        version: raise it when results change: an engine asks for the version it was built with.

    Returns:
        What takes the target's place: call or subclass it as before.

    Raises:
        RegistrationError: another plugin of this name exists.
        PluginError: the signature cannot be an operator's, or a class has too many tactics.
        ConfigError: an option has an unusable value.

    Example:
        >>> @torch2rt.plugin("demo::leaky", cuda=CudaKernel(SOURCE, "leaky", grid=blocks))
        ... def leaky(x: Tensor, decay: float) -> Tensor:
        ...     return torch.where(x > 0, x, decay * x)
    """
    given = Implementations(
        _ways(cuda, CudaKernel), _ways(triton, TritonKernel), cupy, cpu, workspace,
        _dtypes(precisions), takes_epilogue=epilogue, is_capturable=capturable,
    )
    if isinstance(target, str):
        return lambda body: _register_named(target, version, body, fake, given)
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name
        return _registered(define_operator(name, version, target, None, given))
    if inspect.isclass(target):
        return _register_class(operator_title(target), version, target, fake, given)
    raise ConfigError(
        option="target", value=target, reason="nothing that can be a plugin",
        remedy='Pass "ns::name", a class or an operator.',
    )


def ceil_div(size: Dim, block: int) -> Dim:
    """Blocks that cover ``size`` elements; works on symbols."""
    return -(-size // block)


def _register_named(
    name: str, version: str, body: Any, fake: Callable[..., Any] | None, given: Implementations
) -> Any:
    if name.count("::") != 1 or not all(map(_is_word, name.split("::"))):
        raise ConfigError(
            option="target", value=name, reason="not a name of a plugin",
            remedy='Names are "namespace::name".',
        )
    if inspect.isclass(body):
        return _register_class(name, version, body, fake, given)
    overload = existing_operator(name)
    if overload is not None and not is_own_operator(name):
        return _registered(define_operator(name, version, overload, body, given))
    return _registered(define_function(name, version, body, fake, given))


def _is_word(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _register_class(
    name: str, version: str, cls: type, fake: Callable[..., Any] | None, given: Implementations
) -> type:
    if issubclass(cls, torch.autograd.Function):
        _registered(define_autograd(name, version, cls, fake, given))
        return cls
    if issubclass(cls, nn.Module):
        register(ModuleDefinition(
            name, version, cls.__module__, source_of(cls), given, cls=cls, shaped=fake
        ))
        record_arguments(cls)
        return cls
    if issubclass(cls, Plugin):
        if not isinstance(getattr(cls, "name", None), str):
            raise PluginError(
                name=cls.__qualname__, where="", reason="the class has no name",
                remedy='Give it one: name = "namespace::name".',
            )
        if not 1 <= len(cls.tactics) <= MOST_TACTICS:
            raise PluginError(
                name=cls.name, where="", reason=f"it has {len(cls.tactics)} tactics",
                remedy=f"Name one to {MOST_TACTICS}.",
            )
        full = replace(given, has_enqueue=cls.has_enqueue(), is_capturable=cls.capturable)
        register(ClassDefinition(
            cls.name, cls.version, cls.__module__, source_of(cls), full, cls=cls
        ))
        return cls
    raise ConfigError(
        option="target", value=cls, reason="no kind of class that can be a plugin",
        remedy="Pass an nn.Module, a torch.autograd.Function or a torch2rt.Plugin.",
    )


def _registered(definition: FunctionDefinition) -> PluginFunction:
    register(definition)
    add_rule(definition)
    return PluginFunction(definition)


def _ways(given: Any, launch: type) -> tuple[tuple[Any, ...], ...]:
    """Rival ways, each a tuple of launches."""
    if given is None:
        return ()
    if isinstance(given, launch):
        return ((given,),)
    ways = tuple(given)
    if all(isinstance(item, launch) for item in ways):
        return (ways,)
    return tuple((way,) if isinstance(way, launch) else tuple(way) for way in ways)


def _dtypes(names: Sequence[str]) -> tuple[DType, ...]:
    unknown = sorted(set(names) - set(_PRECISIONS))
    if unknown or isinstance(names, str):
        raise ConfigError(
            option="precisions", value=names, reason="unknown precision",
            remedy=f"Pass a list of {', '.join(map(repr, _PRECISIONS))}.",
        )
    return tuple(_PRECISIONS[name] for name in names)
