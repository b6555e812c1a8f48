"""Kernels of our own, one file per tactic: ``cuda`` (CUDA C++ through NVRTC) and ``triton``.

The folder is installed as ``torch2rt.kernels``.
"""
