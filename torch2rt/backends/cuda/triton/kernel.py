"""Triton kernels, compiled ahead: a program becomes a blob, a blob a kernel.

Loading needs no Triton. A blob is 8 bytes that count the header's, the header (JSON: what a launch
must know), the cubin.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch2rt.backends.cuda.device import Kernel, current_device
from torch2rt.backends.cuda.launch import I32, I64, Argument, Launch
from torch2rt.backends.cuda.triton.tensor_map import Box, Matrix, encoded_map
from torch2rt.backends.tactic import Job, Unprepared, Weights
from torch2rt.kernels.triton import source

Value: TypeAlias = "int | float | bool | str | None"

# Triton numbers two element types otherwise than the driver: bfloat16 and float64.
_DRIVER_ELEMENT = {8: 10, 9: 8, 10: 9}


@dataclass(frozen=True)
class Program:
    """A Triton kernel and all that its code depends on.

    ``source``: the text of a module that defines ``name``. ``parameters``: name and type in
    order: ``*fp16``, ``i32``, ``tensordesc<fp16[64, 64]>``, or ``constexpr`` for a name in
    ``constants``. ``divisors``: powers of two, 16 at most, that parameters are multiples of.
    """

    name: str
    source: str
    parameters: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Value], ...]
    divisors: tuple[tuple[str, int], ...]
    warps: int
    stages: int

    @property
    def digest(self) -> str:
        """Equal for programs that compile to the same code."""
        text = repr((
            self.name, self.source, source("common"), self.parameters, self.constants,
            self.divisors, self.warps, self.stages,
        ))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class TritonJob:
    """Compiles a program for a compute capability."""

    program: Program
    capability: tuple[int, int]

    def run(self) -> bytes:
        """The blob. Unprepared when Triton is not installed or refuses."""
        try:
            import triton
        except ImportError as error:
            raise Unprepared(f"Triton cannot be imported ({error}): pip install triton") from error
        with tempfile.TemporaryDirectory(prefix="torch2rt_triton_") as folder:
            with triton.knobs.cache.scope():
                triton.knobs.cache.dir = folder
                return self._compile(Path(folder))

    def _compile(self, folder: Path) -> bytes:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from triton.compiler.errors import CompilationError
        from triton.runtime.errors import OutOfResources, PTXASError

        program = self.program
        function = load_function(program, folder)
        names = [name for name, _ in program.parameters]
        if names != function.arg_names:
            raise ValueError(f"{program.name} takes {function.arg_names}, not {names}")
        tree = ASTSource(
            function, dict(program.parameters), dict(program.constants),
            {(names.index(n),): [["tt.divisibility", d]] for n, d in program.divisors},
        )
        major, minor = self.capability
        try:
            compiled = triton.compile(
                tree, target=GPUTarget("cuda", 10 * major + minor, 32),
                options={"num_warps": program.warps, "num_stages": program.stages},
            )
        except (CompilationError, OutOfResources, PTXASError, RuntimeError) as error:
            raise Unprepared(f"Triton refuses {program.name}: {error}") from error
        return pack_blob(_header(compiled.metadata), compiled.asm["cubin"])


def load_function(program: Program, folder: Path) -> Any:
    """The program's function, from a module written into a folder: Triton reads source files."""
    path = folder / f"torch2rt_{program.name}_{program.digest}.py"
    path.write_text(program.source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return vars(module)[program.name]


def _header(metadata: Any) -> dict[str, Any]:
    scratch = metadata.global_scratch_size + metadata.profile_scratch_size
    if scratch or metadata.num_ctas != 1:
        raise Unprepared(
            f"{metadata.name} wants {scratch} bytes of scratch and clusters of {metadata.num_ctas}"
        )
    return {
        "name": metadata.name,
        "warps": metadata.num_warps,
        "shared_bytes": metadata.shared,
        "maps": [
            {
                "element": _DRIVER_ELEMENT.get(entry["elem_type"], entry["elem_type"]),
                "itemsize_bytes": entry["elem_size"],
                "swizzle": entry["swizzle"],
                "shape": list(entry["block_size"]),
            }
            for entry in metadata.tensordesc_meta or ()
        ],
    }


def pack_blob(header: dict[str, Any], image: bytes) -> bytes:
    """Header and image in one piece."""
    text = json.dumps(header, sort_keys=True).encode()
    return len(text).to_bytes(8, "little") + text + image


def unpack_blob(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `pack_blob`. ValueError for what it did not make."""
    length = int.from_bytes(blob[:8], "little")
    if not 0 < length <= len(blob) - 8:
        raise ValueError(f"not a compiled Triton kernel: {len(blob)} bytes, header of {length}")
    header = json.loads(blob[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("not a compiled Triton kernel: its header is no table")
    return header, blob[8 + length :]


@dataclass(frozen=True)
class TritonKernel:
    """A loaded kernel, and what its launches must give it."""

    kernel: Kernel
    warps: int
    shared_bytes: int
    maps: tuple[Box, ...]

    def launch(
        self, grid: tuple[int, int, int], arguments: Sequence[Argument | Matrix],
        overlaps: bool,
    ) -> Launch:
        """A launch with the arguments of the parameters that are not constants, in order.

        A tensor map is passed with the sizes and strides it was made of; two addresses of scratch
        memory, which our kernels do without, come last.
        """
        boxes = iter(self.maps)
        values: list[Argument] = []
        for argument in arguments:
            if isinstance(argument, Matrix):
                values.append(encoded_map(argument, next(boxes)))
                values += [I32(size) for size in argument.shape]
                values += [I64(stride) for stride in argument.strides]
            else:
                values.append(argument)
        values += [I64(0), I64(0)]
        return Launch(
            self.kernel, grid, (32 * self.warps, 1, 1), values, self.shared_bytes, overlaps
        )


def triton_kernel(weights: Weights, program: Program, job: Job | None = None) -> TritonKernel:
    """The program for the current device, compiled once. Unprepared when Triton refuses.

    ``job`` makes the blob instead of compiling the program.
    """
    device = current_device()
    key = f"triton/{device.arch}/{program.name}/{program.digest}"
    blob = weights.blob(key, job or TritonJob(program, device.capability))

    def load() -> TritonKernel:
        header, image = unpack_blob(blob)
        shared_bytes = int(header["shared_bytes"])
        if shared_bytes > device.shared_bytes:
            raise Unprepared(
                f"{program.name} wants {shared_bytes} bytes of shared memory; a block of this "
                f"device has {device.shared_bytes}"
            )
        kernel = device.load(image, str(header["name"]), shared_bytes)
        boxes = tuple(
            Box(int(m["element"]), int(m["itemsize_bytes"]), int(m["swizzle"]), tuple(m["shape"]))
            for m in header["maps"]
        )
        return TritonKernel(kernel, int(header["warps"]), shared_bytes, boxes)

    kernel: TritonKernel = weights.packed(("triton", key), load)
    return kernel
