"""Calibration tables: edits, merging, what they fit, and files that are damaged in any way."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.observers import counted_here
from torch2rt.quantize.table import CalibrationTable, Row
from torch2rt.quantize.table_json import table_text


def row(values, method: str = "minmax", samples: int = 4) -> Row:
    return Row.chosen(method, counted_here(torch.as_tensor(values, dtype=torch.float32)), samples)


def table(seed: int = 0, method: str = "mse", fingerprint: str = "f") -> CalibrationTable:
    random = np.random.default_rng(seed)
    rows = {
        name: row(random.laplace(size=2000) * (seed + 1), method)
        for name in ("layer1.0.conv", "x", "fc")
    }
    rows["dead"] = row(np.zeros(10), method)
    return CalibrationTable(fingerprint, method, 4, rows)


def whole(one: CalibrationTable) -> dict[str, tuple]:
    """Rows with their histograms, which comparing rows leaves out."""
    return {
        name: (r, r.seen and (r.seen.minimum, r.seen.maximum, r.seen.negatives,
                              r.seen.histogram.exponent, r.seen.histogram.counts.tolist()))
        for name, r in one.rows.items()
    }


def test_ranges_are_thresholds_and_signs():
    rows = {"relu": row([0.0, 2.0]), "signed": row([-3.0, 2.0]), "dead": row([0.0])}
    made = CalibrationTable("f", "minmax", 4, rows)
    assert (made.range("relu").threshold, made.range("relu").is_nonnegative) == (2.0, True)
    assert (made.range("signed").threshold, made.range("signed").is_nonnegative) == (3.0, False)
    assert made.range("dead").threshold == 1.0
    assert made.range("other") is None
    assert "relu" in made
    assert len(made) == 3
    assert [r.note for r in made.rows.values()] == ["", "", "always zero"]
    assert row([5.0, 5.0]).note == "constant"
    assert row([-1.0, 1.0, 1.0, 1.0]).negatives == 0.25


def test_a_saved_table_reads_back_the_same(tmp_path):
    made = table()
    made.save(tmp_path / "table.json")
    loaded = CalibrationTable.load(tmp_path / "table.json")
    assert loaded == made
    assert whole(loaded) == whole(dataclasses.replace(made, rows=dict(sorted(made.rows.items()))))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "table.json").read_bytes()
    assert CalibrationTable.from_json(made.to_json()) == made
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again.json", "table.json"]


def test_the_file_has_one_sorted_line_for_each_tensor():
    lines = table_text(table()).splitlines()
    start = lines.index(' "tensors": {')
    names = [json.loads(line.split(":")[0]) for line in lines[start + 1 : start + 5]]
    assert names == ["dead", "fc", "layer1.0.conv", "x"]
    assert '"threshold": 1.0, "min": 0.0, "max": 0.0' in lines[start + 1]
    assert '"note": "always zero"' in lines[start + 1]
    changed = table_text(table().with_threshold("fc", 3.5)).splitlines()
    assert sum(a != b for a, b in zip(lines, changed, strict=True)) == 1


def test_a_threshold_edited_in_the_file_counts(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    path.write_text(path.read_text().replace('"x": {"threshold": ', '"x": {"threshold": 7'))
    loaded = CalibrationTable.load(path)
    assert loaded.rows["x"].is_edited
    assert not loaded.rows["fc"].is_edited
    assert loaded.range("x").threshold > 70
    assert loaded.with_method("minmax").range("x") == loaded.range("x")
    assert loaded.with_method("minmax").range("fc").threshold == loaded.rows["fc"].seen.largest
    merged = loaded.merge(table(1))
    assert merged.range("x") == loaded.range("x")
    assert table(1).merge(loaded).range("x") == loaded.range("x")


def test_a_threshold_is_set_by_name_and_must_be_positive():
    made = table().with_threshold("x", 2)
    assert made.range("x").threshold == 2.0
    with pytest.raises(CalibrationError, match=r"it has no tensor 'layer1\.conv'\. Near names: "
                       r"'layer1\.0\.conv'"):
        made.with_threshold("layer1.conv", 2.0)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(CalibrationError, match=r"threshold .* of 'x' is not positive"):
            made.with_threshold("x", bad)


def test_tables_merge_as_if_all_was_seen_at_once():
    left, right = np.random.default_rng(0).laplace(size=(2, 40_000))
    for method in ("entropy", "mse", "minmax"):
        parts = [CalibrationTable("f", method, 3, {"x": row(v, method, 3)}) for v in (left, right)]
        merged = parts[0].merge(parts[1])
        at_once = row(np.concatenate([left, right]), method, 6)
        assert merged.samples == 6
        assert merged.rows["x"] == at_once
        assert whole(parts[1].merge(parts[0])) == whole(merged)


def test_tables_that_saw_other_tensors_merge_to_all():
    made = table()
    some = dataclasses.replace(made, rows={"x": made.rows["x"]})
    assert set(some.merge(made).rows) == set(made.rows)


def test_tables_of_other_models_or_without_histograms_do_not_merge():
    with pytest.raises(CalibrationError, match=r"cannot merge with a table of another model \(the "
                       r"names are the same"):
        table().merge(table(fingerprint="g"))
    with pytest.raises(CalibrationError, match=r"no histogram of tensor 'layer1\.0\.conv'"):
        table().merge(table().without_histograms())
    assert table().without_histograms() == table()


def test_a_table_of_another_model_is_refused_with_the_names_that_differ():
    made = table()
    made.check_fits("f", [*made.rows, "more"])
    with pytest.raises(CalibrationError, match=r"calibration, t\.json: it is of another model "
                       r"\(the names are the same, the weights or the layers differ\)\. Calibrate"):
        made.check_fits("g", made.rows, "t.json")
    names = [f"block.{i}" for i in range(9)]
    with pytest.raises(
        CalibrationError, match=r"tensors only it has: 'dead', 'fc', 'layer1\.0\.conv'; tensors it "
        r"lacks: 'block\.0', 'block\.1', 'block\.2', 'block\.3', 'block\.4' and 4 more",
    ):
        made.check_fits("g", ["x", *names])
    with pytest.raises(CalibrationError, match=r"tensors only it has: 'fc'"):
        made.check_fits("f", [name for name in made.rows if name != "fc"])


def test_a_table_that_cannot_be_written_or_read_says_why(tmp_path):
    with pytest.raises(CalibrationError, match=r"it cannot be written .*folder does not exist"):
        table().save(tmp_path / "none" / "table.json")
    with pytest.raises(CalibrationError, match=r"none\.json: it cannot be read"):
        CalibrationTable.load(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="it cannot be read"):
        CalibrationTable.load(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CalibrationError, match="it is not UTF-8"):
        CalibrationTable.load(tmp_path / "bytes.json")


def damaged(change) -> dict:
    data = table().to_json()
    change(data)
    return data


DAMAGE = [
    (lambda d: d.update(format="json"), "it is no calibration table"),
    (lambda d: d.update(version=2), "its version is 2, this torch2rt reads 1"),
    (lambda d: d.pop("method"), r"fields missing: \['method'\]"),
    (lambda d: d.update(more=1), r"unknown: \['more'\]"),
    (lambda d: d.update(method="best"), "there is no method 'best'"),
    (lambda d: d.update(samples=-1), "samples is -1, not a count"),
    (lambda d: d.update(samples=True), "samples is True, not a count"),
    (lambda d: d.update(tensors=[]), "no object"),
    (lambda d: d["tensors"].update(x=3), "tensor 'x': it must have threshold"),
    (lambda d: d["tensors"]["x"].update(threshold=0.0), r"tensor 'x': threshold 0\.0 is not pos"),
    (lambda d: d["tensors"]["x"].update(threshold=math.nan), "threshold is nan, not a number"),
    (lambda d: d["tensors"]["x"].update(threshold=10**400), "threshold is 1000.*, not a number"),
    (lambda d: d["tensors"]["x"].update(threshold="3"), "threshold is '3', not a number"),
    (lambda d: d["tensors"]["x"].update(min=9.0, max=1.0), "make no sense"),
    (lambda d: d["tensors"]["x"].update(negatives=2.0), "make no sense"),
    (lambda d: d["tensors"]["x"].update(note="!"), "its note is '!'"),
    (lambda d: d["histograms"]["x"].update(counts="%"), "its histogram is damaged"),
    (lambda d: d["histograms"]["x"].update(counts="AAAA"), "its histogram is damaged"),
    (lambda d: d["histograms"]["x"].update(exponent=999), "range of its histogram makes no sense"),
    (lambda d: d["histograms"]["x"].update(exponent=90), "does not fit its range"),
    (lambda d: d["histograms"]["x"].update(counts=d["histograms"]["dead"]["counts"]),
     "does not fit its range"),
    (lambda d: d["histograms"]["x"].pop("min"), "its histogram must have min"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_damage_is_named(change, message):
    with pytest.raises(CalibrationError, match=message):
        CalibrationTable.from_json(damaged(change))


TEXT = table_text(table())
SHORT = table_text(table().without_histograms())


@settings(max_examples=150)
@given(st.data())
def test_any_damaged_file_is_a_table_or_a_calibration_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    text = data.draw(st.sampled_from([SHORT, TEXT])).encode()
    start = data.draw(st.integers(0, min(len(text), 1500)))
    length = data.draw(st.integers(0, 40))
    middle = data.draw(st.binary(max_size=20) | st.sampled_from(
        [b"null", b"{}", b"[", b"1e999", b"-0.0", b"NaN", b'"x"', b"true", b"\\ud800", b"9" * 500]
    ))
    path.write_bytes(text[:start] + middle + text[start + length :])
    try:
        loaded = CalibrationTable.load(path)
    except CalibrationError:
        return
    assert all(math.isfinite(r.threshold) and r.threshold > 0 for r in loaded.rows.values())
    loaded.with_method("entropy").merge(loaded.with_method("minmax")) if all(
        r.seen for r in loaded.rows.values()
    ) else loaded.to_json()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.sampled_from(["fingerprint", "method", "samples", "tensors", "histograms", "tensors.x",
                        "histograms.x", "tensors.x.min", "histograms.x.exponent",
                        "histograms.x.counts", "histograms.x.negatives"]), json_values)
def test_any_value_in_any_place_is_a_table_or_a_calibration_error(place, value):
    data = json.loads(TEXT)
    *path, last = place.split(".")
    inner = data
    for key in path:
        inner = inner[key]
    inner[last] = value
    try:
        loaded = CalibrationTable.from_json(data)
    except CalibrationError:
        return
    json.dumps(loaded.to_json())
