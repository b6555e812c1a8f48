"""A network's use-def chains, order and names, through its own methods."""

import numpy as np
import pytest

from torch2rt import expression as ex
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.sort import Sort
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer, Origin
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.network.verify import verify

F32 = DType.FLOAT32
RELU = Pointwise(ex.parse_expression("relu(i0)"), F32)
ADD = Pointwise(ex.parse_expression("add(i0,i1)"), F32)


def chain() -> tuple[Network, Tensor, list[Layer]]:
    network = Network()
    x = network.add_input("x", TensorType((2, 3), F32))
    first = network.add(RELU, [x], name="first")
    second = network.add(ADD, [first.output, x], name="second")
    network.add_output("y", second.output)
    return network, x, [first, second]


def test_users_and_producers_follow_every_change() -> None:
    network, x, (first, second) = chain()
    assert list(x.users) == [first, second]
    assert first.output.producer is first
    assert network.only_user(first.output) is second
    network.replace(x, first.output)
    assert list(first.output.users) == [first, second]
    assert not x.users
    network.set_inputs(first, (x,))
    verify(network)
    assert list(x.users) == [first]
    assert second.inputs == (first.output, first.output)
    assert network.only_user(first.output) is second


def test_an_output_counts_as_a_use() -> None:
    network, _, (first, second) = chain()
    assert network.is_used(second.output)
    assert network.only_user(second.output) is None
    network.add_output("z", first.output)
    assert network.only_user(first.output) is None
    network.replace(second.output, first.output)
    assert network.outputs == {"y": first.output, "z": first.output}
    network.remove(second)
    assert not second.is_alive
    verify(network)


def test_what_is_used_cannot_be_removed() -> None:
    network, _, (first, _) = chain()
    with pytest.raises(ValueError, match="first of layer first is still used"):
        network.remove(first)
    constant = network.add_constant("c", np.zeros(3, np.float32))
    layer = network.add(RELU, [constant])
    with pytest.raises(ValueError, match="constant c is still used"):
        network.remove_constant(constant)
    network.remove(layer)
    network.remove_constant(constant)
    assert network.constants == ()


def test_iterating_while_changing_is_safe() -> None:
    network, x, _ = chain()
    seen = []
    for layer in network.layers:
        if not layer.is_alive:
            continue
        seen.append(layer.name)
        if layer.name == "first":
            network.replace(layer.output, x)
            network.remove(layer)
            network.add(RELU, [x], name="new")
    assert seen == ["first", "second"]
    assert [layer.name for layer in network.layers] == ["second", "new"]


def test_names_are_made_unique_and_free_again() -> None:
    network, x, _ = chain()
    second = network.add(RELU, [x], name="first")
    assert second.name == "first:1"
    odd = network.add(RELU, [x], name="a b/c")
    assert (odd.name, odd.output.name) == ("a_b_c", "a_b_c")
    network.remove(second)
    assert network.add(RELU, [x], name="first").name == "first:1"
    by_origin = network.add(RELU, [x], origins=(Origin("features.0", "aten.relu.default"),))
    assert by_origin.name == "features.0"
    network.rename_layer(odd, "first")
    assert odd.name == "first:2"
    network.rename(odd.output, "x")
    assert odd.output.name == "x:1"
    assert network.tensor("x:1") is odd.output
    verify(network)


def test_layers_are_inserted_before_another() -> None:
    network, x, (_, second) = chain()
    layer = network.add(RELU, [x], name="between", before=second)
    assert [item.name for item in network.layers] == ["first", "between", "second"]
    assert network.position(layer) == 1


def test_sort_restores_the_order_and_keeps_what_is_free() -> None:
    network, x, (first, second) = chain()
    third = network.add(RELU, [x], name="third")
    network.set_inputs(first, (third.output,))
    network.sort()
    assert [layer.name for layer in network.layers] == ["third", "first", "second"]
    verify(network)
    network.set_inputs(third, (second.output,))
    with pytest.raises(ValueError, match="has a cycle at"):
        network.sort()


def test_epilogues_split_the_inputs() -> None:
    network, x, (first, _) = chain()
    c = network.add_constant("c", np.zeros(3, np.float32))
    network.set_epilogue(first, ex.parse_expression("add(i0,i1)"), (c,))
    assert (first.main_inputs, first.epilogue_inputs, first.epilogue_count) == ((x,), (c,), 1)
    assert list(c.users) == [first]
    network.set_epilogue(first, None, ())
    assert first.inputs == (x,)
    assert not c.users
    verify(network)


def test_several_outputs() -> None:
    network = Network()
    x = network.add_input("x", TensorType((4,), F32))
    layer = network.add(Sort(0), [x], name="sort")
    assert [tensor.name for tensor in layer.outputs] == ["sort", "sort:out1"]
    with pytest.raises(ValueError, match="too many values"):
        _ = layer.output


def test_constants_need_the_dtype_that_stores_them() -> None:
    network = Network()
    bits = np.zeros(2, np.uint16)
    assert network.add_constant("b", bits, DType.BFLOAT16).dtype is DType.BFLOAT16
    with pytest.raises(ValueError, match="data is float32, bfloat16 is stored as uint16"):
        network.add_constant("c", np.zeros(2, np.float32), DType.BFLOAT16)


def test_an_output_name_is_taken_once() -> None:
    network, x, _ = chain()
    with pytest.raises(ValueError, match="output 'y' exists already"):
        network.add_output("y", x)


def test_where_names_every_origin_once() -> None:
    network, _, (first, _) = chain()
    assert first.where == "first"
    network.set_origins(first, [Origin("a", "op"), Origin("", "aten.add"), Origin("a", "op")])
    assert first.where == "a + aten.add"


def test_inputs_that_do_not_fit_are_refused_and_nothing_is_added() -> None:
    network, x, _ = chain()
    y = network.add_input("z", TensorType((5,), F32))
    count = len(network.layers)
    with pytest.raises(ValueError, match="do not broadcast"):
        network.add(ADD, [x, y])
    assert len(network.layers) == count
    s0 = symbol("s0")
    symbolic = network.add_input("s", TensorType((s0, 3), F32))
    assert network.add(RELU, [symbolic]).output.shape == (s0, 3)
