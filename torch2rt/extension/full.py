"""The full form of a plugin: a class with a life cycle."""

from __future__ import annotations

import abc
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from torch2rt.backends.spec import TensorSpec
from torch2rt.errors import PluginError
from torch2rt.extension.registry import Definition, PluginCall
from torch2rt.extension.user_code import call_user, described
from torch2rt.lazy_torch import torch
from torch2rt.network.tensor import TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


# Ways to run a plugin that are timed.
MOST_TACTICS = 3


class Plugin(abc.ABC):
    """A layer of the user's own, from its types to its memory.

        @torch2rt.plugin
        class Scale(torch2rt.Plugin):
            name = "demo::scale"

            def __init__(self, factor): self.factor = factor
            def output_types(self, inputs): return inputs
            def reference(self, x): return x * self.factor
            def enqueue(self, inputs, outputs, workspace, stream):
                np.multiply(inputs[0], self.factor, out=outputs[0])

        y = Scale(2.0)(x)            # in a model's forward

    The life of an object: made by the user; `serialize` when a model with it is converted; from
    then on the engine works with copies that `deserialize` makes, each for one shape and tactic:
    `supports`, `configure`, `workspace_bytes`, `initialize` before its first run, `enqueue` at
    every run, `terminate` when its engine is gone. `enqueue` may be called by several threads at
    once, each with its own memory: it must not change the object.

    Attributes of the class:
        name: ``"namespace::name"``.
        version: raise it when results or `serialize` change.
        tactics: names of up to three ways to run it; all are timed, `configure` tells which.
        capturable: on a GPU, `enqueue` only launches kernels on the given stream.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    tactics: ClassVar[tuple[str, ...]] = ("default",)
    capturable: ClassVar[bool] = False
    # Scales of inputs that are stored in 8 bits, 0 for others; empty when there are none. Set
    # before `configure`, where the class is registered with "int8" among its precisions.
    input_scales: tuple[float, ...] = ()

    @abc.abstractmethod
    def output_types(self, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
        """Shapes and dtypes of the outputs.

        Sizes may be symbols, see `Shapes`. An output whose length depends on values gets its
        largest length; another, int32, says how many rows count, and the rest is zero.
        """

    @abc.abstractmethod
    def reference(self, *inputs: TorchTensor) -> TorchTensor | Sequence[TorchTensor]:
        """The outputs in torch: what every other way is checked against, and the last resort."""

    def supports(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], device: str
    ) -> str | None:
        """Why `enqueue` does not take these operands, or None. ``device``: "cpu" or "cuda".

        Default: it takes float32, and whatever is no float.
        """
        floats = {t.dtype.value for t in (*inputs, *outputs) if t.dtype.is_float}
        return f"it takes float32, not {sorted(floats)}" if floats - {"float32"} else None

    def formats(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], device: str
    ) -> Sequence[tuple[Sequence[str], Sequence[str]]]:
        """Layouts of inputs and outputs worth trying, of "plain" and "channels_last".

        Arrays have their logical shape in each; strides differ. Default: all plain.
        """
        return [(["plain"] * len(inputs), ["plain"] * len(outputs))]

    def configure(  # noqa: B027  # need not be written
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], device: str,
        tactic: str,
    ) -> None:
        """Prepare for these operands. Shapes are numbers now."""

    def workspace_bytes(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> int:
        """Scratch memory of a run."""
        return 0

    def initialize(self) -> None:  # noqa: B027  # need not be written
        """Take what it needs for the life of an engine."""

    def terminate(self) -> None:  # noqa: B027  # need not be written
        """Give that back."""

    def enqueue(
        self, inputs: Sequence[Any], outputs: Sequence[Any], workspace: Any, stream: Any
    ) -> None:
        """Write the outputs.

        On a CPU: numpy arrays, ``workspace`` one of bytes, ``stream`` None. On a GPU: CuPy's, and
        work goes to ``stream``, a CuPy stream, which is the current one. Without this method the
        reference runs.
        """
        raise NotImplementedError

    def serialize(self) -> bytes:
        """What `deserialize` makes an equal object of. Default: its attributes, if plain."""
        try:
            return json.dumps(vars(self), sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise PluginError(
                name=self.name, where="", reason=f"its attributes are not all plain ({error})",
                remedy="Write serialize and deserialize",
            ) from error

    @classmethod
    def deserialize(cls, data: bytes) -> Self:
        """An object from what `serialize` gave. It must not trust the bytes: files hold them."""
        made = cls.__new__(cls)
        made.__dict__.update(json.loads(data))
        return made

    @classmethod
    def has_enqueue(cls) -> bool:
        """Whether there is more than the reference."""
        return cls.enqueue is not Plugin.enqueue

    def __call__(self, *inputs: TorchTensor) -> Any:
        """The reference; while a graph is captured, one operator."""
        if not torch.compiler.is_compiling():
            return self.reference(*inputs)
        from torch2rt.extension.operator import call_plugin

        found = call_plugin(inputs, self.name, state_of(self))
        return found[0] if len(found) == 1 else tuple(found)


@dataclass(frozen=True)
class ClassDefinition(Definition):
    """A registered subclass of `Plugin`."""

    fake_remedy: ClassVar[str] = (
        "Let output_types return a TensorType per output, whose sizes are numbers or symbols."
    )

    cls: type[Plugin]

    def make(self, call: PluginCall) -> Plugin:
        """An object of its own."""
        data = base64.b64decode(call.state, validate=True)
        made: Plugin = call_user(self.name, "deserialize", self.cls.deserialize, data)
        return made

    def run(self, call: PluginCall, tensors: Sequence[TorchTensor]) -> list[TorchTensor]:
        """The reference."""
        found = self.make(call).reference(*tensors)
        return [found] if isinstance(found, torch.Tensor) else list(found)

    def fake(self, call: PluginCall, tensors: Sequence[TorchTensor]) -> list[TorchTensor]:
        """Empty tensors of the types the plugin says."""
        from torch2rt.torch_values import dtype_from_torch

        given = [TensorType(tuple(t.shape), dtype_from_torch(t.dtype)) for t in tensors]
        device = tensors[0].device if tensors else None
        return [
            torch.empty(
                cast("tuple[int, ...]", output.shape),  # or torch's own symbols
                dtype=getattr(torch, output.dtype.value), device=device,
            )
            for output in self.make(call).output_types(given)
        ]

    def attributes(self, call: PluginCall) -> Mapping[str, Any]:
        """The object's attributes."""
        return vars(self.make(call))

    def is_of(self, target: object) -> bool:
        """Whether it is this class."""
        return target is self.cls

    def remove(self) -> None:
        """Nothing: objects name their class."""


def state_of(plugin: Plugin) -> str:
    """An object as text. PluginError where `serialize` gives no bytes."""
    data = call_user(plugin.name, "serialize", plugin.serialize)
    if not isinstance(data, bytes):
        raise PluginError(
            name=plugin.name, where="", reason=f"serialize gave {described(data)}, not bytes",
            remedy="Return bytes, of which deserialize makes an equal object",
        )
    return base64.b64encode(data).decode()
