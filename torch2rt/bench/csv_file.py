"""Results on disk: a CSV with the machine card as comment lines on top, and JSON beside it.

The JSON holds everything (every round's median); the CSV is made from it. Writing to an existing
file replaces the groups (model, batch, precision) that were measured anew and keeps the others:
ratios are always between times of one run.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch2rt.bench.result import BenchResult, BenchRow

COLUMNS = tuple(field.name for field in fields(BenchRow) if field.name != "is_peer")
Group = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row and the medians of its rounds, milliseconds."""

    row: BenchRow
    rounds_ms: tuple[float, ...]


def write_result(result: BenchResult, path: Path) -> None:
    """Write or update ``path`` (.csv) and the .json beside it.

    Raises:
        ValueError: ``path`` does not end in .csv, or the .json there is none of ours.
        OSError: the folder cannot be written.
    """
    if path.suffix != ".csv":
        raise ValueError(f"{path}: benchmark results go into a file that ends in .csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    json_path = path.with_suffix(".json")
    fresh = {_group(row) for row in result.rows}
    entries = [entry for entry in _read_entries(json_path) if _group(entry.row) not in fresh]
    for row in result.rows:
        rounds_ms = result.rounds_ms.get((row.precision, row.contender), ())
        entries.append(Entry(row, tuple(round(ms, 5) for ms in rounds_ms)))
    document = {
        "machine": dict(result.machine.facts),
        "entries": [asdict(entry) for entry in entries],
    }
    _write_atomically(json_path, json.dumps(document, indent=1) + "\n")
    header = "".join(f"# {line}\n" for line in result.machine.lines())
    _write_atomically(path, header + _csv_text([entry.row for entry in entries]))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV written here, without the machine card, as text."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def _group(row: BenchRow) -> Group:
    return row.model, row.batch, row.precision


def _read_entries(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())["entries"]
        return [Entry(BenchRow(**e["row"]), tuple(e["rounds_ms"])) for e in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no result of this benchmark ({error}); move it away or name another file"
        ) from error


def _csv_text(rows: list[BenchRow]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = asdict(row)
        writer.writerow([_cell(values[column]) for column in COLUMNS])
    return buffer.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)
