"""The invariants of a network, as small rules. Run between passes in tests and by `convert`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from torch2rt.errors import NetworkError
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor

Rule = Callable[[Network], Iterator[str]]


def verify(network: Network, *, after: str = "") -> None:
    """Raise NetworkError naming every broken invariant; ``after`` names the pass that ran."""
    problems = [problem for rule in RULES for problem in rule(network)]
    if problems:
        raise NetworkError(after=f" after {after}" if after else "", problems="; ".join(problems))


def layers_are_in_topological_order(network: Network) -> Iterator[str]:
    """Every input is a network input, a constant, or the output of an earlier layer."""
    known: set[Tensor] = {t for t in network.tensors if t.is_constant}
    known |= set(network.inputs.values())
    for layer in network.layers:
        for tensor in layer.inputs:
            if tensor not in known:
                yield f"{layer.name} reads {tensor.name} before it is written"
        known |= set(layer.outputs)
    for name, tensor in network.outputs.items():
        if tensor not in known:
            yield f"output {name} is {tensor.name}, which nothing writes"


def users_are_right(network: Network) -> Iterator[str]:
    """A tensor's users are exactly the layers that read it."""
    readers: dict[Tensor, set[Layer]] = {tensor: set() for tensor in network.tensors}
    for layer in network.layers:
        for tensor in layer.inputs:
            readers.setdefault(tensor, set()).add(layer)
    for tensor, layers in readers.items():
        if set(tensor.users) != layers:
            yield f"users of {tensor.name} are wrong"


def producers_are_right(network: Network) -> Iterator[str]:
    """A tensor's producer is the layer that lists it as output, or None."""
    for layer in network.layers:
        for output in layer.outputs:
            if output.producer is not layer:
                yield f"{output.name} does not know its producer {layer.name}"
    alive = set(network.layers)
    for tensor in network.tensors:
        if tensor.producer is not None and tensor.producer not in alive:
            yield f"{tensor.name} is written by {tensor.producer.name}, which was removed"


def names_are_unique(network: Network) -> Iterator[str]:
    """No two tensors and no two layers share a name."""
    for what, names in (
        ("tensor", [tensor.name for tensor in network.tensors]),
        ("layer", [layer.name for layer in network.layers]),
    ):
        for name in (name for name, count in Counter(names).items() if count > 1):
            yield f"two {what}s are named {name}"


def tensors_are_registered(network: Network) -> Iterator[str]:
    """Every tensor a layer touches belongs to the network."""
    known = set(network.tensors)
    for layer in network.layers:
        for tensor in (*layer.inputs, *layer.outputs):
            if tensor not in known:
                yield f"{layer.name} touches {tensor.name}, which is not in the network"


def types_match_kinds(network: Network) -> Iterator[str]:
    """Shapes of outputs are what the kind infers."""
    for layer in network.layers:
        try:
            inferred = layer.kind.infer([tensor.type for tensor in layer.main_inputs])
        except ValueError as error:
            yield f"{layer.name}: {error}"
            continue
        shapes = [type.shape for type in inferred]
        if shapes != [output.shape for output in layer.outputs]:
            yield f"{layer.name} infers {shapes}, has {[o.shape for o in layer.outputs]}"


def epilogues_fit(network: Network) -> Iterator[str]:
    """An epilogue stands on a layer with one output, and its inputs broadcast into it."""
    for layer in network.layers:
        if layer.epilogue is None:
            continue
        if len(layer.outputs) != 1:
            yield f"{layer.name} has an epilogue and {len(layer.outputs)} outputs"
        for tensor in layer.epilogue_inputs:
            if not _broadcasts_into(tensor, layer.outputs[0]):
                yield f"{layer.name}: epilogue input {tensor!r} exceeds {layer.outputs[0]!r}"


def _broadcasts_into(tensor: Tensor, output: Tensor) -> bool:
    if tensor.rank > output.rank:
        return False
    pairs = zip(reversed(tensor.shape), reversed(output.shape), strict=False)
    return all(small in (1, large) or not isinstance(small, int) for small, large in pairs)


RULES: tuple[Rule, ...] = (
    layers_are_in_topological_order,
    users_are_right,
    producers_are_right,
    names_are_unique,
    tensors_are_registered,
    types_match_kinds,
    epilogues_fit,
)
