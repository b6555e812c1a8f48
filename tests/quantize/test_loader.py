"""Calibration data: what a batch may look like, and the error where it does not fit."""

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch2rt.calls.pytree import CallSpec
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.loader import CalibrationLoader, arguments_seen, first_call, network_inputs

BATCH = symbol("s0")


def one(x):
    return x


def masked(x, mask=None):
    return x


def two(a, b):
    return a + b


def container(batch):
    return batch["image"]


def spread(*tensors):
    return tensors


def network(*shapes, dtypes=None, least=1, most=64) -> Network:
    """A network of inputs alone."""
    made = Network("made")
    for index, shape in enumerate(shapes):
        dtype = dtypes[index] if dtypes else DType.FLOAT32
        made.add_input(f"in{index}", TensorType(shape, dtype))
    made.symbols["s0"] = (least, most)
    return made


def spec_of(function, *args, **kwargs) -> CallSpec:
    return CallSpec.from_call(function, args, kwargs)[0]


IMAGES, LABELS = torch.randn(5, 3), torch.arange(5)
SINGLE = network((BATCH, 3))
PAIR = network((BATCH, 3), (BATCH, 3))


def read(source, spec, made=SINGLE, **options):
    return list(network_inputs(CalibrationLoader(source), spec, made, **options))


FORMS = {
    "a tensor": IMAGES,
    "an array": IMAGES.numpy(),
    "a tuple": (IMAGES,),
    "a pair": (IMAGES, LABELS),
    "a list of two": [IMAGES, LABELS],
    "a pair of arrays": (IMAGES.numpy(), LABELS.numpy()),
    "more than labels": (IMAGES, LABELS, ["name"] * 5),
    "arguments and keywords": ((), {"x": IMAGES}),
    "a dict": {"x": IMAGES},
    "a dict with labels": {"x": IMAGES, "labels": LABELS, "id": "17"},
    "a mapping": UserDict({"x": IMAGES, "labels": LABELS}),
    "a dict and labels": ({"x": IMAGES}, LABELS),
    "a tuple and labels": ((IMAGES,), LABELS),
}


@pytest.mark.parametrize("what", FORMS)
@pytest.mark.parametrize("function", [one, masked])
def test_a_model_of_one_input_finds_it(what, function):
    (found,) = read([FORMS[what]], spec_of(function, IMAGES))
    assert list(found) == ["in0"]
    assert torch.equal(found["in0"], IMAGES)


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, IMAGES + 1), (IMAGES, IMAGES + 1, LABELS), {"b": IMAGES + 1, "a": IMAGES},
        ((IMAGES, IMAGES + 1), LABELS), ((IMAGES,), {"b": IMAGES + 1}),
        ({"a": IMAGES, "b": IMAGES + 1}, LABELS),
    ],
)
def test_a_model_of_two_inputs_finds_both(batch):
    (found,) = read([batch], spec_of(two, IMAGES, IMAGES), PAIR)
    assert torch.equal(found["in0"], IMAGES)
    assert torch.equal(found["in1"], IMAGES + 1)


def test_inputs_in_a_container_are_found():
    spec = spec_of(container, {"image": IMAGES})
    for batch in ({"image": IMAGES}, ({"image": IMAGES}, LABELS)):
        (found,) = read([batch], spec)
        assert torch.equal(found["in0"], IMAGES)


@pytest.mark.parametrize("lone", [IMAGES, IMAGES.numpy(), {"x": IMAGES}])
def test_a_lone_batch_is_one_batch(lone):
    (found,) = read(lone, spec_of(one, IMAGES))
    assert torch.equal(found["in0"], IMAGES)


def test_a_data_loader_with_a_smaller_last_batch():
    loader = DataLoader(TensorDataset(torch.randn(10, 3), torch.arange(10)), batch_size=4)
    found = read(loader, spec_of(one, IMAGES))
    assert [len(batch["in0"]) for batch in found] == [4, 4, 2]
    assert CalibrationLoader(loader).count == 3
    assert len(read(loader, spec_of(one, IMAGES), limit=2)) == 2


def test_a_generator_is_read_once_and_looked_at_first():
    loader = CalibrationLoader(torch.full((2, 3), float(i)) for i in range(3))
    assert loader.count is None
    assert torch.equal(loader.first(), torch.zeros(2, 3))
    assert [float(batch[0, 0]) for batch in loader.batches()] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("batch", "sizes", "limits"),
    [(7, [4, 4], (4, 4)), (3, [4], (4, 4)), (1, [2], (2, 64)), (9, [4, 4, 1], (1, 4))],
)
def test_a_batch_is_split_or_filled_up_to_what_the_network_takes(batch, sizes, limits):
    fixed = limits[0] == limits[1]
    made = network((limits[0] if fixed else BATCH, 3), least=limits[0], most=limits[1])
    given = torch.arange(batch * 3.0).reshape(batch, 3)
    found = read([(given, torch.arange(batch))], spec_of(one, IMAGES), made)
    assert [len(piece["in0"]) for piece in found] == sizes
    rows = torch.cat([piece["in0"] for piece in found])
    assert torch.equal(rows[:batch], given)
    assert all(any(torch.equal(row, one) for one in given) for row in rows)


def test_inputs_without_a_batch_are_not_split():
    made = network((2, 3), (), dtypes=[DType.FLOAT32, DType.FLOAT32])
    found = read([(torch.ones(4, 3), torch.tensor(2.0))], spec_of(two, IMAGES, IMAGES), made)
    assert [piece["in1"].shape for piece in found] == [torch.Size([])] * 2


ERRORS = [
    ([torch.randn(5, 4)], r"calibration, batch 1: input 'in0' has shape \[5, 4\], expected "
     r"float32\[s0,3\]; it is a tensor float32\[5, 4\]\. The model takes \(in0: float32\[s0,3\]\); "
     r"labels may follow"),
    ([torch.randn(3)], r"batch 1: input 'in0' has shape \[3\]"),
    ([IMAGES, (torch.randn(5, 4), LABELS)], r"batch 2: .* a tuple of 2 \(a tensor float32\[5, 4\], "
     r"a tensor int64\[5\]\)"),
    ([IMAGES.double()], r"batch 1: input 'in0' is torch\.float64, expected float32"),
    ([IMAGES.half()], r"input 'in0' is torch\.float16, expected float32"),
    ([LABELS], r"input 'in0' is torch\.int64, expected float32"),
    ([{"y": IMAGES}], r"unexpected argument 'y'; it is a dict of y: a tensor"),
    (["photo.jpg"], r"batch 1: it holds no tensor; it is a value of type str"),
    ([None], r"it is a value of type NoneType"),
    ([()], r"it is a tuple of 0 \(\)"),
    ([("a", "b")], r"positional argument.s. too many; it is a tuple of 2 \(a value of type str"),
]


@pytest.mark.parametrize(("source", "message"), ERRORS)
def test_what_does_not_fit_is_told_with_what_is_expected(source, message):
    with pytest.raises(CalibrationError, match=message):
        read(source, spec_of(one, IMAGES))


def test_sizes_out_of_range_on_other_axes_are_refused():
    made = network((2, BATCH), least=1, most=4)
    with pytest.raises(CalibrationError, match=r"size 9 on axis 1, allowed 1 to 4"):
        read([torch.randn(2, 9)], spec_of(one, IMAGES), made)


def test_batches_of_two_inputs_that_differ_are_refused():
    with pytest.raises(CalibrationError, match=r"input 'in1' has shape \[4, 3\]"):
        read([(torch.ones(5, 3), torch.ones(4, 3))], spec_of(two, IMAGES, IMAGES), PAIR)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], r"calibration, loader: it gave no batch\. Give it data"),
        (iter(()), r"it gave no batch\. A generator can be read only once"),
        (3, r"a value of type int gives no batches\. Pass a DataLoader"),
        ("text", r"a value of type str gives no batches"),
    ],
)
def test_no_data_is_an_error(source, message):
    with pytest.raises(CalibrationError, match=message):
        read(source, spec_of(one, IMAGES))


def test_errors_of_the_loader_itself_come_through():
    def broken():
        yield IMAGES
        raise OSError("no such photo")

    with pytest.raises(OSError, match="no such photo"):
        read(broken(), spec_of(one, IMAGES))


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def language(input_ids, attention_mask=None, labels=None):
    return input_ids


@pytest.mark.parametrize(
    ("function", "batch", "count", "names"),
    [
        (one, IMAGES, 1, []), (one, (IMAGES, LABELS), 1, []), (masked, (IMAGES, LABELS), 1, []),
        (two, (IMAGES, IMAGES, LABELS), 2, []), (two, ((IMAGES, IMAGES), LABELS), 2, []),
        (one, ({"x": IMAGES, "id": "7"}, LABELS), 0, ["x"]), (spread, (IMAGES, IMAGES), 2, []),
        (container, {"image": IMAGES}, 1, []), (two, ((IMAGES,), {"b": IMAGES}), 1, ["b"]),
        (language, {"input_ids": LABELS, "attention_mask": LABELS, "labels": LABELS}, 0,
         ["input_ids", "attention_mask"]),
        (one, (IMAGES.numpy(), LABELS.numpy()), 1, []),
    ],
)
def test_the_first_batch_gives_the_example_inputs(function, batch, count, names):
    args, kwargs = first_call(Model(function), batch)
    assert len(args) == count
    assert list(kwargs) == names
    assert all(isinstance(arg, torch.Tensor | dict) for arg in args)


@pytest.mark.parametrize("batch", ["photo.jpg", 3, ()])
def test_a_first_batch_without_arguments_is_refused(batch):
    with pytest.raises(CalibrationError, match=r"batch 1: it is .*, not arguments of the model"):
        first_call(Model(one), batch)


def test_the_arguments_of_a_sub_module_are_those_it_is_called_with():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    calls = [((IMAGES,), {}), ((IMAGES * 2,), {})]
    seen = list(arguments_seen(model, model[2], calls))
    assert len(seen) == 2
    for ((given,), _), (args, kwargs) in zip(calls, seen, strict=True):
        assert kwargs == {}
        torch.testing.assert_close(args[0], torch.relu(model[0](given)).detach())
    assert not model[2]._forward_pre_hooks


def test_inputs_are_tensors_without_gradient_on_the_device():
    given = IMAGES.clone().requires_grad_()
    (found,) = read([given], spec_of(one, IMAGES), device=torch.device("cpu"))
    assert not found["in0"].requires_grad
    assert isinstance(np.asarray(found["in0"]), np.ndarray)


def test_first_arguments_are_put_where_the_model_is():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2, device="meta")

        def forward(self, x, more):
            return self.linear(x) + more["bias"]

    args, kwargs = first_call(Two(), ([torch.zeros(2, 3), {"bias": torch.zeros(2)}], 0))
    assert args[0].device.type == args[1]["bias"].device.type == "meta"
    assert kwargs == {}
