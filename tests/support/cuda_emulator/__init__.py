"""A GPU on the CPU: kernels in CUDA C++ are compiled by g++ and run with threads as fibers.

It shares the kernels' sources with the real device and nothing else. It checks what hardware
leaves undefined: divergent barriers, lanes that never arrive, misaligned vectors, launches that
exceed a limit, kernels that should wait for their predecessor and do not.
"""

from cuda_emulator.device import EmulatedDevice

__all__ = ["EmulatedDevice"]
