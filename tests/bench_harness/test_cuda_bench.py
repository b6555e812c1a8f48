"""The script of the CUDA table, on the CPU, where events are clocks."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
MODELS = """
import torch


class Odd(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


MODELS = {
    "small": lambda batch: (torch.nn.Linear(8, 4), (torch.randn(batch, 8),)),
    "odd": lambda batch: (Odd(), (torch.ones(batch, 8),)),
}
"""


def run(tmp_path, *arguments):
    """Rows of the script's file by batch and contender, and what it printed."""
    models, out = tmp_path / "models.py", tmp_path / "cuda.csv"
    models.write_text(MODELS)
    done = subprocess.run(
        [
            sys.executable, str(BENCH / "cuda_bench.py"), "--device", "cpu", "--precision", "fp32",
            "--models-file", str(models), "--seconds", "0.05", "--rounds", "2", "--threads", "1",
            "--out", str(out), *arguments,
        ],
        capture_output=True, text=True, timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    rows = {(r["model"], r["batch"], r["contender"]): r for r in csv.DictReader(lines)}
    return rows, done.stdout


def test_rows_are_checked_timed_and_written_one_by_one(tmp_path):
    rows, text = run(
        tmp_path, "--models", "small,odd", "--batches", "1", "--contenders",
        "torch2rt,eager,graph,eager@bf16", "--reports", str(tmp_path / "reports"),
    )
    assert len(rows) == 8
    # In a precision of its own, by that one's tolerance, in the rounds of the others.
    assert rows["small", "1", "eager@bf16"]["status"] == "ok"
    assert 1e-3 < float(rows["small", "1", "eager@bf16"]["error"]) < 1e-1
    for key in (("small", "1", "torch2rt"), ("small", "1", "eager"), ("odd", "1", "eager")):
        assert rows[key]["status"] == "ok"
        assert float(rows[key]["median_ms"]) > 0
        assert float(rows[key]["latency_ms"]) > 0
        assert float(rows[key]["error"]) < 1e-5
    assert rows["small", "1", "graph"]["status"] == "n/a"
    assert rows["odd", "1", "torch2rt"]["status"] == "failed"
    assert "decides by the value of a tensor" in rows["odd", "1", "torch2rt"]["notes"]
    assert "sum of steps" in text
    assert (tmp_path / "reports" / "small_b1_fp32.json").is_file()


@pytest.mark.slow
def test_rows_built_in_parallel(tmp_path):
    rows, text = run(
        tmp_path, "--models", "small,odd", "--batches", "1,2", "--contenders", "torch2rt,eager",
        "--parallel-builds", "--deadline-s", "250", "--timed-s", "10", "--at-once", "3",
    )
    assert len(rows) == 8
    assert rows["small", "2", "torch2rt"]["status"] == "ok"
    assert rows["odd", "2", "torch2rt"]["status"] == "failed"
    assert rows["odd", "2", "eager"]["status"] == "ok"
    assert "0 given up" in text


@pytest.mark.slow
def test_what_is_late_is_told(tmp_path):
    rows, _ = run(
        tmp_path, "--models", "small", "--batches", "1", "--contenders", "torch2rt,eager",
        "--parallel-builds", "--deadline-s", "3", "--timed-s", "2", "--at-once", "2",
    )
    assert {row["status"] for row in rows.values()} == {"timeout"}
