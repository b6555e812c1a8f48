"""Results that hang on choices are judged with the engine's own choices."""

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.capture.export import capture
from torch2rt.errors import VerificationError
from torch2rt.inspect import verify
from torch2rt.inspect.choices import chooses, hanging_outputs
from torch2rt.inspect.verify import verify_engine
from torch2rt.lower import lower


class Nearest(nn.Module):
    """Which row is nearest, and what stands there: one bit of bfloat16 decides."""

    def __init__(self, add: float = 0.0):
        super().__init__()
        self.rows = nn.Parameter(1 + torch.rand(512, 16) / 512)
        self.table = nn.Parameter(torch.randn(512, 3))
        self.add = add

    def forward(self, x):
        near = (x @ self.rows.T).softmax(1)
        index = near.argmax(1)
        return index, self.table[index] + self.add, near


def converted(model, x, **options):
    return torch2rt.convert(model, x, precision="bf16", tune_budget_s=0, progress=False, **options)


@pytest.fixture
def case():
    model, x = Nearest().eval(), torch.rand(8, 16) + 0.5
    return model, x, converted(model, x)


def captured(model, x):
    return lower(capture(model, (x,), {})).network


def test_choices_between_equals_are_accepted(case):
    model, x, rt = case
    assert not torch.equal(rt(x)[0], model(x)[0]), "a test of nothing"
    errors = rt.engine.report["verified"]
    assert errors[rt.engine.bindings.outputs[0].name] == 0.0
    assert max(errors.values()) < 6e-2


def test_what_is_made_of_a_choice_must_be_the_models(case):
    model, x, rt = case
    other = Nearest(add=0.5).eval()
    other.load_state_dict(model.state_dict())
    expected = [item.detach() for item in other(x)]
    with pytest.raises(VerificationError, match=r"output 'output.1' has relative error"):
        verify_engine(rt.engine, captured(other, x), [x], expected, "x")


def test_what_is_chosen_from_must_be_the_models(case):
    _, x, rt = case
    other = Nearest().eval()
    expected = [item.detach() for item in other(x)]
    with pytest.raises(VerificationError, match="has relative error"):
        verify_engine(rt.engine, captured(other, x), [x], expected, "x")


def test_a_wrong_choice_is_refused(case, monkeypatch):
    model, x, rt = case
    found = verify.first_off(rt.engine, [x])
    wrong = type(found)("argmax", "argreduce", "argreduce.numpy.wrong", "here", 1.0, 0.0)
    monkeypatch.setattr(verify, "first_off", lambda *_: wrong)
    with pytest.raises(VerificationError):
        verify_engine(rt.engine, captured(model, x), [x], [i.detach() for i in model(x)], "x")


def test_what_hangs_on_choices():
    network = captured(Nearest(), torch.rand(2, 16))
    assert [layer.kind.name for layer in network.layers if chooses(layer)] == ["argreduce"]
    assert len(hanging_outputs(network)) == 2
