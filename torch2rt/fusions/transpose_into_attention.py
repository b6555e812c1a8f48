"""Attention reads and writes heads where linear layers leave them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, replace_layer
from torch2rt.layers.attention import Attention
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_FLAGS = ("query_heads_last", "key_heads_last", "value_heads_last")
_OUTPUT_FLAG = "output_heads_last"


@dataclass(frozen=True)
class HeadTranspose:
    """A transpose of heads and rows before input ``index`` of an attention layer.

    ``index`` is None where it stands behind the layer.
    """

    attention: Layer
    transpose: Layer
    index: int | None


class TransposeIntoAttention(Fusion[HeadTranspose]):
    """Exchange heads and rows by the attention layer's own flags.

    Before: %t = transpose(%q[b,l,h,e]) {"permutation": [0,2,1,3]}   %a = attention(%t, %k, %v)
            %y = transpose(%a) {"permutation": [0,2,1,3]}
    After:  %y = attention(%q, %k, %v) {"query_heads_last": true, "output_heads_last": true}
    Fires for each of the three inputs, whoever else reads the transpose, and for the output. Of a
    transpose that also moves the batch, such as [2,0,1,3], that part stays: [1,0,2,3].
    Refuses a transpose of the output when something else reads the output, or an epilogue stands
    between.
    """

    name: ClassVar[str] = "transpose_into_attention"
    equation: ClassVar[str] = "transpose(attention(transpose(q), k, v)) = attention(q, k, v)"
    priority: ClassVar[int] = 62

    def match(self, network: Network, layer: Layer) -> HeadTranspose | None:
        """An attention layer behind a transpose of heads, or such a transpose behind one."""
        if isinstance(layer.kind, Attention):
            for index in range(3):
                producer = layer.inputs[index].producer
                if producer is not None and _is_of_heads(producer):
                    return HeadTranspose(layer, producer, index)
        producer = layer.inputs[0].producer if isinstance(layer.kind, Transpose) else None
        if producer is not None and isinstance(producer.kind, Attention) and (
            _is_of_heads(layer) or _puts_heads_last(layer, producer.kind)
        ):
            return HeadTranspose(producer, layer, None)
        return None

    def check(self, network: Network, match: HeadTranspose) -> Reject | None:
        """Behind the attention layer: nothing else reads its output."""
        if match.index is not None:
            return None
        output = match.attention.output
        if network.only_user(output) is not match.transpose:
            return Reject(f"{output.name} has other readers", match.transpose.name)
        if match.attention.epilogue is not None:
            return Reject("an epilogue stands between", match.transpose.name)
        return None

    def rewrite(self, network: Network, match: HeadTranspose) -> Layer:
        """Toggle the flag; read or write what the transpose did."""
        attention, transpose = match.attention, match.transpose
        assert isinstance(attention.kind, Attention)
        if match.index is None:
            return _with_output_exchanged(network, attention, transpose)
        inputs = list(attention.inputs)
        inputs[match.index] = transpose.inputs[0]
        network.set_kind(attention, _toggled(attention.kind, _FLAGS[match.index]))
        network.set_inputs(attention, tuple(inputs))
        network.set_origins(attention, merged_origins(transpose, attention))
        remove_if_unused(network, transpose)
        return attention


def _with_output_exchanged(network: Network, attention: Layer, transpose: Layer) -> Layer:
    """Attention with its output flag toggled, and what the transpose does beyond that."""
    assert isinstance(attention.kind, Attention)
    assert isinstance(transpose.kind, Transpose)
    kind = _toggled(attention.kind, _OUTPUT_FLAG)
    if _is_of_heads(transpose):
        return replace_layer(
            network, transpose, kind, attention.inputs, absorbed=(attention,),
            named_after=attention,
        )
    exchanged = network.add(
        kind, attention.inputs, before=attention, name=attention.name,
        output_dtypes=(attention.output.dtype,), origins=attention.origins,
    )
    rank = len(transpose.kind.permutation)
    heads, rows = rank - 3, rank - 2
    swapped = {heads: rows, rows: heads}
    rest = Transpose(tuple(swapped.get(axis, axis) for axis in transpose.kind.permutation))
    return replace_layer(
        network, transpose, rest, exchanged.outputs, absorbed=(attention,)
    )


def _puts_heads_last(layer: Layer, attention: Attention) -> bool:
    """Whether a transpose of [*, h, l, e] puts h and e last, and moves more than these."""
    assert isinstance(layer.kind, Transpose)
    rank = len(layer.kind.permutation)
    if attention.output_heads_last or rank < 4 or layer.epilogue is not None:
        return False
    return layer.kind.permutation[-2:] == (rank - 3, rank - 1)


def _is_of_heads(layer: Layer) -> bool:
    """Whether the layer only exchanges the third and second axis from the end."""
    if not isinstance(layer.kind, Transpose) or layer.epilogue is not None:
        return False
    rank = len(layer.kind.permutation)
    wanted = (*range(rank - 3), rank - 2, rank - 3, rank - 1)
    return rank > 2 and layer.kind.permutation == wanted


def _toggled(kind: Attention, flag: str) -> Attention:
    return dataclasses.replace(kind, **{flag: not getattr(kind, flag)})
