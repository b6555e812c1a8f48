"""Measuring models side by side: `bench` and what it returns."""

from torch2rt.bench.api import PEERS, bench
from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.csv_file import read_rows, write_result
from torch2rt.bench.machine import MachineCard, machine_card
from torch2rt.bench.result import BenchResult, BenchRow

__all__ = [
    "PEERS",
    "BenchResult",
    "BenchRow",
    "BuildRequest",
    "Contender",
    "MachineCard",
    "bench",
    "machine_card",
    "read_rows",
    "write_result",
]
