"""The addresses that tiles read: of the output, of the epilogue's operands, and of constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torch2rt.backends.buffer import Buffer, address_of
from torch2rt.backends.cpu.jit.parallel import follow
from torch2rt.network.dtype import Array


def bound_table(
    operands: Sequence[Array | None], behind: Sequence[Array], inputs: Sequence[Buffer],
    outputs: Sequence[Buffer],
) -> Array:
    """The table of a step.

    ``operands`` stand for the last inputs, None for those that have a buffer; ``behind`` are the
    arrays that follow.
    """
    table: Array = np.zeros(1 + len(operands) + len(behind), np.int64)
    follow(outputs[0], table, 0)
    further = inputs[len(inputs) - len(operands) :]
    for position, (buffer, operand) in enumerate(zip(further, operands, strict=True), 1):
        if operand is None:
            follow(buffer, table, position)
        else:
            table[position] = address_of(operand)
    for position, array in enumerate(behind, 1 + len(operands)):
        table[position] = address_of(array)
    return table
