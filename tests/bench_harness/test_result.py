from dataclasses import replace

import pytest

from torch2rt.bench import BenchResult, BenchRow, MachineCard
from torch2rt.bench.result import with_ratios

OURS = BenchRow("net", 1, "fp32", "torch2rt", is_peer=False, median_ms=1.0, p10_ms=0.9, p90_ms=1.2)
EAGER = replace(OURS, contender="eager", is_peer=True, median_ms=4.0)
QUICK = replace(EAGER, contender="openvino", median_ms=2.0)
MISSING = BenchRow(
    "net", 1, "fp32", "other", is_peer=True, status="not installed", notes="pip install other"
)


def test_ratios_are_over_the_quickest_peer() -> None:
    rounds = {"torch2rt": [1.0], "eager": [4.0], "openvino": [2.0], "other": []}
    rows = with_ratios([OURS, EAGER, QUICK, MISSING], rounds)
    assert [row.ratio_to_best_peer for row in rows] == [0.5, 2.0, 1.0, None]


def test_ratios_do_not_see_a_machine_that_slows_down_between_rounds() -> None:
    # The medians are 1 and 6: their quotient would say a sixth.
    rounds = {"torch2rt": [1.0, 1.0, 1.0, 3.0, 30.0], "openvino": [2.0, 2.0, 6.0, 6.0, 6.0]}
    assert with_ratios([OURS, QUICK], rounds)[0].ratio_to_best_peer == 0.5


def test_our_own_time_is_no_peer() -> None:
    assert with_ratios([OURS], {"torch2rt": [1.0]})[0].ratio_to_best_peer is None


def test_the_table_gives_times_or_reasons() -> None:
    table = BenchResult((OURS, MISSING), MachineCard({}), {}).table().splitlines()
    assert "0.900-1.200" in table[1]
    assert "not installed" in table[2]
    assert table[2].endswith("pip install other")


def test_a_row_is_found_by_name_and_precision() -> None:
    result = BenchResult((OURS, EAGER), MachineCard({}), {})
    assert result.row("eager") is EAGER
    with pytest.raises(KeyError, match="no row for eager at bf16"):
        result.row("eager", "bf16")
