import argparse
from pathlib import Path

import pytest
from fakes import Single, linear, spec

from torch2rt.bench import PEERS, read_rows
from torch2rt.bench.api import GPU_PEERS, default_peers
from torch2rt.bench.command import add_arguments, main


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    add_arguments(parser)
    return parser.parse_args(words)


def test_defaults() -> None:
    args = parse("a:b")
    assert args.vs is None
    assert default_peers(args.device) == PEERS
    assert default_peers("cuda:1") == GPU_PEERS
    assert args.precision == ("fp32",)
    assert (args.device, args.threads) == ("cpu", 2)


def test_lists_are_split_at_commas() -> None:
    args = parse("a:b", "--vs", "eager, openvino", "--precision", "fp32,bf16")
    assert args.vs == ("eager", "openvino")
    assert args.precision == ("fp32", "bf16")


def test_a_run_prints_a_table_and_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.csv"
    words = ["--vs", spec(Single), "--peers-only", "--rounds", "1", "--warmup", "0", "--quiet"]
    assert main(parse(spec(linear), *words, "--name", "net", "--output", str(path))) == 0
    assert "net b2" in capsys.readouterr().out
    assert [row["model"] for row in read_rows(path)] == ["net"]


def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse("a:b", "--vs", "tensorflow", "--output", str(tmp_path / "out.csv"))
    assert main(args) == 2
    assert capsys.readouterr().err.startswith("torch2rt bench: unknown contender 'tensorflow'")
