"""Builds cuDNN's graph of a description, with the plans that its heuristics propose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import methodcaller
from typing import Any

from torch2rt.backends.cuda.cudnn.binding import cudnn, failures, idle_handle
from torch2rt.backends.cuda.cudnn.description import (
    Attribute,
    GraphDescription,
    Literal,
    Node,
    Operand,
    Value,
)
from torch2rt.backends.tactic import Unprepared
from torch2rt.network.dtype import DType

_CONVOLUTION_ATTRIBUTES = ("pre_padding", "post_padding", "stride", "dilation")


@lru_cache(maxsize=4)
def planned_graph(description: GraphDescription, device: int | str) -> Any:
    """The graph with its plans proposed, none built. Unprepared when cuDNN proposes none.

    ``device`` is the index of the current GPU, or a GPU's properties as cuDNN writes them: no GPU
    is needed to build for those.
    """
    module = cudnn()
    try:
        graph = _graph(description, device)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([module.heur_mode.A])
        if description.is_full_float32:
            graph.deselect_numeric_notes(_inexact_notes())
    except failures() as error:
        raise Unprepared(f"cuDNN has no plan: {_first_line(error)}") from error
    return graph


def build_plan(graph: Any, choice: int, *, may_be_barred: bool) -> int:
    """Build the ``choice``-th plan that is not barred; its index. Unprepared if there are fewer."""
    ours = [index for index, plan in enumerate(graph.plans) if plan.cpp_index is not None]
    if not may_be_barred:
        ours = ours[choice : choice + 1]
    left = choice if may_be_barred else 0
    reason = f"cuDNN proposes fewer than {choice + 1} plans"
    for index in ours:
        try:
            graph.build_plan_at_index(index)
        except failures() as error:
            reason = f"cuDNN does not build the plan: {_first_line(error)}"
            continue
        if left == 0:
            return index
        left -= 1
    raise Unprepared(reason)


def _inexact_notes() -> list[Any]:
    """Of plans whose float32 results are not those of float32 multiplications."""
    notes = cudnn().numerical_note
    return [
        notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS, notes.REDUCED_PRECISION_REDUCTION,
        notes.FFT, notes.WINOGRAD_TILE_6x6, notes.WINOGRAD_TILE_13x13,
    ]


def _first_line(error: Exception) -> str:
    """Cudnn's texts go on for pages: one line per engine it tried."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _target(device: int | str) -> dict[str, Any]:
    if isinstance(device, int):
        return {"handle": idle_handle(device)}
    return {"device_property": cudnn().create_device_properties(device)}


def _graph(description: GraphDescription, device: int | str | None) -> Any:
    types = cudnn().data_type
    graph = cudnn().pygraph(
        io_data_type=data_type(description.output.dtype), intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT, **({} if device is None else _target(device)),
    )
    values = [
        _tensor(graph, operand, uid) for uid, operand in enumerate(description.operands, start=1)
    ]
    for node in description.nodes:
        values.append(_added(graph, node, [_input(graph, values, v) for v in node.inputs]))
    output = description.output
    result = values[-1].set_output(True).set_uid(description.output_uid)
    result.set_data_type(data_type(output.dtype))
    result.set_dim(list(output.dims)).set_stride(list(output.strides))
    return graph


def data_type(dtype: DType) -> Any:
    """CuDNN's name of a dtype that it reads or stores."""
    types = cudnn().data_type
    return {
        DType.FLOAT16: types.HALF, DType.BFLOAT16: types.BFLOAT16, DType.FLOAT32: types.FLOAT,
        DType.INT8: types.INT8,
    }[dtype]


def _tensor(graph: Any, operand: Operand, uid: int) -> Any:
    return graph.tensor(
        dim=list(operand.dims), stride=list(operand.strides), data_type=data_type(operand.dtype),
        uid=uid,
    )


def _input(graph: Any, values: Sequence[Any], value: Value) -> Any:
    if isinstance(value, Literal):
        # Constants that are compiled in need cuDNN 9.22.
        return graph.tensor_scalar(value.value, cudnn().scalar_type.RUNTIME_PARAM)
    return values[value]


def _added(graph: Any, node: Node, inputs: Sequence[Any]) -> Any:
    attributes = dict(node.attributes)
    add = _MAIN.get(node.op)
    if add is not None:
        return add(graph, inputs, attributes)
    return methodcaller(node.op, *inputs, **attributes)(graph)


def _convolution(graph: Any, inputs: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
    image, weight = inputs
    named: dict[str, Any] = dict(_lists(attributes))
    if attributes.get("is_integer"):
        # Of bytes: summed exactly, handed on as float32.
        named["compute_data_type"] = cudnn().data_type.INT32
    return graph.conv_fprop(image=image, weight=weight, **named)


def _deconvolution(graph: Any, inputs: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
    """The gradient of a convolution to its image; sizes are not determined by the inputs."""
    loss, weight = inputs
    sizes = attributes.pop("sizes")
    result = graph.conv_dgrad(loss=loss, filter=weight, **_lists(attributes))
    return result.set_dim(list(_integers(sizes)))


def _lists(attributes: dict[str, Attribute]) -> dict[str, list[int]]:
    return {name: list(_integers(attributes[name])) for name in _CONVOLUTION_ATTRIBUTES}


def _integers(value: Attribute) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise TypeError(f"{value!r} where a list of integers belongs")
    return value


def _attention(graph: Any, inputs: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
    q, k, v = inputs
    causal: dict[str, Any] = {}
    if attributes["is_causal"]:
        causal = {
            "diagonal_alignment": cudnn().diagonal_alignment.TOP_LEFT,
            "diagonal_band_right_bound": 0,
        }
    output, _ = graph.sdpa(
        q=q, k=k, v=v, attn_scale=attributes["scale"], generate_stats=False, **causal
    )
    return output


_MAIN: dict[str, Callable[[Any, Sequence[Any], dict[str, Attribute]], Any]] = {
    "conv_fprop": _convolution, "conv_dgrad": _deconvolution, "sdpa": _attention,
}
