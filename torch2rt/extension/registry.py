"""The plugins of this process by name. Importing a user's package fills it; nothing else does."""

from __future__ import annotations

import abc
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch2rt.errors import PluginMissingError, RegistrationError
from torch2rt.extension.implementations import Implementations
from torch2rt.extension.user_code import GIVE_FAKE

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


@dataclass(frozen=True)
class PluginCall:
    """What an engine keeps of one use: enough to run the plugin's own code again.

    ``arguments`` are a function's, in order, with ``("tensor", i)`` for tensor i and ``("list",
    ...)`` for lists; ``state`` is text that a module or a `Plugin` makes and reads.
    """

    arguments: tuple[Any, ...] = ()
    state: str = ""


@dataclass(frozen=True)
class Definition(abc.ABC):
    """A registered plugin. ``package`` is the module that registers it, ``source`` where."""

    # What a user does whose plugin gives no outputs for tensors without data.
    fake_remedy: ClassVar[str] = GIVE_FAKE

    name: str
    version: str
    package: str
    source: str
    implementations: Implementations

    @abc.abstractmethod
    def run(self, call: PluginCall, tensors: Sequence[TorchTensor]) -> list[TorchTensor]:
        """The plugin's own code in torch: its reference."""

    def fake(self, call: PluginCall, tensors: Sequence[TorchTensor]) -> list[TorchTensor]:
        """The outputs for tensors without data. Default: its own code is run on them."""
        return self.run(call, tensors)

    @abc.abstractmethod
    def attributes(self, call: PluginCall) -> Mapping[str, Any]:
        """The plain values of a call by name, as kernels' grids and numbers are given them."""

    def is_of(self, target: object) -> bool:
        """Whether this class, or function, is what was registered. Default: no."""
        return False

    @abc.abstractmethod
    def remove(self) -> None:
        """Undo what registering did beside this table."""


_lock = threading.Lock()
_definitions: dict[str, Definition] = {}


def register(definition: Definition) -> None:
    """Add a plugin; the same one again replaces it. RegistrationError for two of one name."""
    with _lock:
        known = _definitions.get(definition.name)
        if known is not None and known.source != definition.source:
            raise RegistrationError(
                what="plugin", name=definition.name, first=_title(known),
                second=_title(definition),
            )
        _definitions[definition.name] = definition


def unregister(name: str) -> None:
    """Forget a plugin, if there is one of this name."""
    with _lock:
        definition = _definitions.pop(name, None)
    if definition is not None:
        definition.remove()


def registered(name: str) -> Definition | None:
    """The plugin of this name, or None."""
    return _definitions.get(name)


def definitions() -> tuple[Definition, ...]:
    """All plugins, in the order of registration."""
    return tuple(_definitions.values())


def required(name: str, version: str, package: str) -> Definition:
    """The plugin of this name and version; PluginMissingError says what to register."""
    found = _definitions.get(name)
    if found is not None and found.version == version:
        return found
    got = "nothing of this name is registered" if found is None else (
        f"version {found.version} is registered, by {found.source}"
    )
    raise PluginMissingError(name=name, version=version, package=package, got=got)


def _title(definition: Definition) -> str:
    return f"{definition.source} (version {definition.version})"
