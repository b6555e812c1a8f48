"""How the arguments of a call become flat tensors, and flat tensors the model's outputs.

`CallSpec` stands for the signature of ``forward`` and the arguments of one example call;
`OutputSpec` for the structure of what that call returned. Both pickle and both are JSON in an
engine file; `tree` tells how classes travel.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from torch2rt.calls import tree as trees
from torch2rt.calls.constants import (
    Json,
    constant_from_json,
    constant_to_json,
    is_constant,
    same_constant,
)
from torch2rt.calls.tree import LEAF, Tree
from torch2rt.errors import CallError, PytreeError


class _Absent:
    """An argument or a default that is not there."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
_POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
_BY_NAME = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of ``forward``.

    ``kind`` is the name of inspect's kind; ``tree`` the structure of the example's argument, None
    where the example left it out; ``default`` its default, `ABSENT` where it has none.
    """

    name: str
    kind: str
    tree: Tree | None
    default: object = ABSENT


class CallSpec:
    """Takes the tensors out of a call's arguments, in one fixed order.

        spec, tensors = CallSpec.from_call(forward, (x,), {"mask": m})
        spec.names                          # ("x", "mask")
        spec.flatten((), {"mask": m, "x": x})   # [x, m]

    Names are those of ``forward``'s parameters; tensors in containers are ``x.0`` or
    ``batch.image``. Everything that is no tensor is a constant and compared at each call.
    """

    __slots__ = ("_by_position", "_known", "names", "parameters", "positional_count")

    def __init__(self, parameters: Sequence[Parameter], positional_count: int) -> None:
        self.parameters = tuple(parameters)
        self.positional_count = positional_count  # how many arguments the example gave by position
        self.names = tuple(name for item in self.parameters for name in _names_of(item))
        given = [item for item in self.parameters if item.tree is not None]
        is_plain = all(item.tree is LEAF and item.kind in _POSITIONAL for item in given)
        leading = self.parameters[: len(given)] == tuple(given)
        self._by_position = len(given) if is_plain and leading and given else -1
        self._known = {item.name for item in self.parameters if item.kind in _BY_NAME}

    @classmethod
    def from_call(
        cls, forward: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CallSpec, list[torch.Tensor]]:
        """Spec and tensors of an example call. CallError where the arguments do not fit."""
        signature = inspect.signature(forward)  # type: ignore[arg-type]
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise CallError(
                reason=f"the example inputs do not fit the model's forward: {error}",
                remedy=f"Its signature is forward{signature}",
            ) from error
        parameters: list[Parameter] = []
        tensors: list[torch.Tensor] = []
        for name, item in signature.parameters.items():
            tree = None
            if name in bound:
                is_spread = item.kind is inspect.Parameter.VAR_KEYWORD
                tree, found = trees.flatten(bound[name], "" if is_spread else name)
                tensors += found
            default = ABSENT if item.default is inspect.Parameter.empty else item.default
            parameters.append(Parameter(name, item.kind.name, tree, default))
        return cls(parameters, len(args)), tensors

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """Tensors of a call in the order of ``names``. CallError names the argument at fault."""
        if len(args) == self._by_position and not kwargs:
            for value in args:
                if not isinstance(value, torch.Tensor):
                    break
            else:
                return list(args)
        return self._flatten_slowly(args, kwargs)

    def _flatten_slowly(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[torch.Tensor]:
        self._refuse_extra(len(args), kwargs)
        tensors: list[torch.Tensor] = []
        position = 0
        for item in self.parameters:
            if item.kind == "VAR_POSITIONAL":
                value: Any = args[position:] if len(args) > position else ABSENT
                position = max(position, len(args))
            elif item.kind == "VAR_KEYWORD":
                rest = {key: kwargs[key] for key in kwargs if key not in self._known}
                value = rest or ABSENT
            elif item.kind in _POSITIONAL and position < len(args):
                value = args[position]
                position += 1
                if item.name in kwargs and item.kind in _BY_NAME:
                    raise self._misfit(f"argument {item.name!r} is given twice")
            else:
                value = kwargs.get(item.name, ABSENT) if item.kind in _BY_NAME else ABSENT
            self._take(item, value, tensors)
        return tensors

    def _take(self, item: Parameter, value: Any, tensors: list[torch.Tensor]) -> None:
        is_spread = item.kind == "VAR_KEYWORD"
        if item.tree is None:
            if value is ABSENT or (item.default is not ABSENT and _is_same(value, item.default)):
                return
            names = ", ".join(map(repr, value)) if is_spread else repr(item.name)
            raise self._misfit(
                f"argument {names} was not given when the model was captured",
                "Leave it out, or convert the model again with it among the example inputs",
            )
        if value is ABSENT:
            value = item.default
            if value is ABSENT and item.kind == "VAR_POSITIONAL":
                value = ()
            elif value is ABSENT and is_spread:
                value = {}
            elif value is ABSENT or trees.leaf_count(item.tree):
                raise self._misfit(f"argument {item.name!r} is missing")
        trees.collect(item.tree, value, "" if is_spread else item.name, tensors)

    def _refuse_extra(self, given: int, kwargs: dict[str, Any]) -> None:
        kinds = [item.kind for item in self.parameters]
        surplus = given - sum(kind in _POSITIONAL for kind in kinds)
        if surplus > 0 and "VAR_POSITIONAL" not in kinds:
            raise self._misfit(f"{surplus} positional argument(s) too many")
        for name in kwargs:
            if name not in self._known and "VAR_KEYWORD" not in kinds:
                raise self._misfit(f"unexpected argument {name!r}")

    def _misfit(self, reason: str, remedy: str | None = None) -> CallError:
        expected = ", ".join(self.names)
        return CallError(reason=reason, remedy=remedy or f"The model takes: {expected}")

    def unflatten(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of the example call with other tensors in its places."""
        remaining = iter(tensors)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for item in self.parameters:
            if item.tree is None:
                continue
            value = trees.build(item.tree, remaining)
            if item.kind == "VAR_POSITIONAL":
                args.extend(value)
            elif item.kind == "VAR_KEYWORD":
                kwargs.update(value)
            elif item.kind in _POSITIONAL and len(args) < self.positional_count:
                args.append(value)
            else:
                kwargs[item.name] = value
        return tuple(args), kwargs

    def to_json(self) -> Json:
        """The spec for an engine file. PytreeError names a constant that cannot be saved."""
        parameters: list[Json] = []
        for item in self.parameters:
            data: dict[str, Json] = {"name": item.name, "kind": item.kind}
            if item.tree is not None:
                data["tree"] = trees.to_json(item.tree, item.name)
            try:
                if item.default is not ABSENT:
                    data["default"] = {"constant": constant_to_json(item.default, item.name)}
            except PytreeError:
                data["default"] = None  # an odd default only matters to calls that repeat it
            parameters.append(data)
        return {"parameters": parameters, "positional": self.positional_count}

    @classmethod
    def from_json(cls, data: Json) -> CallSpec:
        """Inverse of `to_json`. ValueError for anything else; runs no code."""
        if not isinstance(data, dict) or not isinstance(data.get("parameters"), list):
            raise ValueError(f"not a call specification: {data!r}")
        count, items = data.get("positional"), data["parameters"]
        if not isinstance(count, int) or not isinstance(items, list):
            raise ValueError(f"not a call specification: {data!r}")
        return cls([_parameter_from_json(item) for item in items], count)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallSpec) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.names)

    def __reduce__(self) -> tuple[object, ...]:
        return CallSpec, (self.parameters, self.positional_count)


def _names_of(item: Parameter) -> list[str]:
    if item.tree is None:
        return []
    return list(trees.leaf_names(item.tree, "" if item.kind == "VAR_KEYWORD" else item.name))


def _is_same(left: object, right: object) -> bool:
    return left is right or (is_constant(left) and same_constant(left, right))


def _parameter_from_json(data: Json) -> Parameter:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ValueError(f"not a parameter: {data!r}")
    tree = trees.from_json(data["tree"]) if "tree" in data else None
    stored = data.get("default")
    default = constant_from_json(stored["constant"]) if isinstance(stored, dict) else ABSENT
    return Parameter(str(data["name"]), str(data.get("kind")), tree, default)


class OutputSpec:
    """Puts flat tensors back into the structure the model returned.

        spec, tensors = OutputSpec.from_value({"logits": t, "loss": None})
        spec.names               # ("logits",)
        spec.rebuild([u])        # {"logits": u, "loss": None}

    A single tensor is called ``output``, the items of a tuple ``output.0``, ``output.1``; keys
    and field names are used as they are.
    """

    __slots__ = ("_is_single", "names", "tree")

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.names = _output_names(tree)
        self._is_single = tree == LEAF

    @classmethod
    def from_value(cls, value: object) -> tuple[OutputSpec, list[torch.Tensor]]:
        """Spec and tensors of what a model returned. PytreeError names what cannot be held."""
        tree, tensors = trees.flatten(value, "output")
        return cls(tree), tensors

    def rebuild(self, flat: Sequence[Any]) -> Any:
        """The model's structure around one value per name, in the order of ``names``."""
        if self._is_single:
            return flat[0]
        return trees.build(self.tree, iter(flat))

    def to_json(self) -> Json:
        """The spec for an engine file. PytreeError names a constant that cannot be saved."""
        return trees.to_json(self.tree, "output")

    @classmethod
    def from_json(cls, data: Json) -> OutputSpec:
        """Inverse of `to_json`. ValueError for anything else; runs no code."""
        return cls(trees.from_json(data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OutputSpec) and self.tree == other.tree

    def __hash__(self) -> int:
        return hash(self.names)

    def __reduce__(self) -> tuple[object, ...]:
        return OutputSpec, (self.tree,)


def _output_names(tree: Tree) -> tuple[str, ...]:
    is_keyed = isinstance(tree, trees.Container) and all(isinstance(key, str) for key in tree.keys)
    names: list[str] = []
    for name in trees.leaf_names(tree, "" if is_keyed else "output"):
        while name in names:  # {"a.0": t, "a": [t]} holds two tensors called a.0
            name += "_"
        names.append(name)
    return tuple(names)
