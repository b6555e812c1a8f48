"""Every invariant is broken once on purpose and must be reported."""

from collections.abc import Callable

import numpy as np
import pytest

from torch2rt import expression as ex
from torch2rt.errors import NetworkError
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.sort import Sort
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.network.verify import RULES, verify

F32 = DType.FLOAT32
RELU = Pointwise(ex.parse_expression("relu(i0)"), F32)


def small() -> Network:
    network = Network()
    x = network.add_input("x", TensorType((2, 3), F32))
    first = network.add(RELU, [x], name="first")
    second = network.add(RELU, [first.output], name="second")
    network.add_output("y", second.output)
    return network


def read_later(network: Network) -> None:
    first, second = network.layers
    network.set_inputs(first, (second.output,))


def read_nothing(network: Network) -> None:
    network.outputs["z"] = Tensor("nowhere", TensorType((1,), F32))


def forget_a_user(network: Network) -> None:
    network.inputs["x"].users.clear()


def invent_a_user(network: Network) -> None:
    network.inputs["x"].users[network.layers[1]] = None


def forget_the_producer(network: Network) -> None:
    network.layers[0].output.producer = None


def keep_a_removed_producer(network: Network) -> None:
    third = network.add(RELU, [network.inputs["x"]], name="third")
    network.remove(third)
    network.inputs["x"].producer = third


def repeat_a_layer_name(network: Network) -> None:
    network.layers[1].name = "first"


def repeat_a_tensor_name(network: Network) -> None:
    network.layers[1].output.name = "first"


def touch_a_stranger(network: Network) -> None:
    stranger = Tensor("stranger", TensorType((2, 3), F32), np.zeros((2, 3), np.float32))
    network.set_inputs(network.layers[0], (stranger,))


def change_a_shape(network: Network) -> None:
    network.set_type(network.layers[0].output, TensorType((3, 2), F32))


def change_a_kind(network: Network) -> None:
    network.set_kind(network.layers[0], Reshape((7,)))


def give_two_results_an_epilogue(network: Network) -> None:
    layer = network.add(Sort(1), [network.inputs["x"]], name="sort")
    network.set_epilogue(layer, ex.parse_expression("relu(i0)"), ())


def exceed_the_result(network: Network) -> None:
    big = network.add_input("big", TensorType((5, 2, 3), F32))
    network.set_epilogue(network.layers[0], ex.parse_expression("add(i0,i1)"), (big,))


VIOLATIONS: list[tuple[Callable[[Network], None], str]] = [
    (read_later, "first reads second before it is written"),
    (read_nothing, "output z is nowhere, which nothing writes"),
    (forget_a_user, "users of x are wrong"),
    (invent_a_user, "users of x are wrong"),
    (forget_the_producer, "first does not know its producer first"),
    (keep_a_removed_producer, "x is written by third, which was removed"),
    (repeat_a_layer_name, "two layers are named first"),
    (repeat_a_tensor_name, "two tensors are named first"),
    (touch_a_stranger, "first touches stranger, which is not in the network"),
    (change_a_shape, r"first infers \[\(2, 3\)\], has \[\(3, 2\)\]"),
    (change_a_kind, "first: .*cannot be reshaped"),
    (give_two_results_an_epilogue, "sort has an epilogue and 2 outputs"),
    (exceed_the_result, "first: epilogue input %big: .* exceeds %first"),
]


def test_a_sound_network_passes() -> None:
    verify(small())


@pytest.mark.parametrize(("violate", "message"), VIOLATIONS)
def test_every_violation_is_caught(violate: Callable[[Network], None], message: str) -> None:
    network = small()
    violate(network)
    with pytest.raises(NetworkError, match=f"invalid network after pass p: .*{message}"):
        verify(network, after="pass p")


def test_every_rule_has_a_violation() -> None:
    broken = set()
    for violate, _ in VIOLATIONS:
        network = small()
        violate(network)
        broken |= {rule for rule in RULES if list(rule(network))}
    assert broken == set(RULES)
