"""The network: layers in topological order and the use-def chains between their tensors.

A network is mutable, but only through its own methods, which keep order and use-def right.
Iterating ``network.layers`` is safe while the network changes: it is a snapshot, and a layer that
has been removed meanwhile says so (``layer.is_alive``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch2rt import expression as ex
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer, LayerKind, Origin
from torch2rt.network.tensor import Tensor, TensorType

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:\-]")


class Network:
    """A graph of layers with named inputs and outputs.

    ``inputs`` and ``outputs`` map binding names to tensors; an output may be an input or a
    constant, and one tensor may be several outputs. ``symbols`` gives the range of each symbolic
    dim as (smallest, largest).
    """

    def __init__(self, name: str = "network") -> None:
        self.name = name
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.symbols: dict[str, tuple[int, int]] = {}
        self._layers: list[Layer] = []
        self._tensors: dict[str, Tensor] = {}
        self._layer_names: set[str] = set()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """A snapshot of the layers in topological order."""
        return tuple(self._layers)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors: inputs, constants, results."""
        return tuple(self._tensors.values())

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """The tensors that carry data."""
        return tuple(tensor for tensor in self._tensors.values() if tensor.is_constant)

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name; KeyError if there is none."""
        return self._tensors[name]

    def has_tensor(self, name: str) -> bool:
        """Whether a tensor of this name exists."""
        return name in self._tensors

    def add_input(self, name: str, type: TensorType) -> Tensor:
        """A new network input, bound under its name."""
        tensor = self._register(Tensor(self._free(name, self._tensors), type))
        self.inputs[name] = tensor
        return tensor

    def add_constant(self, name: str, data: Array, dtype: DType | None = None) -> Tensor:
        """A new constant. ``dtype`` is needed where numpy only stores the bits (bfloat16)."""
        dtype = dtype if dtype is not None else DType(data.dtype.name)
        if data.dtype != dtype.numpy:
            raise ValueError(f"constant {name}: data is {data.dtype}, {dtype.value} is stored as "
                             f"{dtype.numpy}")
        type = TensorType(tuple(int(size) for size in data.shape), dtype)
        return self._register(Tensor(self._free(name, self._tensors), type, data))

    def add_output(self, name: str, tensor: Tensor) -> None:
        """Bind a tensor as a network output; ValueError if the name is taken."""
        if name in self.outputs:
            raise ValueError(f"output {name!r} exists already")
        self.outputs[name] = tensor

    def add(
        self,
        kind: LayerKind,
        inputs: Iterable[Tensor],
        *,
        name: str | None = None,
        epilogue: ex.Expression | None = None,
        output_dtypes: Sequence[DType | None] = (),
        origins: tuple[Origin, ...] = (),
        before: Layer | None = None,
    ) -> Layer:
        """A new layer at the end, or just before another one.

        Output types come from the kind's `infer`; ``output_dtypes`` overrides dtypes one by one
        (an epilogue or a lower precision may change them). ValueError if the inputs do not fit.
        """
        inputs = tuple(inputs)
        extra = max(0, ex.arity(epilogue) - 1) if epilogue is not None else 0
        types = list(kind.infer([tensor.type for tensor in inputs[: len(inputs) - extra]]))
        for index, dtype in enumerate(output_dtypes):
            if dtype is not None:
                types[index] = TensorType(types[index].shape, dtype)
        layer_name = self._free(name or (origins[0].module_path if origins else "") or kind.name,
                                self._layer_names)
        outputs = tuple(
            self._register(Tensor(self._free(_output_name(layer_name, i), self._tensors), type))
            for i, type in enumerate(types)
        )
        layer = Layer(layer_name, kind, inputs, outputs, epilogue, origins)
        self._insert(layer, before)
        return layer

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Make every reader of ``old``, network outputs included, read ``new``."""
        for user in tuple(old.users):
            self.set_inputs(user, tuple(new if t is old else t for t in user.inputs))
        for name, tensor in self.outputs.items():
            if tensor is old:
                self.outputs[name] = new

    def set_inputs(self, layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        """Rewire a layer. The caller keeps the order topological (see `sort`)."""
        for tensor in layer.inputs:
            tensor.users.pop(layer, None)
        layer.inputs = inputs
        for tensor in inputs:
            tensor.users[layer] = None

    def set_epilogue(
        self, layer: Layer, epilogue: ex.Expression | None, inputs: tuple[Tensor, ...]
    ) -> None:
        """Give a layer another epilogue with its epilogue inputs."""
        main = layer.main_inputs
        layer.epilogue = epilogue
        self.set_inputs(layer, (*main, *inputs))

    def set_kind(self, layer: Layer, kind: LayerKind) -> None:
        """Change a layer's attributes; the caller keeps the outputs' types in step."""
        layer.kind = kind

    def set_type(self, tensor: Tensor, type: TensorType) -> None:
        """Change a result's type (precision passes do)."""
        tensor.type = type

    def set_origins(self, layer: Layer, origins: Iterable[Origin]) -> None:
        """Say what a layer stems from; duplicates are dropped."""
        layer.origins = tuple(dict.fromkeys(origins))

    def remove(self, layer: Layer) -> None:
        """Take a layer out; ValueError if one of its outputs is still read."""
        for output in layer.outputs:
            if self.is_used(output):
                raise ValueError(f"{output.name} of layer {layer.name} is still used")
        for tensor in layer.inputs:
            tensor.users.pop(layer, None)
        for output in layer.outputs:
            del self._tensors[output.name]
        self._layers.remove(layer)
        self._layer_names.discard(layer.name)
        layer.network = None

    def remove_constant(self, tensor: Tensor) -> None:
        """Drop a constant that nobody reads."""
        if self.is_used(tensor):
            raise ValueError(f"constant {tensor.name} is still used")
        del self._tensors[tensor.name]

    def is_used(self, tensor: Tensor) -> bool:
        """Whether a layer reads it or it is a network output."""
        return bool(tensor.users) or self.is_output(tensor)

    def is_output(self, tensor: Tensor) -> bool:
        """Whether it is a network output."""
        return any(output is tensor for output in self.outputs.values())

    def only_user(self, tensor: Tensor) -> Layer | None:
        """The one layer that reads it, if it has exactly one and is no network output."""
        if len(tensor.users) != 1 or self.is_output(tensor):
            return None
        (user,) = tensor.users
        return user

    def position(self, layer: Layer) -> int:
        """Index of a layer in topological order."""
        return self._layers.index(layer)

    def sort(self) -> None:
        """Restore topological order, keeping the present order where it is free."""
        done: set[int] = set()
        order: list[Layer] = []
        for root in self._layers:
            stack = [root]
            while stack:
                layer = stack[-1]
                if id(layer) in done:
                    stack.pop()
                    continue
                waiting = [
                    t.producer for t in layer.inputs
                    if t.producer is not None and id(t.producer) not in done
                ]
                if waiting:
                    if len(stack) > len(self._layers):
                        raise ValueError(f"network {self.name} has a cycle at {layer.name}")
                    stack.append(waiting[0])
                else:
                    done.add(id(layer))
                    order.append(stack.pop())
        self._layers = order

    def rename(self, tensor: Tensor, name: str) -> None:
        """Give a tensor another name; a taken name gets a number."""
        del self._tensors[tensor.name]
        tensor.name = self._free(name, self._tensors)
        self._tensors[tensor.name] = tensor

    def rename_layer(self, layer: Layer, name: str) -> None:
        """Give a layer another name; a taken name gets a number."""
        self._layer_names.discard(layer.name)
        layer.name = self._free(name, self._layer_names)
        self._layer_names.add(layer.name)

    def _insert(self, layer: Layer, before: Layer | None) -> None:
        layer.network = self
        for output in layer.outputs:
            output.producer = layer
        for tensor in layer.inputs:
            tensor.users[layer] = None
        self._layer_names.add(layer.name)
        if before is None:
            self._layers.append(layer)
        else:
            self._layers.insert(self._layers.index(before), layer)

    def _register(self, tensor: Tensor) -> Tensor:
        self._tensors[tensor.name] = tensor
        return tensor

    @staticmethod
    def _free(name: str, taken: Iterable[str]) -> str:
        name = _NOT_IN_NAMES.sub("_", name) or "_"
        if name not in taken:
            return name
        number = 1
        while f"{name}:{number}" in taken:
            number += 1
        return f"{name}:{number}"


def _output_name(layer_name: str, index: int) -> str:
    return layer_name if index == 0 else f"{layer_name}:out{index}"
