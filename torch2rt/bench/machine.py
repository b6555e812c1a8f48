"""The machine card: what a timing must be read with. Nothing here needs a privilege."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from torch2rt import __version__

# Instruction sets that decide which kernels the libraries pick.
FLAGS_OF_INTEREST = (
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
LIBRARIES = (
    "torch2rt",
    "torch",
    "numpy",
    "onednn-cpu-gomp",
    "onnxruntime",
    "openvino",
    "onnx",
    "onnxscript",
    "torchvision",
    "transformers",
    "timm",
    "triton",
    "cupy-cuda13x",
    "nvidia-cudnn-frontend",
    "nvidia-cudnn-cu13",
    "nvidia-cublas",
    "nvidia-cuda-nvrtc",
)
# What nvidia-smi is asked for, and what the card calls it.
_GPU_FIELDS = {
    "name": "",
    "driver_version": "driver",
    "memory.total": "memory",
    "clocks.max.sm": "sm clock at most",
    "clocks.sm": "now",
    "clocks.mem": "memory clock",
    "power.limit": "power limit",
    "temperature.gpu": "degrees",
}
NOT_INSTALLED = "not installed"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MachineCard:
    """The facts in reading order: ``facts["cpu"]``, ``facts["onnxruntime"]``, ..."""

    facts: Mapping[str, str]

    def lines(self) -> list[str]:
        """One ``key: value`` line per fact."""
        return [f"{key}: {value}" for key, value in self.facts.items()]


def machine_card() -> MachineCard:
    """Describe this machine and the libraries installed beside this Python."""
    facts = {
        "cpu": _cpu_model(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "flags": " ".join(_cpu_flags()) or UNKNOWN,
        "governor": _read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "huge pages": _read_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "memory": _memory(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "os": f"{platform.system()} {platform.release()} ({platform.libc_ver()[1] or 'libc ?'})",
        "python": f"{platform.python_version()} {sys.implementation.name}",
    }
    facts.update(_gpu_facts())
    facts.update({name: library_version(name) for name in LIBRARIES})
    return MachineCard(facts)


def _gpu_facts() -> dict[str, str]:
    """What ``nvidia-smi`` tells of each GPU; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    facts = {}
    for index, line in enumerate(done.stdout.splitlines()):
        values = [value.strip() for value in line.split(",")]
        told = (
            f"{name} {value}".lstrip()
            for name, value in zip(_GPU_FIELDS.values(), values, strict=False)
        )
        facts[f"gpu {index}"] = ", ".join(told)
    return facts


def usable_cores() -> int:
    """Cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def library_version(distribution: str) -> str:
    """The installed version, or "not installed". This package may run from its sources."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return f"{__version__}, not installed" if distribution == "torch2rt" else NOT_INSTALLED


def busy_seconds() -> float | None:
    """Processor seconds all cores together have spent not idle since boot; None if unreadable.

    Time stolen by a hypervisor counts as busy: it is just as lost to the one being measured.
    """
    line = _read_line("/proc/stat")
    if line == UNKNOWN:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_info(*keys: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _cpu_model() -> str:
    name = _cpu_info("model name", "CPU part") or platform.processor() or platform.machine()
    family, model = _cpu_info("cpu family"), _cpu_info("model")
    return f"{name} (family {family} model {model})" if family else name


def _cpu_flags() -> list[str]:
    present = set(_cpu_info("flags", "Features").split())
    return [flag for flag in FLAGS_OF_INTEREST if flag in present]


def _memory() -> str:
    for line in _read_lines("/proc/meminfo"):
        key, _, value = line.partition(":")
        if key == "MemTotal":
            return f"{int(value.split()[0]) / 2**20:.1f} GiB"
    return UNKNOWN


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _read_line(path: str) -> str:
    lines = _read_lines(path)
    return lines[0].strip() if lines else UNKNOWN
