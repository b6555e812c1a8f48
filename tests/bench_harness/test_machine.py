import re
from importlib import metadata

import pytest

import torch2rt
from torch2rt.bench import machine_card
from torch2rt.bench.machine import busy_seconds, library_version, usable_cores


def test_the_card_names_machine_and_libraries() -> None:
    facts = machine_card().facts
    for key in ("cpu", "cores", "flags", "memory", "load", "os", "python", "torch", "openvino"):
        assert facts[key]
    assert re.fullmatch(r"\d+\.\d+\.\d+ \w+", facts["python"])


def test_the_card_prints_one_fact_a_line() -> None:
    card = machine_card()
    assert len(card.lines()) == len(card.facts)
    assert not any("\n" in line for line in card.lines())


def test_an_absent_library_is_said_to_be_absent() -> None:
    assert library_version("no-such-distribution") == "not installed"
    assert library_version("numpy")[0].isdigit()


def test_busy_time_grows_with_work() -> None:
    before = busy_seconds()
    assert before is not None
    total = 0
    while (now := busy_seconds()) is not None and now <= before and total < 10**7:
        total += 1
    assert now is not None
    assert now > before
    assert usable_cores() >= 1


def test_this_package_has_a_version_where_it_runs_from_its_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(distribution: str) -> str:
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(metadata, "version", missing)
    assert library_version("torch2rt") == f"{torch2rt.__version__}, not installed"
    assert library_version("torch") == "not installed"
