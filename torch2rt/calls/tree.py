"""The structure of a value: containers, constants, and places for tensors.

    {"image": t0, "boxes": [t1, t2], "scale": 2.0}
    Container("dict", keys=("image", "boxes", "scale"),
              children=(LEAF, Container("list", children=(LEAF, LEAF)), Constant(2.0)))

A tree is made from one value (`flatten`), takes the tensors out of others of the same structure
(`collect`) and puts tensors back (`build`). It pickles, and is JSON in an engine file.

Containers: list, tuple, dict, OrderedDict, defaultdict, named tuples, the results of torch ops
such as torch.max, dataclasses (so also the ModelOutput classes of transformers), and every class
registered with ``torch.utils._pytree.register_pytree_node``. The key-value caches of transformers
are taken attribute by attribute. Classes are kept by name, see `classes.ClassName`.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, TypeAlias

import torch
from torch.utils import _pytree as torch_pytree

from torch2rt.calls.classes import ClassName
from torch2rt.calls.constants import (
    Json,
    constant_from_json,
    constant_to_json,
    is_constant,
    same_constant,
)
from torch2rt.errors import CallError, PytreeError


@dataclass(frozen=True, slots=True)
class Leaf:
    """The place of a tensor."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A Python value, the same at every call."""

    value: object


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ``kind`` with one child per key (dict keys, field names or positions)."""

    kind: str
    keys: tuple[Any, ...]
    children: tuple[Tree, ...]
    cls: ClassName | None = None
    context: object = None


Tree: TypeAlias = "Leaf | Constant | Container"
LEAF: Final = Leaf()
_DICTS: Final[dict[str, type]] = {
    "dict": dict, "OrderedDict": OrderedDict, "defaultdict": defaultdict
}
_FACTORIES: Final = (list, dict, tuple, set, int, float, str)  # of a defaultdict
_PLAIN_KINDS: Final = ("list", "tuple", *_DICTS)
_CLASS_KINDS: Final = ("namedtuple", "structseq", "dataclass", "object", "registered")
# Classes that hold data and run no code when an instance comes or goes: safe to put together
# from an engine file, attribute by attribute.
_DATA_MODULES: Final = ("transformers.cache_utils",)
_REMEDY = (
    "Use tensors, numbers, strings, None, lists, tuples, dicts, named tuples or dataclasses, or "
    "register the class with torch.utils._pytree.register_pytree_node"
)


def join(path: str, key: object) -> str:
    """``x`` and ``0`` as ``x.0``."""
    return f"{path}.{key}" if path else str(key)


def flatten(value: object, path: str) -> tuple[Tree, list[torch.Tensor]]:
    """Structure and tensors of a value. PytreeError names the place of what cannot be held."""
    tensors: list[torch.Tensor] = []
    return _tree_of(value, path, tensors), tensors


def _tree_of(value: Any, path: str, tensors: list[torch.Tensor]) -> Tree:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return LEAF
    if is_constant(value):
        return Constant(value)
    shape = _shape_of(value)
    if shape is None:
        raise PytreeError(path=path, reason=_complaint(value), remedy=_REMEDY)
    items = _items(value, shape)
    children = tuple(
        _tree_of(item, join(path, key), tensors)
        for key, item in zip(shape.keys, items, strict=True)
    )
    return Container(shape.kind, shape.keys, children, shape.cls, shape.context)


def _complaint(value: object) -> str:
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return f"a Python number that depends on the size of the inputs ({value})"
    kind = type(value)
    return f"a value of type {kind.__module__}.{kind.__qualname__} is not supported"


def _shape_of(value: Any) -> Container | None:
    """The container a value is, without its children. None for no known container."""
    kind = type(value)
    if kind is list or kind is tuple:
        return Container(kind.__name__, tuple(range(len(value))), ())
    if kind.__name__ in _DICTS and kind is _DICTS[kind.__name__]:
        factory = value.default_factory if isinstance(value, defaultdict) else None
        if factory is not None and factory not in _FACTORIES:
            return None
        named = ClassName.of(factory) if isinstance(factory, type) else None
        return Container(kind.__name__, tuple(value), (), named)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return Container("namedtuple", tuple(kind._fields), (), ClassName.of(kind))
    if isinstance(value, tuple) and hasattr(kind, "n_sequence_fields"):
        return Container("structseq", tuple(range(len(value))), (), ClassName.of(kind))
    if is_dataclass(kind):
        names = tuple(field.name for field in fields(kind))
        return Container("dataclass", names, (), ClassName.of(kind))
    if kind.__module__ in _DATA_MODULES:
        return Container("object", tuple(vars(value)), (), ClassName.of(kind))
    if kind in torch_pytree.SUPPORTED_NODES:
        children, context = torch_pytree.SUPPORTED_NODES[kind].flatten_fn(value)
        keys = tuple(range(len(children)))
        return Container("registered", keys, (), ClassName.of(kind), context)
    return None


def _items(value: Any, shape: Container) -> list[Any]:
    match shape.kind:
        case "dict" | "OrderedDict" | "defaultdict":
            return [value[key] for key in shape.keys]
        case "dataclass":
            return [getattr(value, name) for name in shape.keys]
        case "object":
            return [vars(value)[name] for name in shape.keys]
        case "registered":
            return list(torch_pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)[0])
    return list(value)


def collect(tree: Tree, value: Any, path: str, tensors: list[torch.Tensor]) -> None:
    """Append the tensors of ``value`` in the tree's order. CallError where it does not fit."""
    if isinstance(tree, Leaf):
        if not isinstance(value, torch.Tensor):
            raise CallError(
                reason=f"argument {path!r} must be a tensor, got {_brief(value)}",
                remedy="Pass a tensor, as when the model was captured",
            )
        tensors.append(value)
    elif isinstance(tree, Constant):
        if not same_constant(tree.value, value):
            raise CallError(
                reason=f"argument {path!r} was {tree.value!r} when the model was captured and is "
                f"{_brief(value)} now",
                remedy="Python values are built into an engine: convert the model again with it",
            )
    else:
        _collect_container(tree, value, path, tensors)


def _collect_container(
    tree: Container, value: Any, path: str, tensors: list[torch.Tensor]
) -> None:
    shape = _shape_of(value)
    if shape is None or (shape.kind, shape.context) != (tree.kind, tree.context):
        raise CallError(
            reason=f"argument {path!r} must be {_describe(tree)}, got {_brief(value)}",
            remedy="Pass the structure the model was captured with",
        )
    if shape.keys != tree.keys and set(shape.keys) != set(tree.keys):
        missing = [key for key in tree.keys if key not in shape.keys]
        extra = [key for key in shape.keys if key not in tree.keys]
        raise CallError(
            reason=f"argument {path!r} has other entries than when the model was captured: "
            f"missing {missing}, extra {extra}",
            remedy="Pass the structure the model was captured with",
        )
    ordered = shape if shape.keys == tree.keys else tree
    for key, child, item in zip(tree.keys, tree.children, _items(value, ordered), strict=True):
        collect(child, item, join(path, key), tensors)


def _describe(tree: Container) -> str:
    if tree.cls is not None and tree.kind != "defaultdict":
        return f"a {tree.cls}"
    return f"a {tree.kind} of {len(tree.keys)}"


def _brief(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if is_constant(value):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def build(tree: Tree, tensors: Iterator[Any]) -> Any:
    """The value with its tensors taken in order from ``tensors``."""
    if isinstance(tree, Leaf):
        return next(tensors)
    if isinstance(tree, Constant):
        return tree.value
    return _build_container(tree, [build(child, tensors) for child in tree.children])


def _build_container(tree: Container, items: list[Any]) -> Any:
    match tree.kind:
        case "list":
            return items
        case "tuple":
            return tuple(items)
        case "dict" | "OrderedDict":
            return _DICTS[tree.kind](zip(tree.keys, items, strict=True))
        case "defaultdict" if tree.cls is None:
            return defaultdict(None, zip(tree.keys, items, strict=True))
    assert tree.cls is not None
    return _build_of_class(tree, tree.cls.resolve(), items)


def _build_of_class(tree: Container, cls: Any, items: list[Any]) -> Any:
    """A container of a named class; a file may name any, so each is checked to be one."""
    match tree.kind:
        case "defaultdict" if cls in _FACTORIES:
            return defaultdict(cls, zip(tree.keys, items, strict=True))
        case "namedtuple" if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return cls(*items)
        case "structseq" if issubclass(cls, tuple) and hasattr(cls, "n_sequence_fields"):
            return cls(items)
        case "dataclass" if is_dataclass(cls):
            return _build_dataclass(cls, dict(zip(tree.keys, items, strict=True)))
        case "object" if cls.__module__ in _DATA_MODULES:
            built = cls.__new__(cls)
            vars(built).update(zip(tree.keys, items, strict=True))
            return built
        case "registered" if cls in torch_pytree.SUPPORTED_NODES:
            return torch_pytree.SUPPORTED_NODES[cls].unflatten_fn(items, tree.context)
    raise PytreeError(
        path=f"class {tree.cls}", reason=f"it is no {tree.kind} here",
        remedy="Use the version of the class that the engine was built with, or register it",
    )


def _build_dataclass(cls: Any, values: dict[str, Any]) -> Any:
    initial = {field.name for field in fields(cls) if field.init}
    built = cls(**{name: value for name, value in values.items() if name in initial})
    for name in values.keys() - initial:
        object.__setattr__(built, name, values[name])  # also where the class is frozen
    return built


def leaf_names(tree: Tree, path: str) -> Iterator[str]:
    """The path of every tensor, in order: ``x``, ``boxes.0``."""
    if isinstance(tree, Leaf):
        yield path
    elif isinstance(tree, Container):
        for key, child in zip(tree.keys, tree.children, strict=True):
            yield from leaf_names(child, join(path, key))


def leaf_count(tree: Tree) -> int:
    """How many tensors a value of this structure holds."""
    return sum(1 for _ in leaf_names(tree, ""))


def to_json(tree: Tree, path: str) -> Json:
    """The tree as JSON. PytreeError names the constant that JSON cannot hold."""
    if isinstance(tree, Leaf):
        return "tensor"
    if isinstance(tree, Constant):
        return {"constant": constant_to_json(tree.value, path)}
    children: list[Json] = [
        to_json(child, join(path, key))
        for key, child in zip(tree.keys, tree.children, strict=True)
    ]
    data: dict[str, Json] = {
        "kind": tree.kind,
        "keys": [constant_to_json(key, path) for key in tree.keys],
        "children": children,
    }
    if tree.cls is not None:
        data["class"] = [tree.cls.module, tree.cls.qualname]
    if tree.context is not None:
        data["context"] = constant_to_json(tree.context, path)
    return data


def from_json(data: Json) -> Tree:
    """Inverse of `to_json`. ValueError for anything else; runs no code and imports nothing."""
    if data == "tensor":
        return LEAF
    if not isinstance(data, dict):
        raise ValueError(f"not a structure: {data!r}")
    if set(data) == {"constant"}:
        return Constant(constant_from_json(data["constant"]))
    keys, children, named = data.get("keys"), data.get("children"), data.get("class")
    if not isinstance(keys, list) or not isinstance(children, list) or len(keys) != len(children):
        raise ValueError(f"not a structure: {data!r}")
    cls = None
    if isinstance(named, list) and len(named) == 2:
        cls = ClassName(str(named[0]), str(named[1]))
    kind, found = data.get("kind"), tuple(constant_from_json(key) for key in keys)
    if kind not in (*_PLAIN_KINDS, *_CLASS_KINDS) or (cls is None and kind in _CLASS_KINDS):
        raise ValueError(f"not a structure: kind {kind!r} with class {cls}")
    if not all(isinstance(key, Hashable) for key in found):
        raise ValueError(f"not a structure: keys {found!r}")
    context = constant_from_json(data.get("context"))
    return Container(str(kind), found, tuple(from_json(child) for child in children), cls, context)
