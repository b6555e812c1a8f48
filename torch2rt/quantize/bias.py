"""Adds to the bias of a contraction, where its epilogue has one, or gives it one."""

from __future__ import annotations

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.contraction import channel_axis
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network


def add_bias(network: Network, layer: Layer, bias: Array) -> None:
    """Add [output channels] to a contraction's sums: to its bias, where it has one."""
    shape = (-1, *(1,) * (-1 - channel_axis(layer)))
    data = bias.reshape(shape).astype(np.float32)
    position = _bias_position(layer)
    if position is not None:
        before = layer.inputs[position]
        assert before.data is not None
        new = network.add_constant(f"{before.name}.corrected", before.data + data)
        inputs = list(layer.inputs)
        inputs[position] = new
        network.set_inputs(layer, tuple(inputs))
        return
    new = network.add_constant(f"{layer.name}.correction", data)
    shifted = ex.apply("add", ex.Input(0), ex.Input(layer.epilogue_count + 1))
    epilogue = layer.epilogue if layer.epilogue is not None else ex.Input(0)
    network.set_epilogue(
        layer, ex.substitute_inputs(epilogue, {0: shifted}), (*layer.epilogue_inputs, new)
    )


def _bias_position(layer: Layer) -> int | None:
    """Which input is added to the sums before anything else and has one number per channel."""
    if layer.epilogue is None:
        return None
    main = len(layer.main_inputs)
    channels = layer.output.shape[channel_axis(layer)]
    wanted = (channels, *(1,) * (-1 - channel_axis(layer)))
    for part in ex.walk(layer.epilogue):
        match part:
            case ex.Apply(op="add", arguments=(ex.Input(index=0), ex.Input(index=index))) if index:
                tensor = layer.inputs[main + index - 1]
                is_once = sum(one == ex.Input(index) for one in ex.walk(layer.epilogue)) == 1
                if tensor.is_constant and tensor.shape == wanted and is_once:
                    return main + index - 1
    return None
