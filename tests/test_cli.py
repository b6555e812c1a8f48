"""The command line: what it prints, what it writes, and one clear line when it cannot."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import torch2rt
from torch2rt.cli import main

FACTORY = '''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def make():
    return Net().eval(), torch.ones(2, 3, 8, 8)


def other():
    torch.manual_seed(7)
    return make()


def odd():
    return nn.Sequential(Odd()).eval(), torch.ones(2, 3)


def nothing():
    return 3


def batches():
    torch.manual_seed(3)
    return [(torch.randn(4, 3, 8, 8), torch.zeros(4)) for _ in range(3)]


def score(outputs, batch):
    return float(outputs.shape == (4, 5) and batch[0].shape == (4, 3, 8, 8))


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.i0(x)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the factories, and one engine converted by the command line."""
    path = tmp_path_factory.mktemp("cli")
    (path / "nets.py").write_text(FACTORY)
    status = main([
        "convert", f"{path}/nets.py:make", "-o", f"{path}/net.engine", "--threads", "1",
        "--timing-cache", f"{path}/t.jsonl", "--report", f"{path}/report.json",
    ])
    assert status == 0
    return path


def failing(capsys, arguments):
    """The one line of a command that fails."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("torch2rt: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_convert_writes_the_engine_and_the_report(folder):
    engine = torch2rt.Engine.load(folder / "net.engine")
    assert engine.bindings.inputs[0].name == "x"
    assert json.loads((folder / "report.json").read_text())["precision"] == "fp32"
    assert (folder / "t.jsonl").stat().st_size > 0


def test_convert_prints_the_engine(folder, capsys):
    status = main([
        "convert", f"{folder}/nets.py:make", "-o", f"{folder}/b.engine", "--precision", "bf16",
        "--threads", "1", "--timing-cache", f"{folder}/t.jsonl", "--no-verify",
    ])
    assert status == 0
    text = capsys.readouterr().out
    assert "engine Net on cpu, bf16" in text
    assert "input  x: float32[" in text


def test_run_computes_from_files_and_writes_the_outputs(folder, tmp_path, capsys):
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    status = main([
        "run", f"{folder}/net.engine", "--input", f"x={tmp_path}/x.npy",
        "--output", f"{tmp_path}/out.npz",
    ])
    assert status == 0
    assert "output: float32[2, 5] [" in capsys.readouterr().out
    got = np.load(tmp_path / "out.npz")["output"]
    want = torch2rt.load(folder / "net.engine")(torch.from_numpy(x))
    np.testing.assert_array_equal(got, want.numpy())


def test_run_without_inputs_uses_random_ones_of_the_tuned_shape(folder, capsys):
    assert main(["run", f"{folder}/net.engine"]) == 0
    assert "output: float32[2, 5]" in capsys.readouterr().out


def test_inspect_describes_reports_profiles_and_prints_the_network(folder, capsys):
    assert main(["inspect", f"{folder}/net.engine"]) == 0
    short = capsys.readouterr().out
    assert "engine Net on cpu, fp32" in short
    assert main(["inspect", f"{folder}/net.engine", "--report", "--profile", "--network"]) == 0
    text = capsys.readouterr().out
    assert "what each layer was made from:" in text
    assert "conv (convolution) = conv:conv2d.default" in text
    assert "sum of steps " in text
    assert "convolution" in text.split("conv:conv2d.default")[1]
    assert len(text) > len(short)


def test_verify_agrees_with_its_model_and_not_with_another(folder, capsys):
    assert main(["verify", f"{folder}/net.engine", f"{folder}/nets.py:make"]) == 0
    assert capsys.readouterr().out == "the engine agrees with the model\n"
    assert main(["verify", f"{folder}/net.engine", f"{folder}/nets.py:other"]) == 1
    text = capsys.readouterr().out
    assert "the engine disagrees with the model" in text
    assert "other weights" in text


def test_doctor_names_the_device(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "cpu: " in text


@pytest.mark.parametrize("command", ["convert", "run", "bench", "inspect", "verify", "doctor"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"torch2rt {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["convert", "a:b"]])
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: torch2rt" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_a_missing_engine_is_one_line(command, tmp_path, capsys):
    line = failing(capsys, [command, f"{tmp_path}/none.engine"])
    assert f"{tmp_path}/none.engine" in line


def test_a_corrupted_engine_is_one_line(folder, tmp_path, capsys):
    raw = bytearray((folder / "net.engine").read_bytes())
    raw[len(raw) // 2] ^= 0x10
    (tmp_path / "bad.engine").write_bytes(raw)
    assert "bad.engine: " in failing(capsys, ["run", f"{tmp_path}/bad.engine"])
    (tmp_path / "cut.engine").write_bytes(raw[:100])
    assert "cut.engine: " in failing(capsys, ["inspect", f"{tmp_path}/cut.engine"])
    (tmp_path / "text.engine").write_text("no engine")
    assert "text.engine: " in failing(capsys, ["run", f"{tmp_path}/text.engine"])


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("{folder}/none.py:make", "none.py"),
        ("{folder}/nets.py:gone", "gone"),
        ("{folder}/nets.py:nothing", r"it returned int"),
        ("{folder}/nets.py", "nets.py"),
        ("no_such_package:make", "no_such_package"),
    ],
)
def test_a_bad_factory_is_one_line(where, what, folder, tmp_path, capsys):
    given = where.format(folder=folder)
    line = failing(capsys, ["convert", given, "-o", f"{tmp_path}/m.engine"])
    assert what in line
    assert not (tmp_path / "m.engine").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--precision", "int3"], "precision='int3' is not valid"),
        (["--fallback", "maybe"], "fallback='maybe' is not valid"),
        (["--threads", "0"], "threads=0 is not valid"),
    ],
)
def test_bad_options_are_one_line(options, what, folder, tmp_path, capsys):
    line = failing(capsys, [
        "convert", f"{folder}/nets.py:make", "-o", f"{tmp_path}/m.engine", *options
    ])
    assert what in line
    assert line.count("\n") == 1


def test_fallback_error_lists_the_nodes(folder, tmp_path, capsys):
    text = failing(capsys, [
        "convert", f"{folder}/nets.py:odd", "-o", f"{tmp_path}/m.engine", "--fallback", "error"
    ])
    assert "special_i0" in text
    assert "nets.py:" in text


def test_an_output_that_cannot_be_written_is_one_line(folder, capsys):
    line = failing(capsys, [
        "convert", f"{folder}/nets.py:make", "-o", f"{folder}/no/such/folder/m.engine",
        "--threads", "1", "--timing-cache", f"{folder}/t.jsonl", "--no-verify",
    ])
    assert "no/such/folder" in line


@pytest.mark.parametrize("given", ["x", "x=none.npy", "y={folder}/x.npy", "x={folder}/wrong.npy",
                                   "x={folder}/nets.py", "x={folder}/two.npz"])
def test_a_bad_input_file_is_one_line(given, folder, capsys):
    np.save(folder / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    np.save(folder / "wrong.npy", np.zeros((2, 3, 8, 9), np.float32))
    np.savez(folder / "two.npz", a=np.zeros(2), b=np.zeros(2))
    line = failing(capsys, ["run", f"{folder}/net.engine", "--input", given.format(folder=folder)])
    assert line.count("\n") == 1


def test_verbose_shows_where_it_came_from(tmp_path):
    with pytest.raises(torch2rt.errors.EngineFileError):
        main(["-v", "run", f"{tmp_path}/none.engine"])


def test_it_runs_as_a_module(folder):
    done = subprocess.run(
        [sys.executable, "-m", "torch2rt.cli", "run", f"{folder}/net.engine"],
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "output: float32[2, 5]" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "torch2rt", "run", f"{folder}/none.engine"],
        capture_output=True, text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("torch2rt: ")
    assert "Traceback" not in done.stderr


def test_int8_takes_a_loader_and_writes_a_table_that_gives_the_same_engine(folder, capsys):
    table = folder / "table.json"
    nets, cache = f"{folder}/nets.py", f"{folder}/t.jsonl"
    command = ["convert", f"{nets}:other", "--precision", "int8", "--threads", "1",
               "--timing-cache", cache]
    assert main([*command, "-o", f"{folder}/a.engine", "--calibration", f"{nets}:batches",
                 "--calibration-method", "mse", "--save-calibration", str(table)]) == 0
    assert json.loads(table.read_text())["samples"] == 12
    assert main([*command, "-o", f"{folder}/b.engine", "--calibration", str(table)]) == 0
    assert (folder / "a.engine").read_bytes() == (folder / "b.engine").read_bytes()
    capsys.readouterr()
    assert main([*command, "-o", f"{folder}/c.engine"]) == 1
    assert "needs the ranges of tensors" in capsys.readouterr().err
    assert main([*command, "-o", f"{folder}/c.engine", "--calibration", "json:__name__"]) == 1
    assert "calibration='json:__name__' is not valid" in capsys.readouterr().err


def test_auto_takes_a_metric_and_a_budget(folder, capsys):
    nets = f"{folder}/nets.py"
    command = ["convert", f"{nets}:other", "--precision", "auto", "--threads", "1",
               "--timing-cache", f"{folder}/t.jsonl", "--calibration", f"{nets}:batches",
               "-o", f"{folder}/auto.engine"]
    assert main([*command, "--metric", f"{nets}:score", "--max-drop", "0.1", "--report",
                 f"{folder}/auto.txt"]) == 0
    report = (folder / "auto.txt").read_text()
    assert "the metric of the model is 1 on 4 samples held out, and may be 0.9" in report
    assert "(chosen" in report
    capsys.readouterr()
    assert main([*command, "--metric", f"{nets}:none"]) == 1
    assert "has no 'none'" in capsys.readouterr().err
