"""What an engine file keeps, how it is written and read, and who else can read it."""

import dataclasses
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from torch2rt.engine.file import EngineFile, from_bytes, read, to_bytes, write
from torch2rt.errors import EngineFileError
from torch2rt.network.dtype import DType

SHAPES = [(), (0,), (1,), (3, 0, 2), (5, 7), (2, 3, 4, 5), (64,)]


def constants(seed: int = 0) -> dict[str, tuple[DType, np.ndarray]]:
    """An array of random bits per dtype and shape."""
    rng = np.random.default_rng(seed)
    made = {}
    for dtype in DType:
        for shape in SHAPES:
            count = int(np.prod(shape)) * dtype.itemsize_bytes
            top = 2 if dtype is DType.BOOL else 256
            bits = rng.integers(0, top, count, dtype=np.uint8)
            made[f"{dtype.value} {shape}"] = (dtype, bits.view(dtype.numpy).reshape(shape))
    return made


def sample(seed: int = 0) -> EngineFile:
    """An engine file with something in every field."""
    made = constants(seed)
    return EngineFile(
        network_text=f'input x: float32[1,3]\n"quoted" \\ back, tab\t, zero \x00, é 漢 🙂 {seed}\n',
        plans=({"b": [1, 2.5, None, True], "a": {"deep": [[[]]]}}, {"symbols": {"n": 2**60}}),
        constants={name: array for name, (_, array) in made.items()},
        dtypes={name: dtype for name, (dtype, _) in made.items()},
        precision="bf16",
        device="cpu",
        calls={"z": [], "a": {"kind": "tuple"}},
        origins={"conv1": [["model.conv1", "model.py:3"], ["model.bn1", ""]], "add": []},
        report={"fused": 3, "why not": "shared weight 🙂", "file": "C:\\udon\\ud800"},
        environment={"torch": "2.13.0", "cpu": "avx512"},
        calibration={"x": 1.5},
        blobs={"kernel": bytes(range(256)), "empty": b""},
    )


def assert_same(left: EngineFile, right: EngineFile) -> None:
    for field in dataclasses.fields(EngineFile):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if field.name != "constants":
            assert a == b, field.name
            continue
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype, name
            assert a[name].shape == b[name].shape, name
            assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EngineFile)])
def test_the_comparison_used_here_sees_a_difference_in_every_field(field: str) -> None:
    value = getattr(sample(), field)
    other = sample(1).constants if field == "constants" else type(value)()
    with pytest.raises(AssertionError):
        assert_same(sample(), dataclasses.replace(sample(), **{field: other}))


def test_everything_comes_back_from_a_file_and_from_bytes(tmp_path: Path) -> None:
    write(tmp_path / "e.engine", sample())
    assert_same(read(tmp_path / "e.engine"), sample())
    assert_same(from_bytes(to_bytes(sample())), sample())
    assert (tmp_path / "e.engine").read_bytes() == to_bytes(sample())


def test_an_engine_without_anything_comes_back() -> None:
    empty = EngineFile("", (), {}, {}, "fp32", "cpu")
    assert_same(from_bytes(to_bytes(empty)), empty)


def test_the_order_of_json_keys_is_kept() -> None:
    back = from_bytes(to_bytes(sample()))
    assert list(back.plans[0]) == ["b", "a"]
    assert list(back.origins) == ["conv1", "add"]


def test_same_content_gives_the_same_bytes() -> None:
    shuffled = dataclasses.replace(
        sample(),
        constants=dict(reversed(sample().constants.items())),
        dtypes=dict(reversed(sample().dtypes.items())),
        blobs=dict(reversed(sample().blobs.items())),
    )
    assert to_bytes(shuffled) == to_bytes(sample()) == to_bytes(from_bytes(to_bytes(sample())))
    assert to_bytes(sample(1)) != to_bytes(sample())


def test_arrays_in_any_memory_order_are_stored_row_major() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for strided in (np.asfortranarray(array), array[:, ::-1], array.T, array[1:, :, ::2]):
        engine = EngineFile("", (), {"w": strided}, {"w": DType.FLOAT32}, "fp32", "cpu")
        np.testing.assert_array_equal(from_bytes(to_bytes(engine)).constants["w"], strided)


@pytest.mark.parametrize("shift", [0, 1, 16])
def test_constants_are_aligned_read_only_views(tmp_path: Path, shift: int) -> None:
    write(tmp_path / "e", sample())
    raw = np.frombuffer(b"\0" * shift + to_bytes(sample()), np.uint8)[shift:]
    for engine in (read(tmp_path / "e"), from_bytes(raw.data)):
        for name, array in engine.constants.items():
            assert not array.flags.writeable, name
            assert not array.flags.owndata, name
            assert array.ctypes.data % 64 == 0, name


def test_safetensors_itself_reads_the_file(tmp_path: Path) -> None:
    write(tmp_path / "e", sample())
    with safe_open(tmp_path / "e", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    assert metadata["network"] == sample().network_text
    assert metadata["precision"] == "bf16"
    for name, (dtype, array) in constants().items():
        tensor = tensors.pop(f"constants/{name}")
        assert tensor.dtype == getattr(torch, dtype.value)
        assert tuple(tensor.shape) == array.shape
        assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()
    assert tensors.pop("blobs/kernel").numpy().tobytes() == bytes(range(256))
    assert tensors.pop("blobs/empty").numel() == 0
    assert all(name.startswith("padding/") and not t.any() for name, t in tensors.items())


def test_it_loads_without_torch(tmp_path: Path) -> None:
    write(tmp_path / "e", sample())
    code = (
        "import sys; from torch2rt.engine.file import read; read(sys.argv[1]); "
        "print(sorted({'torch', 'safetensors', 'pickle5', 'tempfile'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == "[]"


# ---- writing ------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "e", sample())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineFileError, match=r"e: it cannot be written \(No space left"):
        write(tmp_path / "e", sample(1))
    assert_same(read(tmp_path / "e"), sample())
    assert os.listdir(tmp_path) == ["e"]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "e", sample())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "it is a folder"),
        ("", "it is a folder"),
        ("missing/e", "its folder does not exist"),
        ("file/e", "its folder does not exist"),
        ("e" * 300, "File name too long"),
        ("e\0e", "null"),
    ],
)
def test_places_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(EngineFileError, match=f"cannot be written .*{reason}.*Give the name of"):
        write(name, sample())
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_written_through_and_stays(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "e")
    write(tmp_path / "link", sample())
    assert (tmp_path / "link").is_symlink()
    assert_same(read(tmp_path / "deep" / "e"), sample())


def test_the_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "e", sample())
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "e").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_loaded_engine_outlives_its_file(tmp_path: Path) -> None:
    write(tmp_path / "e", sample())
    engine = read(tmp_path / "e")
    write(tmp_path / "e", sample(1))
    assert_same(engine, sample())
    (tmp_path / "e").unlink()
    assert_same(engine, sample())


def test_readers_see_whole_files_while_writers_replace_them(tmp_path: Path) -> None:
    path = tmp_path / "e"
    wanted = [to_bytes(sample(seed)) for seed in range(2)]
    write(path, sample(0))
    failures: list[BaseException] = []

    def repeat(work: Callable[[], None]) -> None:
        try:
            for _ in range(20):
                work()
        except Exception as error:
            failures.append(error)

    def check() -> None:
        assert to_bytes(read(path)) in wanted

    works = [lambda: write(path, sample(0)), lambda: write(path, sample(1)), check, check]
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(tmp_path) == ["e"]


def cyclic() -> dict[str, object]:
    value: dict[str, object] = {}
    value["self"] = value
    return value


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plans": ({"a": {1, 2}},)}, "cannot be written as JSON"),
        ({"calls": cyclic()}, "cannot be written as JSON"),
        ({"calls": nested(101)}, "nested more than 100 deep"),
        ({"calls": nested(100_000)}, "JSON|nested"),
        ({"calls": []}, "field 'calls'"),
        ({"origins": {"conv1": [("a", "b")]}}, "field 'origins'"),
        ({"environment": {"torch": 2}}, "field 'environment'"),
        ({"network_text": "\ud800"}, "UTF-8"),
        ({"dtypes": {}}, "lack a dtype or an array"),
        ({"constants": {"w": np.zeros(2, np.float64)}}, "of float32 is an array of float64"),
        ({"constants": {"w": np.zeros(2, ">f4")}}, "of float32 is an array of >f4"),
        ({"constants": {"w": np.zeros([1] * 40, np.float32)}}, "40 axes"),
    ],
)
def test_content_that_cannot_be_stored(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    small = EngineFile(
        "", (), {"w": np.zeros(2, np.float32)}, {"w": DType.FLOAT32}, "fp32", "cpu"
    )
    with pytest.raises(EngineFileError, match=f"({reason}).*bug of torch2rt"):
        write(tmp_path / "e", dataclasses.replace(small, **change))
    assert os.listdir(tmp_path) == []


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file"),
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("loop", "Too many levels of symbolic links"),
        ("e\0e", "null"),
    ],
)
def test_paths_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    with pytest.raises(EngineFileError, match=f"cannot be read .*{reason}.*Check the path"):
        read(name)


def test_errors_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(to_bytes(sample())[:-1])
    with pytest.raises(EngineFileError, match="truncated") as raised:
        read(tmp_path / "e")
    assert str(raised.value).startswith(f"{tmp_path / 'e'}: ")
    with pytest.raises(EngineFileError, match=r"^engine bytes: "):
        from_bytes(b"")
