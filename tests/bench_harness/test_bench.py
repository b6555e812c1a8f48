from pathlib import Path

import pytest
import torch
from fakes import (
    Absent,
    Dying,
    OnlyQuickWorks,
    Raising,
    Right,
    Single,
    Wrong,
    broken,
    linear,
    not_a_pair,
    spec,
)
from torch import nn

from torch2rt.bench import BenchResult, bench, read_rows
from torch2rt.bench.errors import BenchModelError, ReferenceRunError, UnknownContenderError
from torch2rt.errors import ConfigError

ALL = (Right, OnlyQuickWorks, Wrong, Raising, Dying, Absent)


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "r.csv"


@pytest.fixture(scope="module")
def result(csv_path: Path) -> BenchResult:
    """One run with every kind of contender; all tests below read from it."""
    return bench(
        spec(linear),
        vs=[spec(cls) for cls in ALL],
        threads=1,
        rounds=3,
        warmup=1,
        ours=False,
        output_csv=csv_path,
        progress=False,
    )


def test_the_quick_variant_of_a_right_contender_is_timed(result: BenchResult) -> None:
    row = result.row(spec(Right))
    assert row.status == "ok"
    assert row.variant == "quick"
    # Only from below: a sleep takes as long as it pleases on a busy machine.
    assert row.median_ms is not None
    assert row.median_ms >= 1.0
    assert row.p10_ms is not None
    assert row.p90_ms is not None
    assert row.p10_ms <= row.median_ms <= row.p90_ms
    assert row.error == 0.0
    assert row.version == torch.__version__
    assert (row.model, row.batch, row.rounds) == ("linear", 2, 3)
    assert "also slow" in row.notes


def test_a_variant_that_cannot_be_built_is_a_note(result: BenchResult) -> None:
    row = result.row(spec(OnlyQuickWorks))
    assert row.status == "ok"
    assert "slow: failed: NotImplementedError: no slow variant here" in row.notes


def test_the_quickest_peer_has_ratio_one(result: BenchResult) -> None:
    ratios = [row.ratio_to_best_peer for row in result.rows if row.ratio_to_best_peer is not None]
    assert 1.0 in ratios
    assert len(ratios) == 2


@pytest.mark.parametrize(
    ("contender", "status", "reason"),
    [
        (Wrong, "wrong result", "relative error 0.01 exceeds 0.001"),
        (Raising, "failed", "ValueError: cannot do this model"),
        (Dying, "failed", "exit status 7"),
        (Absent, "not installed", "pip install no-such-distribution"),
    ],
)
def test_what_goes_wrong_is_a_row(
    result: BenchResult, contender: type[Single], status: str, reason: str
) -> None:
    row = result.row(spec(contender))
    assert (row.status, row.median_ms, row.rounds) == (status, None, 0)
    assert reason in row.notes


def test_all_rows_are_in_the_file(result: BenchResult, csv_path: Path) -> None:
    assert [row["contender"] for row in read_rows(csv_path)] == [spec(cls) for cls in ALL]
    assert csv_path.with_suffix(".json").exists()
    assert csv_path.read_text().startswith("# cpu: ")


def test_a_module_given_as_it_is() -> None:
    model = nn.Linear(4, 3)
    result = bench(
        model,
        torch.randn(5, 4),
        vs=["eager"],
        threads=1,
        rounds=1,
        warmup=0,
        ours=False,
        progress=False,
        float64_reference=True,
    )
    (row,) = result.rows
    assert (row.model, row.batch, row.status) == ("Linear", 5, "ok")
    assert row.error is not None
    assert 0.0 < row.error < 1e-6
    assert model.training


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (spec(broken), ReferenceRunError, r"RuntimeError: broken on \(1,\)"),
        (spec(not_a_pair), BenchModelError, r"returned Linear, not \(nn.Module, inputs\)"),
    ],
)
def test_a_model_that_cannot_run_is_an_error(
    model: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bench(model, vs=["eager"], threads=1, ours=False, progress=False)


def test_a_factory_takes_no_inputs() -> None:
    with pytest.raises(BenchModelError, match="others were given"):
        bench(spec(linear), torch.ones(1), progress=False)


def test_unknown_contenders_are_refused_before_any_work() -> None:
    with pytest.raises(UnknownContenderError, match="tensorflow"):
        bench(spec(linear), vs=["tensorflow"], progress=False)


@pytest.mark.parametrize(
    ("option", "value"),
    [("precision", ("fp64",)), ("precision", ()), ("threads", 0), ("rounds", 0), ("warmup", -1)],
)
def test_options_are_checked(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        bench(spec(linear), **{option: value})  # type: ignore[arg-type]
