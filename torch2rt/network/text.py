"""The text form of a network: printed for people, golden tests and engine files; parsed back.

    network lenet
    symbol s0 in 1..1024
    input %x: float32[s0,1,28,28]
    constant @conv.weight: float32[6,1,5,5]
    %conv = convolution(%x, @conv.weight) {"stride": [1,1]} epilogue relu(i0) -> float32[s0,6,24,24]
    output y = %conv

One line per item. A layer with several outputs lists them before ``=`` and their types after
``->``. Data of constants is not part of the text: `parse` takes it beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from torch2rt import expression as ex
from torch2rt.errors import NetworkTextError
from torch2rt.layers.registry import (
    attributes_to_json,
    kind_from_json,
    parse_tensor_type,
    split_commas,
)
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor

_LAYER = re.compile(
    r"(?P<outputs>%[^=]*?) = (?P<kind>\w+)\((?P<inputs>[^)]*)\)"
    r"(?: (?P<attributes>\{.*\}))?(?: epilogue (?P<epilogue>\S+))? -> (?P<types>.+)"
)
_DECLARATION = re.compile(r"(?P<word>input|constant) (?P<sigil>[%@])(?P<name>\S+): (?P<type>\S+)")
_SYMBOL = re.compile(r"symbol (\w+) in (\d+)\.\.(\d+)")
_OUTPUT = re.compile(r"output (\S+) = [%@](\S+)")


def text(network: Network) -> str:
    """The network as text, ending in a newline. Equal networks give equal text."""
    lines = [f"network {network.name}"]
    lines += [f"symbol {n} in {low}..{high}" for n, (low, high) in network.symbols.items()]
    for name, tensor in network.inputs.items():
        bound = "" if name == tensor.name else f" as {name}"
        lines.append(f"input {tensor!r}{bound}")
    lines += [f"constant {tensor!r}" for tensor in network.constants]
    lines += [layer_text(layer) for layer in network.layers]
    lines += [f"output {name} = {_reference(t)}" for name, t in network.outputs.items()]
    return "\n".join(lines) + "\n"


def layer_text(layer: Layer) -> str:
    """One layer as one line."""
    outputs = ", ".join(_reference(tensor) for tensor in layer.outputs)
    inputs = ", ".join(_reference(tensor) for tensor in layer.inputs)
    attributes = attributes_to_json(layer.kind)
    return (
        f"{outputs} = {layer.kind.name}({inputs})"
        + (f" {json.dumps(attributes, separators=(',', ':'))}" if attributes else "")
        + (f" epilogue {layer.epilogue.text}" if layer.epilogue is not None else "")
        + f" -> {', '.join(str(tensor.type) for tensor in layer.outputs)}"
    )


def parse(source: str, constants: Mapping[str, Array]) -> Network:
    """A network from its text and the data of its constants by name.

    NetworkTextError names the line that is wrong. Nothing of the text is executed.
    """
    network = Network()
    for number, line in enumerate(source.splitlines(), start=1):
        content = line.strip()
        if not content:
            continue
        try:
            _parse_line(network, content, constants)
        except (ValueError, KeyError, TypeError) as error:
            raise NetworkTextError(line=number, reason=str(error), content=content[:120]) from error
    return network


def _parse_line(network: Network, line: str, constants: Mapping[str, Array]) -> None:
    if line.startswith("network "):
        network.name = line.removeprefix("network ")
    elif match := _SYMBOL.fullmatch(line):
        network.symbols[match[1]] = (int(match[2]), int(match[3]))
    elif line.startswith(("input ", "constant ")):
        _parse_declaration(network, line, constants)
    elif match := _OUTPUT.fullmatch(line):
        network.add_output(match[1], network.tensor(match[2]))
    elif match := _LAYER.fullmatch(line):
        _parse_layer(network, match)
    else:
        raise ValueError("not a line of a network")


def _parse_declaration(network: Network, line: str, constants: Mapping[str, Array]) -> None:
    body, _, bound = line.partition(" as ")
    match = _DECLARATION.fullmatch(body)
    if match is None or network.has_tensor(match["name"]):
        raise ValueError("not a declaration, or its name is taken")
    type = parse_tensor_type(match["type"])
    if match["word"] == "input":
        tensor = network.add_input(bound or match["name"], type)
        network.rename(tensor, match["name"])
        return
    data = constants[match["name"]]
    if tuple(data.shape) != type.shape:
        raise ValueError(f"data of constant {match['name']} has shape {tuple(data.shape)}")
    network.add_constant(match["name"], data, type.dtype)


def _parse_layer(network: Network, match: re.Match[str]) -> None:
    kind = kind_from_json(match["kind"], json.loads(match["attributes"] or "{}"))
    inputs = [network.tensor(_name(part)) for part in split_commas(match["inputs"])]
    epilogue = ex.parse_expression(match["epilogue"]) if match["epilogue"] else None
    names = [_name(part) for part in split_commas(match["outputs"])]
    types = [parse_tensor_type(part) for part in split_commas(match["types"])]
    is_taken = any(network.has_tensor(name) for name in names)
    if len(names) != len(types) or is_taken or len(set(names)) != len(names):
        raise ValueError("outputs and types do not match, or an output's name is taken")
    layer = network.add(kind, inputs, name=names[0], epilogue=epilogue,
                        output_dtypes=[type.dtype for type in types])
    if [output.type for output in layer.outputs] != types:
        raise ValueError(f"the layer gives {[str(o.type) for o in layer.outputs]}")
    for output, name in zip(layer.outputs, names, strict=True):
        if output.name != name:
            network.rename(output, name)


def _reference(tensor: Tensor) -> str:
    return f"{'@' if tensor.is_constant else '%'}{tensor.name}"


def _name(part: str) -> str:
    if part[:1] not in ("%", "@"):
        raise ValueError(f"{part!r} is not a tensor")
    return part[1:]
