"""The example of MNIST in miniature: every precision, few digits, no training to speak of."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_mnist_int8.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("mnist_int8", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(example, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("mnist") / "timing.jsonl"
    flow = importlib.import_module("torch2rt.convert")
    patch.setattr(flow, "default_timing_cache", lambda: cache)
    train, test = example.digits(250)
    model = example.trained(train, epochs=2)
    found = example.compare(
        model, train, test, rounds=1, calibration_batches=(2,), tune_budget_s=0.0
    )
    patch.undo()
    return found


def test_every_precision_reads_the_digits_as_the_model_does(rows):
    names = [row.name for row in rows]
    assert names[:2] == ["eager", "fp32"]
    assert names[-1] == "int8, 2 batches"
    eager = rows[0]
    assert (eager.changed, eager.total) == (0, 50)
    for row in rows[1:]:
        assert row.changed <= (0 if row.name == "fp32" else 8), row
        assert abs(row.right - eager.right) <= row.changed, row
        assert row.one_us > 0 < row.batch_us


def test_the_table_shows_every_row(example, rows, capsys):
    example.show(rows)
    text = capsys.readouterr().out
    assert "50 held-out digits" in text
    assert re.search(r"int8, 2 batches +\d+\.\d\d% +-?\d+\.\d\d +\d+", text)


def test_digits_are_the_same_on_every_run_and_in_one_part_only(example):
    train, test = example.digits(100)
    again, _ = example.digits(100)
    assert (len(train), len(test)) == (80, 20)
    assert (again.tensors[0] == train.tensors[0]).all()
    assert test.tensors[0].max() <= 1.0
