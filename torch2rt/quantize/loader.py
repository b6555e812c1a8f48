"""Calibration data: batches of a loader as inputs of the network, by name.

A loader is any iterable. Of each batch it gives, the inputs are found by the call that the model
was captured with: a tensor; positional arguments; the arguments followed by labels, as data sets
give them; a dict of keyword arguments and more; ``((args...), {kwargs...})``.

    for images, labels in loader        forward(images)             -> {"x": images}
    for batch in loader                 forward(input_ids, mask)    -> batch without "labels"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from torch2rt.calls.pytree import CallSpec
from torch2rt.errors import CallError, PytreeError
from torch2rt.network.dim import Dim, is_symbol, substitute
from torch2rt.network.network import Network
from torch2rt.quantize.errors import CalibrationError
from torch2rt.torch_values import dtype_to_torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Inputs = dict[str, torch.Tensor]


class CalibrationLoader:
    """The batches of any iterable, with a look at the first one; a lone batch is one batch.

    CalibrationError for what cannot be iterated over.
    """

    def __init__(self, source: object) -> None:
        if isinstance(source, torch.Tensor | np.ndarray | Mapping):
            source = [source]
        if isinstance(source, str | bytes) or not isinstance(source, Iterable):
            raise CalibrationError(
                where="loader", reason=f"a value of type {type(source).__name__} gives no batches",
                remedy="Pass a DataLoader, a list of input batches, a CalibrationTable or its "
                "path.",
            )
        self._source: Iterable[object] = source
        self._peeked: list[object] = []
        self._iterator: Iterator[object] | None = None

    @property
    def count(self) -> int | None:
        """How many batches there are, where the iterable knows."""
        try:
            return len(self._source)  # type: ignore[arg-type]
        except TypeError:
            return None

    def first(self) -> object:
        """The first batch, which `batches` gives again. CalibrationError when there is none."""
        if not self._peeked:
            self._iterator = iter(self._source)
            self._peeked = list(islice(self._iterator, 1))
        if not self._peeked:
            is_spent = self._iterator is self._source
            raise CalibrationError(
                where="loader", reason="it gave no batch",
                remedy="A generator can be read only once: make a new one, or pass a list or a "
                "DataLoader." if is_spent else "Give it data.",
            )
        return self._peeked[0]

    def batches(self, limit: int | None = None) -> Iterator[object]:
        """All batches, or the first ``limit``. CalibrationError when there is none."""
        self.first()
        assert self._iterator is not None
        return islice(chain(self._peeked, self._iterator), limit)


def network_inputs(
    loader: CalibrationLoader, spec: CallSpec, network: Network, *,
    device: torch.device | None = None, limit: int | None = None,
) -> Iterator[Inputs]:
    """The batches of a loader as inputs of the network by name, on the device.

    CalibrationError says of a batch that does not fit what it is and what is expected. A batch
    that is too small or too large for the network, where only its other axes fit, is filled up
    with its own samples or split.
    """
    for number, batch in enumerate(loader.batches(limit), start=1):
        tensors = fitting_tensors(batch, spec, network, f"batch {number}")
        for piece in pieces(tensors, network):
            placed = [tensor.detach().to(device or "cpu") for tensor in piece]
            yield dict(zip(network.inputs, placed, strict=True))


def fitting_tensors(
    batch: object, spec: CallSpec, network: Network, where: str
) -> list[torch.Tensor]:
    """The tensors of the first reading of a batch that fits the network's inputs."""
    complaints: list[str] = []
    misfits: list[str] = []
    for args, kwargs in _readings(batch, spec):
        try:
            tensors = spec.flatten(args, kwargs)
        except (CallError, PytreeError) as error:
            complaints.append(str(error.facts["reason"]))
            continue
        complaint = _complaint(tensors, network)
        if complaint is None:
            return tensors
        misfits.append(complaint)
    reason = next(iter((*misfits, *complaints)), "it holds no tensor")
    expected = ", ".join(f"{name}: {tensor.type}" for name, tensor in network.inputs.items())
    raise CalibrationError(
        where=where, reason=f"{reason}; it is {_describe(batch)}",
        remedy=f"The model takes ({expected}); labels may follow.",
    )


def first_call(model: torch.nn.Module, batch: object) -> Arguments:
    """The arguments in a batch for a model that is known by its signature only.

    Of a tuple the model's obligatory parameters take the first items; of a dict, what its
    parameters name, labels left out where they are optional. Tensors are put where the model's
    are. CalibrationError where the batch holds no arguments.
    """
    import inspect

    found = _first_call(batch, inspect.signature(model.forward).parameters)
    held = next((t for t in (*model.parameters(), *model.buffers())), None)
    if held is None:
        return found
    args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(held.device), found)
    return args, kwargs


def arguments_seen(
    model: torch.nn.Module, module: torch.nn.Module, calls: Iterable[Arguments]
) -> Iterator[Arguments]:
    """The arguments of every call of a sub-module while the model runs, call by call."""
    for args, kwargs in calls:
        seen: list[Arguments] = []
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append((args, kwargs)), with_kwargs=True
        )
        try:
            with torch.no_grad():
                model(*args, **kwargs)
        finally:
            handle.remove()
        yield from seen


_LABELS = frozenset({"label", "labels", "target", "targets"})


def _first_call(batch: object, parameters: Mapping[str, Any]) -> Arguments:
    kinds = {name: item.kind.name for name, item in parameters.items()}
    needed = [n for n, p in parameters.items()
              if p.default is p.empty and not kinds[n].startswith("VAR_")]
    batch = _as_tensors(batch)
    match batch:
        case torch.Tensor():
            return (batch,), {}
        case Mapping():
            takes_any = "VAR_KEYWORD" in kinds.values()
            named = {
                key: value for key, value in batch.items()
                if key in needed or ((takes_any or key in kinds) and key not in _LABELS)
            }
            return ((), named) if named else ((batch,), {})
        case (tuple() | list() as args, dict() as kwargs):
            return tuple(args), dict(kwargs)
        case (Mapping() | tuple() | list() as inner, *_) if _is_arguments(inner, needed):
            return _first_call(inner, parameters)
        case tuple() | list() if batch:
            takes_all = "VAR_POSITIONAL" in kinds.values()
            return tuple(batch if takes_all else batch[: max(1, len(needed))]), {}
    raise CalibrationError(
        where="batch 1", reason=f"it is {_describe(batch)}, not arguments of the model",
        remedy="Give tensors, tuples of tensors or dicts of tensors, labels last.",
    )


def _is_arguments(inner: Mapping[str, object] | Sequence[object], needed: list[str]) -> bool:
    """Whether a first item holds all arguments, what follows being labels."""
    if isinstance(inner, Mapping):
        return bool(needed) and set(needed) <= set(inner)
    return len(needed) > 1 and len(inner) == len(needed)


def _readings(batch: object, spec: CallSpec) -> Iterator[Arguments]:
    """What arguments a batch may stand for, the likeliest first."""
    batch = _as_tensors(batch)
    match batch:
        case torch.Tensor():
            yield (batch,), {}
        case Mapping():
            yield (), dict(batch)
            known = {item.name for item in spec.parameters if item.tree is not None}
            named = {key: value for key, value in batch.items() if key in known}
            if named and len(named) < len(batch):
                yield (), named
            yield (batch,), {}
        case tuple() | list():
            if len(batch) == 2 and isinstance(batch[0], tuple | list) and isinstance(
                batch[1], dict
            ):
                yield tuple(batch[0]), batch[1]
            for count in range(len(batch), 0, -1):
                yield tuple(batch[:count]), {}
            yield (batch,), {}
            if batch and isinstance(batch[0], Mapping | tuple | list):
                yield from _readings(batch[0], spec)


def _as_tensors(batch: object) -> Any:
    """Numpy arrays of a batch as tensors, one level deep."""
    match batch:
        case np.ndarray():
            return torch.from_numpy(batch)
        case list():
            return [torch.from_numpy(b) if isinstance(b, np.ndarray) else b for b in batch]
        case tuple() if type(batch) is tuple:
            return tuple(torch.from_numpy(b) if isinstance(b, np.ndarray) else b for b in batch)
        case dict():
            return {
                key: torch.from_numpy(b) if isinstance(b, np.ndarray) else b
                for key, b in batch.items()
            }
    return batch


def _complaint(tensors: Sequence[torch.Tensor], network: Network) -> str | None:
    """Why tensors are no inputs of the network, whatever their batch size; None if they are."""
    symbols: dict[str, int] = {}
    batch = _batch_size(tensors)
    for (name, expected), tensor in zip(network.inputs.items(), tensors, strict=True):
        shape = list(tensor.shape)
        if tensor.dtype is not dtype_to_torch(expected.dtype):
            return f"input {name!r} is {tensor.dtype}, expected {expected.dtype.value}"
        if tensor.dim() != expected.rank:
            return f"input {name!r} has shape {shape}, expected {expected.type}"
        for dim, size in zip(expected.shape, shape, strict=True):
            if is_symbol(dim):
                symbols.setdefault(str(dim), size)
        for axis, (dim, size) in enumerate(zip(expected.shape, shape, strict=True)):
            is_batch = axis == 0 and size == batch and batch > 0
            if not is_batch and substitute(dim, symbols) != size:
                return f"input {name!r} has shape {shape}, expected {expected.type}"
            low, high = _limits(dim, network)
            if not is_batch and not low <= size <= high:
                return f"input {name!r} has size {size} on axis {axis}, allowed {low} to {high}"
    return None


def pieces(
    tensors: list[torch.Tensor], network: Network
) -> Iterator[list[torch.Tensor]]:
    """The tensors, in pieces of a batch size that the network takes."""
    batch = _batch_size(tensors)
    dims = [tensor.shape[0] for tensor in network.inputs.values() if tensor.rank]
    low, high = _limits(dims[0], network) if dims else (0, batch)
    if low <= batch <= high or batch == 0:
        yield tensors
        return
    for start in range(0, batch, high):
        rows = torch.arange(start, min(start + high, batch))
        filled = rows.repeat(-(-low // len(rows)))[: max(low, len(rows))]
        yield [
            tensor[filled.to(tensor.device)] if tensor.dim() and tensor.shape[0] == batch
            else tensor for tensor in tensors
        ]


def _batch_size(tensors: Sequence[torch.Tensor]) -> int:
    """The size of the first axis of the first tensor that has one."""
    return next((int(tensor.shape[0]) for tensor in tensors if tensor.dim()), 0)


def _limits(dim: Dim, network: Network) -> tuple[int, int]:
    if isinstance(dim, int):
        return dim, dim
    return network.symbols.get(str(dim), (0, 1 << 62))


def _describe(batch: object) -> str:
    """What a batch is, shortly."""
    match batch:
        case torch.Tensor():
            return f"a tensor {str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
        case Mapping():
            return f"a dict of {', '.join(f'{k}: {_describe(v)}' for k, v in batch.items())}"
        case tuple() | list():
            items = ", ".join(_describe(item) for item in batch[:4])
            return f"a {type(batch).__name__} of {len(batch)} ({items})"
    return f"a value of type {type(batch).__name__}"
