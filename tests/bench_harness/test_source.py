from pathlib import Path

import pytest
import torch
from fakes import linear, not_a_pair, spec
from torch import nn

from torch2rt.bench.errors import BenchModelError
from torch2rt.bench.source import ModelSource, import_object, save_model, split_inputs


def test_inputs_are_positional_or_keyword() -> None:
    x = torch.ones(1)
    assert split_inputs(x) == ((x,), {})
    assert split_inputs([x, 3]) == ((x, 3), {})
    assert split_inputs({"a": x}) == ((), {"a": x})


def test_a_factory_gives_the_same_weights_every_time() -> None:
    one, two = (ModelSource("factory", spec(linear), 7).load() for _ in range(2))
    assert torch.equal(one.model.weight, two.model.weight)  # type: ignore[arg-type]
    assert not one.model.training
    assert one.batch == 2


def test_a_saved_module_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    source = save_model(model, {"input": torch.ones(5, 3)}, tmp_path / "model.pt", 0)
    loaded = source.load()
    assert torch.equal(loaded.model.weight, model.weight)  # type: ignore[arg-type]
    assert loaded.batch == 5
    assert model.training  # the caller's own stays as it was


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("no_colon", "no ':name'"),
        ("no.such.module:f", "No module named 'no'"),
        ("/no/such/file.py:f", "no Python file /no/such/file.py"),
        ("math:no_such_name", "math has no 'no_such_name'"),
        (":f", "no ':name'"),
    ],
)
def test_a_factory_that_is_not_there_is_named(where: str, reason: str) -> None:
    with pytest.raises(BenchModelError, match=reason) as caught:
        import_object(where)
    assert "returns (model, example inputs)" in str(caught.value)


def test_a_factory_that_returns_something_else_is_refused() -> None:
    with pytest.raises(BenchModelError, match=r"returned Linear, not \(nn.Module, inputs\)"):
        ModelSource("factory", spec(not_a_pair)).load()


def test_a_name_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(BenchModelError, match="not callable"):
        ModelSource("factory", "math:pi").load()


def test_a_class_of_the_running_script_is_refused(tmp_path: Path) -> None:
    Local = type("Local", (nn.Module,), {"__module__": "__main__"})
    with pytest.raises(BenchModelError, match="stands in the script being run"):
        save_model(Local(), None, tmp_path / "model.pt", 0)


def test_a_module_that_cannot_be_pickled_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    model.hook = lambda: None  # type: ignore[assignment]
    with pytest.raises(BenchModelError, match=r"torch\.save refuses it"):
        save_model(model, None, tmp_path / "model.pt", 0)
