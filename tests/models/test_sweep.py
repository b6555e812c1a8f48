"""Every model of the zoo at full size (`make sweep`); the table is kept in results/."""

import os
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results"
# Recurrent layers aside, a step that runs in torch is a tactic that is missing.
CONVOLUTIONAL = ("segmentation/", "torchvision/", "video/")


@pytest.mark.sweep
def test_every_model_of_the_zoo_converts(tmp_path):
    import zoo
    import zoo_sweep

    workers = max(1, len(os.sched_getaffinity(0)) // 2)
    output = RESULTS / "sweep.csv"
    rows = zoo_sweep.sweep(
        zoo_sweep.largest_first(list(zoo.FULL)), workers, 2, str(tmp_path / "timing.jsonl")
    )
    zoo_sweep.write_table(sorted(rows, key=lambda row: row.model), output, 2)
    assert {row.model: row.status for row in rows if row.status != "ok"} == {}
    for row in rows:
        if row.model.startswith(CONVOLUTIONAL):
            assert row.fallbacks == 0, row
