"""What a benchmark returns: rows, the machine, and a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch2rt.bench.machine import MachineCard
from torch2rt.bench.statistics import median

OK = "ok"
NOT_AVAILABLE = "n/a"
NOT_INSTALLED = "not installed"
WRONG = "wrong result"
FAILED = "failed"
TIMEOUT = "timeout"
# The model itself cannot be had: told to the caller as an error, never as a row.
NO_MODEL = "no model"
STATUSES = (OK, NOT_AVAILABLE, NOT_INSTALLED, WRONG, FAILED, TIMEOUT)


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One contender at one precision.

    Times are milliseconds per call: the median over the rounds and its 10 % and 90 % quantiles.
    ``error`` is relative to eager (Euclidean norms), ``build_s`` includes the first call.
    ``ratio_to_best_peer`` compares with the quickest peer, round by round: below 1 is a win.
    ``latency_ms`` is of calls that are waited for one by one, on a GPU, where the others are
    enqueued one behind the other. ``error_over_eager`` compares errors with eager's.
    What was not measured is None, and ``status`` and ``notes`` say why.
    """

    model: str
    batch: int
    precision: str
    contender: str
    is_peer: bool
    variant: str = ""
    version: str = ""
    status: str = OK
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    rounds: int = 0
    error: float | None = None
    build_s: float | None = None
    ratio_to_best_peer: float | None = None
    notes: str = ""
    measured_at: str = ""
    latency_ms: float | None = None
    error_over_eager: float | None = None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All rows of one run, the machine card, and the median of every single round."""

    rows: tuple[BenchRow, ...]
    machine: MachineCard
    # (precision, contender) -> median of each round, milliseconds, in the order they were run.
    rounds_ms: dict[tuple[str, str], tuple[float, ...]]

    def row(self, contender: str, precision: str = "fp32") -> BenchRow:
        """The row of ``contender`` at ``precision``.

        Raises:
            KeyError: it was not part of the run.
        """
        for row in self.rows:
            if (row.contender, row.precision) == (contender, precision):
                return row
        raise KeyError(f"no row for {contender} at {precision}")

    def table(self) -> str:
        """The rows as aligned text."""
        return table(self.rows)


def with_ratios(
    rows: Sequence[BenchRow], rounds_ms: Mapping[str, Sequence[float]]
) -> list[BenchRow]:
    """The rows, all of one model and precision, with their ratios to the quickest peer.

    A ratio is the median over the rounds of the quotient within each round: a machine that
    slows down or speeds up between two rounds does so for both sides of every quotient.
    ``rounds_ms`` gives the rounds by contender.
    """
    peers = [row for row in rows if row.is_peer and row.median_ms is not None]
    if not peers:
        return list(rows)
    best = rounds_ms[min(peers, key=lambda row: row.median_ms or 0.0).contender]
    return [
        row
        if row.median_ms is None
        else replace(row, ratio_to_best_peer=_paired_ratio(rounds_ms[row.contender], best))
        for row in rows
    ]


def with_error_ratios(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """The rows, all of one model and precision, with their errors over eager's."""
    eager = next((row.error for row in rows if row.contender == "eager"), None)
    if not eager:
        return list(rows)
    return [
        row if row.error is None else replace(row, error_over_eager=row.error / eager)
        for row in rows
    ]


def _paired_ratio(mine: Sequence[float], others: Sequence[float]) -> float:
    return median([a / b for a, b in zip(mine, others, strict=True)])


HEADINGS = ("model", "precision", "contender", "median ms", "p10-p90", "ratio", "error", "build s")


def table(rows: Sequence[BenchRow]) -> str:
    """Rows as aligned text, with the reason in place of a time where there is none."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = []
    for line, notes in zip(cells, ["", *(row.notes for row in rows)], strict=True):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        lines.append(f"{text}  {notes}".rstrip())
    return "\n".join(lines)


def _cells(row: BenchRow) -> tuple[str, ...]:
    head = (f"{row.model} b{row.batch}", row.precision, row.contender)
    if row.median_ms is None:
        return (*head, row.status, "", "", _number(row.error, "{:.1e}"), "")
    return (
        *head,
        f"{row.median_ms:.3f}",
        f"{row.p10_ms:.3f}-{row.p90_ms:.3f}",
        _number(row.ratio_to_best_peer, "{:.3f}"),
        _number(row.error, "{:.1e}"),
        _number(row.build_s, "{:.1f}"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
