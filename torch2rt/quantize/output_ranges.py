"""The method "outputs": the ranges that the outputs suffer least from.

Percentiles are tried for each tensor, and the errors of rounding and clipping that each would
make are weighed by the gradients of the outputs (`torch2rt.quantize.gradients`). What counts of a
tensor differs: outliers of one are all that matters of it, those of another nothing depends on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from torch2rt.fusions.dequantize_after_move import moves_values
from torch2rt.network.network import Network
from torch2rt.quantize.gradients import Sensed, sense
from torch2rt.quantize.insert import Group, Overrides, groups_to_quantize
from torch2rt.quantize.table import CalibrationTable, Row

CANDIDATES = ("minmax", "mse", *(
    f"percentile:{share:g}" for share in (99.999, 99.99, 99.95, 99.9, 99.7, 99.5, 99.0)
))

# Rows of the tensors of a group, by the threshold that they have together.
_Choices = Mapping[float, Mapping[str, Row]]


def ranges_by_outputs(
    network: Network, table: CalibrationTable, inputs: Mapping[str, torch.Tensor], *,
    target: str, overrides: Overrides | None = None, device: torch.device | None = None,
) -> CalibrationTable:
    """The table with the best candidate for each tensor that is to be quantized.

    ``inputs`` are samples of calibration data. Thresholds that a user edited stay.
    """
    tried = [
        (group, choice)
        for group in groups_to_quantize(network, table, target=target, overrides=overrides)
        if len(choice := _choices(group, table)) > 1
    ]
    if not tried:
        return table
    groups, choices = [group for group, _ in tried], [choice for _, choice in tried]
    noise = [dict.fromkeys(choice, 0.0) for choice in choices]
    for sensed in sense(network, inputs, stored_names(groups), device=device):
        for group, lost in zip(groups, noise, strict=True):
            for threshold in lost:
                lost[threshold] += sensed.noise(rounding_errors(sensed, group, threshold, target))
    rows = dict(table.rows)
    for choice, lost in zip(choices, noise, strict=True):
        if any(lost.values()):
            rows.update(choice[min(lost, key=lambda threshold: lost[threshold])])
    return table.with_rows(rows)


def stored_names(groups: Collection[Group]) -> set[str]:
    """The tensors of groups that are rounded: those that others are moved from."""
    return {
        tensor.name for group in groups for tensor in group.tensors
        if tensor.producer is None or not moves_values(tensor.producer)
    }


def rounding_errors(
    sensed: Sensed, group: Group, threshold: float, target: str
) -> dict[str, torch.Tensor]:
    """What 8 bits of this threshold take from the tensors of a group, by name."""
    _, low, high = group.stored(target)
    step = threshold / high
    return {
        name: (sensed.values[name] / step).round_().clamp_(low, high).mul_(step)
        .sub_(sensed.values[name])
        for name in sorted(stored_names([group]) & set(sensed.values))
    }


def _choices(group: Group, table: CalibrationTable) -> _Choices:
    """The candidates of a group; none where a threshold was edited or no histogram is known."""
    members = {t.name: table.rows[t.name] for t in group.tensors if t.name in table.rows}
    found: dict[float, dict[str, Row]] = {}
    for method in CANDIDATES:
        rows = {
            name: Row.chosen(method, row.seen, row.samples) for name, row in members.items()
            if row.seen is not None and not row.is_edited
        }
        if rows and len(rows) == len(members):
            found.setdefault(max(row.threshold for row in rows.values()), rows)
    return found
