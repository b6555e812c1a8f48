import json
from dataclasses import replace
from pathlib import Path

import pytest

from torch2rt.bench import BenchResult, BenchRow, MachineCard, read_rows, write_result

CARD = MachineCard({"cpu": "one, two", "cores": "2"})
ROW = BenchRow("net", 1, "fp32", "eager", is_peer=True, median_ms=1.25, notes='a "note", quoted')


def result(*rows: BenchRow) -> BenchResult:
    return BenchResult(rows, CARD, {(r.precision, r.contender): (1.0, 1.5) for r in rows})


def test_the_machine_card_stands_on_top(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.csv"
    write_result(result(ROW), path)
    assert path.read_text().splitlines()[:2] == ["# cpu: one, two", "# cores: 2"]


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_result(result(ROW), path)
    (row,) = read_rows(path)
    assert (row["model"], row["median_ms"], row["notes"]) == ("net", "1.25", 'a "note", quoted')
    assert row["error"] == ""


def test_json_holds_every_round(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_result(result(ROW), path)
    document = json.loads(path.with_suffix(".json").read_text())
    assert document["machine"]["cpu"] == "one, two"
    assert document["entries"][0]["rounds_ms"] == [1.0, 1.5]


def test_measuring_again_replaces_the_group_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    other = replace(ROW, precision="bf16")
    gone = replace(ROW, contender="openvino")
    write_result(result(ROW, gone, other), path)
    write_result(result(replace(ROW, median_ms=9.0)), path)
    rows = [(row["precision"], row["contender"], row["median_ms"]) for row in read_rows(path)]
    assert rows == [("bf16", "eager", "1.25"), ("fp32", "eager", "9")]


def test_only_csv_files_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        write_result(result(ROW), tmp_path / "r.txt")


@pytest.mark.parametrize("text", ["", "[]", '{"entries": [{"row": {"a": 1}}]}', "{}"])
def test_a_foreign_json_is_not_overwritten(tmp_path: Path, text: str) -> None:
    foreign = tmp_path / "r.json"
    foreign.write_text(text)
    with pytest.raises(ValueError, match="no result of this benchmark"):
        write_result(result(ROW), tmp_path / "r.csv")
    assert foreign.read_text() == text
    assert not list(tmp_path.glob("*.partial"))
